// Scanners for the split patterns of the common byte-level tokenizers. Their matches cover every text without gaps.
#pragma once

#include <cstddef>
#include <string_view>

namespace metal_candle::io::tok {

/// End of the match that begins at `at`, which is below `end` (the text's end, for look-ahead too).
using Scanner = std::size_t (*)(const char* s, std::size_t at, std::size_t end);

std::size_t scan_gpt2(const char* s, std::size_t at, std::size_t end);
std::size_t scan_qwen2(const char* s, std::size_t at, std::size_t end);
std::size_t scan_llama3(const char* s, std::size_t at, std::size_t end);

extern const char* const kGpt2Pattern;
extern const char* const kQwen2Pattern;
extern const char* const kLlama3Pattern;

/// Null if there is no scanner for the expression.
Scanner find_scanner(std::string_view expression);

}  // namespace metal_candle::io::tok
