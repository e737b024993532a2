#include "io/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "metal_candle/error.hpp"

namespace metal_candle::io::tok {
namespace {

class Literal final : public Pattern {
 public:
  explicit Literal(std::string text) : text_(std::move(text)) {}
  bool find(std::string_view text, std::size_t from, Range& match) const override {
    const std::size_t at = text.find(text_, from);
    if (at == std::string_view::npos) return false;
    match = {static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(at + text_.size())};
    return true;
  }

 private:
  std::string text_;
};

class Scanned final : public Pattern {
 public:
  explicit Scanned(Scanner scanner) : scanner_(scanner) {}
  bool find(std::string_view text, std::size_t from, Range& match) const override {
    if (from >= text.size()) return false;
    const std::size_t end = scanner_(text.data(), from, text.size());
    match = {static_cast<std::uint32_t>(from), static_cast<std::uint32_t>(end)};
    return true;
  }
  Scanner scanner() const override { return scanner_; }

 private:
  Scanner scanner_;
};

template <auto kFree>
struct Freed {
  template <class T>
  void operator()(T* p) const {
    kFree(p);
  }
};
using Code = std::unique_ptr<pcre2_code, Freed<pcre2_code_free>>;

/// What one thread needs to match, whatever the expression.
struct MatchSpace {
  std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>> context{pcre2_match_context_create(nullptr)};
  std::unique_ptr<pcre2_jit_stack, Freed<pcre2_jit_stack_free>> stack{
      pcre2_jit_stack_create(32 << 10, 16 << 20, nullptr)};
  std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>> data{pcre2_match_data_create(1, nullptr)};
  MatchSpace() {
    if (!context || !data) throw std::bad_alloc();
    if (stack) pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
    pcre2_set_match_limit(context.get(), 20'000'000);
  }
};

std::string pcre_message(int code) {
  PCRE2_UCHAR buffer[160];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

class Regex final : public Pattern {
 public:
  explicit Regex(const std::string& expression) : expression_(expression) {
    const std::string translated = translate_regex(expression);
    std::unique_ptr<pcre2_compile_context, Freed<pcre2_compile_context_free>> context(
        pcre2_compile_context_create(nullptr));
    if (!context) throw std::bad_alloc();
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE where = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &where,
                              context.get()));
    if (!code_) throw PatternError(pcre_message(error));
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // without, it is interpreted
  }

  bool find(std::string_view text, std::size_t from, Range& match) const override {
    thread_local MatchSpace space;
    const int rc = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                               PCRE2_NO_UTF_CHECK, space.data.get(), space.context.get());
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    if (rc < 0)
      throw UserError(ErrorKind::argument, "the pattern " + expression_ + " fails on this text: " + pcre_message(rc));
    const PCRE2_SIZE* at = pcre2_get_ovector_pointer(space.data.get());
    match = {static_cast<std::uint32_t>(at[0]), static_cast<std::uint32_t>(at[1])};
    return true;
  }

 private:
  std::string expression_;
  Code code_;
};

}  // namespace

std::shared_ptr<const Pattern> make_literal(std::string text) { return std::make_shared<Literal>(std::move(text)); }

std::shared_ptr<const Pattern> make_regex(const std::string& expression) {
  if (const Scanner scanner = find_scanner(expression)) return std::make_shared<Scanned>(scanner);
  return std::make_shared<Regex>(expression);
}

bool Matches::next(Range& match) {
  while (from_ <= text_.size() && pattern_.find(text_, from_, match)) {
    if (match.begin == match.end && match.end == last_end_) {
      from_ += from_ < text_.size() ? utf8_length(text_[from_]) : 1;
      continue;
    }
    from_ = last_end_ = match.end;
    return true;
  }
  return false;
}

}  // namespace metal_candle::io::tok
