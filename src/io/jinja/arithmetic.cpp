// + - * / // % ** of numbers, texts and sequences.
#include <cmath>
#include <limits>

#include "io/jinja/budget.h"
#include "io/jinja/operations.h"
#include "io/jinja/printf.h"
#include "io/jinja/repr.h"

namespace metal_candle::jinja {

namespace {

constexpr const char* kSymbols[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

[[noreturn]] void fail_operands(Operator op, const Value& a, const Value& b) {
  fail_type("unsupported operand type(s) for " + std::string(kSymbols[static_cast<int>(op)]) + ": '" + type_name(a) +
            "' and '" + type_name(b) + "'");
}

[[noreturn]] void fail_zero() { fail(Reason::value, "division by zero"); }

std::int64_t checked(bool overflow, std::int64_t result) {
  if (overflow) fail(Reason::limit, "an integer does not fit in 64 bits");
  return result;
}

std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
  if (b == 0) fail_zero();
  if (b == -1) {
    std::int64_t r;
    const bool overflow = __builtin_sub_overflow(std::int64_t{0}, a, &r);
    return checked(overflow, r);
  }
  return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

Value power(std::int64_t base, std::int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) fail(Reason::value, "0.0 cannot be raised to a negative power");
    return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  }
  std::int64_t result = 1;
  bool overflow = false;
  while (exponent > 0) {
    if (exponent & 1) overflow |= __builtin_mul_overflow(result, base, &result);
    exponent >>= 1;
    if (exponent > 0 && base != 1 && base != -1 && base != 0) overflow |= __builtin_mul_overflow(base, base, &base);
    else if (base == -1 && exponent > 0) base = 1;
    checked(overflow, result);
  }
  return checked(overflow, result);
}

Value of_ints(Operator op, std::int64_t a, std::int64_t b) {
  std::int64_t r = 0;
  switch (op) {
    case Operator::add: return checked(__builtin_add_overflow(a, b, &r), 0) + r;
    case Operator::subtract: return checked(__builtin_sub_overflow(a, b, &r), 0) + r;
    case Operator::multiply: return checked(__builtin_mul_overflow(a, b, &r), 0) + r;
    case Operator::divide:
      if (b == 0) fail_zero();
      return static_cast<double>(a) / static_cast<double>(b);
    case Operator::floor_divide: return floor_divide(a, b);
    case Operator::modulo:
      if (b == 0) fail_zero();
      if (b == -1) return 0;
      return a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
    case Operator::power: return power(a, b);
  }
  return r;
}

Value of_reals(Operator op, double a, double b) {
  if (b == 0 && (op == Operator::divide || op == Operator::floor_divide || op == Operator::modulo)) fail_zero();
  switch (op) {
    case Operator::add: return a + b;
    case Operator::subtract: return a - b;
    case Operator::multiply: return a * b;
    case Operator::divide: return a / b;
    case Operator::floor_divide:
    case Operator::modulo: {
      double rest = std::fmod(a, b);
      const bool across = rest != 0 && (rest < 0) != (b < 0);
      if (across) rest += b;
      if (op == Operator::modulo) return rest != 0 ? rest : std::copysign(0.0, b);
      const double quotient = std::floor((a - rest) / b + 0.5);  // exact up to rounding, as Python's is
      return quotient;
    }
    case Operator::power:
      if (a == 0 && b < 0) fail(Reason::value, "0.0 cannot be raised to a negative power");
      if (a < 0 && b != std::floor(b)) fail_type("a negative number to a broken power is no real number");
      return std::pow(a, b);
  }
  return a;
}

Value repeat(const Value& subject, std::int64_t times) {
  const auto count = static_cast<std::uint64_t>(std::max<std::int64_t>(times, 0));
  const std::size_t size = subject.is_text() ? subject.text().size() : subject.sequence().items.size();
  if (size != 0 && count > std::numeric_limits<std::uint32_t>::max() / size)
    fail(Reason::limit, "a repetition is too long");
  if (subject.is_text()) {
    spend_text(size * count);
    std::string text;
    text.reserve(size * count);
    for (std::uint64_t i = 0; i < count && size != 0; ++i) text += subject.text();
    return Value(std::move(text), subject.is_markup());
  }
  spend(size * count);
  std::vector<Value> items;
  items.reserve(size * count);
  const auto& once = subject.sequence().items;
  for (std::uint64_t i = 0; i < count && size != 0; ++i) items.insert(items.end(), once.begin(), once.end());
  return subject.sequence().is_tuple() ? Value::tuple(std::move(items)) : Value::list(std::move(items));
}

bool repeatable(const Value& v) {
  return v.is_text() || (v.is_sequence() && v.sequence().has_index() && v.sequence().form != Sequence::Form::range);
}

Value join(const Value& a, const Value& b) {
  if (a.is_text()) {
    if (!b.is_text()) fail_type("can only concatenate str (not \"" + type_name(b) + "\") to str");
    const bool markup = a.is_markup() || b.is_markup();
    std::string left = markup && !a.is_markup() ? escape_html(a.text()) : a.text();
    const std::string right = markup && !b.is_markup() ? escape_html(b.text()) : b.text();
    spend_text(left.size() + right.size());
    return Value(left + right, markup);
  }
  const Sequence& left = a.sequence();
  if (!b.is_sequence() || left.is_tuple() != b.sequence().is_tuple() || !b.sequence().has_index())
    fail_type("can only concatenate " + type_name(a) + " (not \"" + type_name(b) + "\") to " + type_name(a));
  spend(left.items.size() + b.sequence().items.size());
  std::vector<Value> items = left.items;
  items.insert(items.end(), b.sequence().items.begin(), b.sequence().items.end());
  return left.is_tuple() ? Value::tuple(std::move(items)) : Value::list(std::move(items));
}

}  // namespace

Value binary(Operator op, const Value& a, const Value& b) {
  if (op == Operator::modulo && a.is_text()) return printf_format(a, b);
  require_defined(a);
  require_defined(b);
  if (a.is_whole() && b.is_whole()) return of_ints(op, a.whole(), b.whole());
  if (a.is_number() && b.is_number()) return of_reals(op, a.real(), b.real());
  if (op == Operator::add && repeatable(a)) return join(a, b);
  if (op == Operator::multiply) {
    if (repeatable(a) && b.is_whole()) return repeat(a, b.whole());
    if (a.is_whole() && repeatable(b)) return repeat(b, a.whole());
    if (repeatable(a) || repeatable(b))
      fail_type("can't multiply sequence by non-int of type '" + type_name(repeatable(a) ? b : a) + "'");
  }
  fail_operands(op, a, b);
}

Value negative(const Value& v) {
  require_defined(v);
  if (v.kind() == Kind::real) return -v.real();
  if (v.is_whole()) return of_ints(Operator::subtract, 0, v.whole());
  fail_type("bad operand type for unary -: '" + type_name(v) + "'");
}

Value positive(const Value& v) {
  require_defined(v);
  if (v.kind() == Kind::real) return v;
  if (v.is_whole()) return v.whole();
  fail_type("bad operand type for unary +: '" + type_name(v) + "'");
}

}  // namespace metal_candle::jinja
