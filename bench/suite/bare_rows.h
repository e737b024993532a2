// What rows of f32 can reach on this machine with nothing around them: the work of the sections `rows` and `row_programs`.
#pragma once

#include <functional>
#include <string>

namespace bench {

/// The work of the row of that name as one loop written by hand for AVX-512, on the team's threads. The next row is asked
/// for while a row is stored; where the arithmetic takes long (softmax) the last stage of a row runs in turns with the
/// first ones of the next. 256 pieces of 32 rows, as the library cuts; rows of 1024 stay in the caches. Results of the
/// large ones have been compared with sums in double. Empty for other work, and on other processors.
std::function<void()> bare_rows(const std::string& name);

}  // namespace bench
