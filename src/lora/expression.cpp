#include "lora/expression.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <memory>
#include <new>

#include "metal_candle/error.hpp"

namespace metal_candle::lora {
namespace {

constexpr std::size_t kMaxExpression = 1000;
constexpr std::uint32_t kMaxSteps = 1'000'000;

template <auto kFree>
struct Freed {
  template <class T>
  void operator()(T* p) const {
    kFree(p);
  }
};
using Code = std::unique_ptr<pcre2_code, Freed<pcre2_code_free>>;

// \u005f is Python's, too. The rest of the two dialects that matters for names is one.
Code compiled(const std::string& expression) {
  if (expression.size() > kMaxExpression)
    throw UserError(ErrorKind::argument, fmt::format("a module pattern of {} bytes; at most {} are read",
                                                     expression.size(), kMaxExpression));
  int error = 0;
  PCRE2_SIZE where = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                          PCRE2_UTF | PCRE2_UCP | PCRE2_ALT_BSUX | PCRE2_NEVER_BACKSLASH_C, &error, &where, nullptr));
  if (!code) throw UserError(ErrorKind::argument, "the module pattern \"" + expression + "\" is no regular expression");
  return code;
}

}  // namespace

void check_expression(const std::string& expression) { compiled(expression); }

bool matches(const std::string& expression, std::string_view name) {
  const Code code = compiled(expression);
  const std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>> context(
      pcre2_match_context_create(nullptr));
  const std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>> data(pcre2_match_data_create(1, nullptr));
  if (!context || !data) throw std::bad_alloc();
  pcre2_set_match_limit(context.get(), kMaxSteps);
  const int rc = pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0,
                             PCRE2_ANCHORED | PCRE2_ENDANCHORED, data.get(), context.get());
  if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
    throw UserError(ErrorKind::argument, "the module pattern \"" + expression + "\" takes too long to match");
  return rc >= 0;
}

}  // namespace metal_candle::lora
