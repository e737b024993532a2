#include "io/tokenizer/scanners.h"

#include "io/tokenizer/unicode.h"
#include "io/tokenizer/utf8.h"

namespace metal_candle::io::tok {
namespace {

// Classes of characters as in the patterns; what is neither letter, number nor space is 0.
constexpr std::uint32_t kClasses = kLetter | kNumber | kSpace;

class Reader {
 public:
  Reader(const char* s, std::size_t end) : s_(s), end_(end) {}
  bool more(std::size_t at) const { return at < end_; }
  char byte(std::size_t at) const { return at < end_ ? s_[at] : '\0'; }

  std::uint32_t cls(std::size_t at) const {
    const auto b = static_cast<unsigned char>(s_[at]);
    return b < 0x80 ? latin_[b] & kClasses : table_[utf8_at(s_ + at)] & kClasses;
  }
  std::size_t after(std::size_t at) const { return at + utf8_length(s_[at]); }

  /// End of the run of characters of class `c`.
  std::size_t run(std::size_t at, std::uint32_t c) const {
    while (at < end_ && cls(at) == c) at = after(at);
    return at;
  }
  std::size_t newlines(std::size_t at) const {
    while (at < end_ && (s_[at] == '\n' || s_[at] == '\r')) ++at;
    return at;
  }

  /// \s+(?!\S)|\s+ for the white run [at, run_end): its last character is left to what follows, unless it is the only
  /// one.
  std::size_t white(std::size_t at, std::size_t run_end) const {
    if (run_end == end_) return run_end;
    const std::size_t last = utf8_before({s_, run_end}, run_end);
    return last > at ? last : run_end;
  }

 private:
  const char* s_;
  std::size_t end_;
  const CharTable& table_ = CharTable::get();
  const std::uint32_t* latin_ = table_.latin();
};

/// Length of the contraction at `at`, which is an apostrophe; 0 if there is none. A long s is an s where case does not
/// matter.
template <bool kAnyCase>
std::size_t contraction(const Reader& r, std::size_t at) {
  const auto lower = [&r](std::size_t i) {
    const char c = r.byte(i);
    return kAnyCase && c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
  };
  const char a = lower(at + 1);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  const char b = lower(at + 2);
  if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) return 3;
  return kAnyCase && a == '\xC5' && r.byte(at + 2) == '\xBF' ? 3 : 0;
}

template <int kDigits>
std::size_t scan_llama_like(const char* s, std::size_t at, std::size_t end) {
  const Reader r(s, end);
  if (s[at] == '\'') {
    if (const std::size_t n = contraction<true>(r, at)) return at + n;
  }
  const std::uint32_t c = r.cls(at);
  if (c == kLetter) return r.run(at, kLetter);
  std::size_t next = r.after(at);
  if (c == kNumber) {
    for (int i = 1; i < kDigits && r.more(next) && r.cls(next) == kNumber; ++i) next = r.after(next);
    return next;
  }
  if (s[at] != '\r' && s[at] != '\n' && r.more(next)) {
    const std::uint32_t d = r.cls(next);
    if (d == kLetter) return r.run(next, kLetter);
    if (s[at] == ' ' && d == 0) return r.newlines(r.run(next, 0));
  }
  if (c == 0) return r.newlines(r.run(at, 0));
  const std::size_t run_end = r.run(at, kSpace);
  for (std::size_t i = run_end; i > at; --i) {
    if (s[i - 1] == '\n' || s[i - 1] == '\r') return i;
  }
  return r.white(at, run_end);
}

}  // namespace

std::size_t scan_gpt2(const char* s, std::size_t at, std::size_t end) {
  const Reader r(s, end);
  if (s[at] == '\'') {
    if (const std::size_t n = contraction<false>(r, at)) return at + n;
  }
  const std::uint32_t c = r.cls(at);
  if (c != kSpace) return r.run(at, c);
  if (s[at] == ' ' && r.more(at + 1)) {
    const std::uint32_t d = r.cls(at + 1);
    if (d != kSpace) return r.run(at + 1, d);
  }
  return r.white(at, r.run(at, kSpace));
}

std::size_t scan_qwen2(const char* s, std::size_t at, std::size_t end) { return scan_llama_like<1>(s, at, end); }
std::size_t scan_llama3(const char* s, std::size_t at, std::size_t end) { return scan_llama_like<3>(s, at, end); }

const char* const kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const kQwen2Pattern = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
                                  R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char* const kLlama3Pattern = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
                                   R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Scanner find_scanner(std::string_view expression) {
  if (expression == kGpt2Pattern) return scan_gpt2;
  if (expression == kQwen2Pattern) return scan_qwen2;
  if (expression == kLlama3Pattern) return scan_llama3;
  return nullptr;
}

}  // namespace metal_candle::io::tok
