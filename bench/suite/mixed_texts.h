// The texts that sentence embeddings are timed on: of 3 to 240 common words, most of them short.
#pragma once

#include <string>
#include <vector>

namespace bench {

/// The first `count` of them, the same in every run and on every machine: random lengths and words as Python's
/// random.Random(7) draws them, so that a peer's script can make them too.
std::vector<std::string> mixed_texts(int count);

}  // namespace bench
