// Filters about numbers.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "io/jinja/filters.h"
#include "io/jinja/operations.h"
#include "io/jinja/repr.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

/// Digits with single underscores between them, taken out; nothing if they stand elsewhere.
std::optional<std::string> without_underscores(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || i + 1 == text.size() || !std::isalnum(static_cast<unsigned char>(text[i - 1])) ||
               !std::isalnum(static_cast<unsigned char>(text[i + 1]))) {
      return std::nullopt;
    }
  }
  return out;
}

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char small = static_cast<char>(c | 0x20);
  return small >= 'a' && small <= 'z' ? small - 'a' + 10 : 99;
}

/// int(text, base); nothing if the text is no such number.
std::optional<std::int64_t> parse_int(std::string_view text, int base) {
  text = strip(text, Side::both);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  for (auto [prefix, of] : {std::pair{'x', 16}, {'o', 8}, {'b', 2}}) {
    if (text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == prefix && (base == of || base == 0)) {
      text.remove_prefix(2);
      base = of;
      if (text.starts_with('_')) text.remove_prefix(1);
    }
  }
  if (base == 0) base = 10;
  const auto digits = without_underscores(text);
  if (!digits || digits->empty()) return std::nullopt;
  std::int64_t value = 0;
  for (const char c : *digits) {
    if (digit(c) >= base) return std::nullopt;
    if (__builtin_mul_overflow(value, std::int64_t{base}, &value) || __builtin_add_overflow(value, digit(c), &value))
      fail(Reason::limit, "an integer does not fit in 64 bits");
  }
  return negative ? -value : value;
}

/// float(text); nothing if the text is no such number.
std::optional<double> parse_real(std::string_view text) {
  const auto plain = without_underscores(strip(text, Side::both));
  if (!plain || plain->empty()) return std::nullopt;
  std::string_view rest = *plain;
  if (rest[0] == '-' || rest[0] == '+') rest.remove_prefix(1);
  const std::string word = lower(rest);
  const bool named = word == "inf" || word == "infinity" || word == "nan";
  if (!named && rest.find_first_not_of("0123456789.eE+-") != rest.npos) return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(plain->c_str(), &end);
  return end == plain->c_str() + plain->size() ? std::optional(value) : std::nullopt;
}

std::optional<double> to_real(const Value& value) {
  if (value.is_number()) return value.real();
  return value.is_text() ? parse_real(value.text()) : std::nullopt;
}

Value whole(double value) {
  if (!(std::abs(value) < 9.2e18)) fail(Reason::limit, "an integer does not fit in 64 bits");
  return static_cast<std::int64_t>(value);
}

Value as_int(const Value& subject, const Parameters& p) {
  require_defined(subject);
  if (subject.is_whole()) return subject.whole();
  const std::int64_t base = p.whole(1, 10);
  if (subject.is_text() && base >= 0 && base <= 36)
    if (const auto value = parse_int(subject.text(), static_cast<int>(base))) return *value;
  const auto real = to_real(subject);
  if (real && std::isfinite(*real)) return whole(*real);
  return p.has(0) ? *p[0] : Value(0);
}

Value as_float(const Value& subject, const Parameters& p) {
  require_defined(subject);
  if (const auto real = to_real(subject)) return *real;
  return p.has(0) ? *p[0] : Value(0.0);
}

Value absolute(const Value& subject, const Parameters&) {
  require_defined(subject);
  if (subject.kind() == Kind::real) return std::abs(subject.real());
  if (!subject.is_whole()) fail_type("bad operand type for abs(): '" + type_name(subject) + "'");
  return subject.whole() < 0 ? negative(subject) : Value(subject.whole());
}

/// round(value, places) of Python: to even where the decimal stands exactly between.
double round_real(double value, int places) {
  if (!std::isfinite(value)) return value;
  if (places >= 0) return std::strtod(fmt::format("{:.{}f}", value, std::min(places, 340)).c_str(), nullptr);
  const double unit = std::pow(10.0, -places);
  return std::isfinite(unit) ? std::nearbyint(value / unit) * unit : 0.0;
}

Value round_int(std::int64_t value, int places) {
  if (places >= 0) return value;
  if (places < -18) return 0;
  std::int64_t unit = 1;
  for (int i = 0; i < -places; ++i) unit *= 10;
  std::int64_t quotient = value / unit;
  const std::int64_t rest = value % unit, half = unit / 2;
  if (std::abs(rest) > half || (std::abs(rest) == half && quotient % 2 != 0)) quotient += value < 0 ? -1 : 1;
  return binary(Operator::multiply, quotient, unit);
}

Value round(const Value& subject, const Parameters& p) {
  require_defined(subject);
  const int places = static_cast<int>(std::clamp<std::int64_t>(p.whole(0, 0), -400, 400));
  const std::string method = p.text_or(1, "common");
  if (method != "common" && method != "ceil" && method != "floor")
    fail(Reason::value, "method must be common, ceil or floor");
  if (!subject.is_number()) fail_type("type " + type_name(subject) + " doesn't define __round__ method");
  if (method == "common")
    return subject.is_whole() ? round_int(subject.whole(), places) : Value(round_real(subject.real(), places));
  const double unit = std::pow(10.0, places), scaled = subject.real() * unit;
  return (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit;
}

Value file_size(const Value& subject, const Parameters& p) {
  require_defined(subject);
  const auto given = to_real(subject);
  if (!given) fail_type("filesizeformat wants a number, not " + type_name(subject));
  const double bytes = *given, base = p.flag(0, false) ? 1024 : 1000;
  if (bytes == 1) return "1 Byte";
  if (bytes < base) return fmt::format("{} Bytes", static_cast<std::int64_t>(bytes));
  double unit = base;
  for (const char* prefix = "kMGTPEZY";; ++prefix) {
    unit *= base;
    if (bytes < unit || prefix[1] == 0)
      return fmt::format("{:.1f} {}{}", base * bytes / unit, base == 1024 && *prefix == 'k' ? 'K' : *prefix,
                         base == 1024 ? "iB" : "B");
  }
}

constexpr Filter kNumberFilters[] = {
    {"abs", absolute},
    {"filesizeformat", file_size, {"binary"}},
    {"float", as_float, {"default"}},
    {"int", as_int, {"default", "base"}},
    {"round", round, {"precision", "method"}},
};

}  // namespace

std::span<const Filter> number_filters() { return kNumberFilters; }

}  // namespace metal_candle::jinja
