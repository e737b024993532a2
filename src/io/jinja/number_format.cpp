// Numbers as digits, by Python's format specifications.
#include <fmt/format.h>

#include <cmath>
#include <cstdint>

#include "io/jinja/budget.h"
#include "io/jinja/operations.h"
#include "io/jinja/printf.h"
#include "io/jinja/repr.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

std::string whole_digits(std::uint64_t value, char type, bool alternate) {
  switch (type) {
    case 'b': return (alternate ? "0b" : "") + fmt::format("{:b}", value);
    case 'o': return (alternate ? "0o" : "") + fmt::format("{:o}", value);
    case 'x': return (alternate ? "0x" : "") + fmt::format("{:x}", value);
    case 'X': return (alternate ? "0X" : "") + fmt::format("{:X}", value);
    default: return fmt::format("{}", value);
  }
}

std::string real_digits(double value, char type, int precision, bool alternate) {
  if (std::isnan(value)) return type < 'a' ? "NAN" : "nan";
  if (std::isinf(value)) return type < 'a' ? "INF" : "inf";
  int places = precision < 0 ? 6 : precision;
  if (places == 0 && (type | 0x20) == 'g') places = 1;
  std::string format = alternate ? "{:#.{}" : "{:.{}";
  format += type;
  format += '}';
  return fmt::format(fmt::runtime(format), value, places);
}

/// Separators between thousands, in the digits before the point.
std::string grouped(const std::string& body, char separator) {
  std::size_t end = 0;
  while (end < body.size() && body[end] >= '0' && body[end] <= '9') ++end;
  std::string out;
  for (std::size_t i = 0; i < end; ++i) {
    if (i > 0 && (end - i) % 3 == 0) out += separator;
    out += body[i];
  }
  return out + body.substr(end);
}

bool is_real_type(char type) { return type != 0 && std::string_view("eEfFgG%").find(type) != std::string_view::npos; }

std::string real_body(const FormatSpec& spec, double size) {
  if (spec.type == '%') return real_digits(size * 100, 'f', spec.precision, spec.alternate) + "%";
  if (spec.type != 0) return real_digits(size, spec.type, spec.precision, spec.alternate);
  if (spec.precision < 0) return jinja::digits(size);
  std::string body = real_digits(size, 'g', spec.precision, spec.alternate);
  const bool bare = body.find_first_of(".en") == body.npos;
  return bare ? body + ".0" : body;
}

}  // namespace

std::string pad(const FormatSpec& spec, std::string_view sign, std::string body, char default_align) {
  const std::size_t have = sign.size() + code_points(body);
  const std::size_t missing = spec.width > have ? spec.width - have : 0;
  spend_text(body.size() + missing * spec.fill.size());
  const char align = spec.align ? spec.align : default_align;
  const std::size_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  std::string out;
  if (align == '=') out += sign;
  for (std::size_t i = 0; i < left; ++i) out += spec.fill;
  if (align != '=') out += sign;
  out += body;
  for (std::size_t i = left; i < missing; ++i) out += spec.fill;
  return out;
}

std::string format_number(const FormatSpec& spec, const Value& value) {
  const bool as_real = value.kind() == Kind::real || is_real_type(spec.type);
  bool negative = false;
  std::string body;
  if (as_real) {
    const double number = value.real();
    negative = std::signbit(number) && !std::isnan(number);
    body = real_body(spec, std::abs(number));
  } else {
    const std::int64_t number = value.whole();
    negative = number < 0;
    const auto bits = static_cast<std::uint64_t>(number);
    body = whole_digits(negative ? 0 - bits : bits, spec.type, spec.alternate);
  }
  if (spec.comma || spec.underscore) body = grouped(body, spec.comma ? ',' : '_');
  const std::string_view sign = negative ? "-" : spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "";
  return pad(spec, sign, std::move(body), '>');
}

}  // namespace metal_candle::jinja
