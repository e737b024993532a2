#include <fmt/format.h>

#include <cstring>

#include "io/gguf_file.h"
#include "io/json_lexer.h"
#include "metal_candle/error.hpp"

namespace metal_candle {
namespace {

using Type = GgufValue::Type;

template <class T>
T read(const std::byte* data, std::size_t index = 0) {
  T value;
  std::memcpy(&value, data + index * sizeof value, sizeof value);
  return value;
}

bool is_integer(Type type) { return type <= Type::i32 || type == Type::u64 || type == Type::i64; }
bool is_real(Type type) { return type == Type::f32 || type == Type::f64; }

/// Walks the strings of an array that has been checked.
template <class F>
void each_string(const std::byte* data, std::size_t count, F&& f) {
  for (std::size_t i = 0; i < count; ++i) {
    const auto length = static_cast<std::size_t>(read<std::uint64_t>(data));
    f(std::string_view(reinterpret_cast<const char*>(data + 8), length));
    data += 8 + length;
  }
}

}  // namespace

void GgufValue::fail(std::string_view expected) const {
  throw FileError(FileFault::bad, *file_, std::string(key_), std::string(expected), shown());
}

std::string GgufValue::shown() const {
  if (is_array()) return fmt::format("an array of {} {}s", count_, name(element_));
  if (is_string()) return "the string " + io::in_quotes(as_string());
  return fmt::format("{} ({})", json().dump(), name(type_));
}

/// Of a checked integer type; u64 beyond i64 is the caller's business.
std::int64_t GgufValue::integer_at(std::size_t i) const {
  switch (element_) {
    case Type::u8: return read<std::uint8_t>(data_, i);
    case Type::i8: return read<std::int8_t>(data_, i);
    case Type::u16: return read<std::uint16_t>(data_, i);
    case Type::i16: return read<std::int16_t>(data_, i);
    case Type::u32: return read<std::uint32_t>(data_, i);
    case Type::i32: return read<std::int32_t>(data_, i);
    default: return read<std::int64_t>(data_, i);
  }
}

double GgufValue::real_at(std::size_t i) const {
  if (element_ == Type::f32) return static_cast<double>(read<float>(data_, i));
  if (element_ == Type::f64) return read<double>(data_, i);
  if (element_ == Type::u64) return static_cast<double>(read<std::uint64_t>(data_, i));
  return static_cast<double>(integer_at(i));
}

bool GgufValue::as_bool() const {
  if (type_ != Type::boolean) fail("a bool");
  return read<std::uint8_t>(data_) != 0;
}

std::int64_t GgufValue::as_int64() const {
  if (!is_integer(type_)) fail("an integer");
  if (type_ == Type::u64 && read<std::uint64_t>(data_) >> 63 != 0) fail("an integer below 2^63");
  return integer_at(0);
}

std::uint64_t GgufValue::as_uint64() const {
  if (!is_integer(type_) || (type_ != Type::u64 && integer_at(0) < 0)) fail("an integer of 0 or more");
  return static_cast<std::uint64_t>(integer_at(0));
}

std::int64_t GgufValue::as_int(std::int64_t least, std::int64_t most) const {
  const std::int64_t value = as_int64();
  if (value < least || value > most) fail(fmt::format("an integer from {} to {}", least, most));
  return value;
}

double GgufValue::as_double() const {
  if (!is_integer(type_) && !is_real(type_)) fail("a number");
  return real_at(0);
}

std::string_view GgufValue::as_string() const {
  if (type_ != Type::string) fail("a string");
  return {reinterpret_cast<const char*>(data_), count_};
}

GgufValue::Type GgufValue::element_type() const {
  if (!is_array()) fail("an array");
  return element_;
}

std::vector<std::string_view> GgufValue::strings() const {
  if (!is_array() || element_ != Type::string) fail("an array of strings");
  std::vector<std::string_view> out;
  out.reserve(count_);  // each has eight bytes in the file
  each_string(data_, count_, [&](std::string_view s) { out.push_back(s); });
  return out;
}

std::vector<std::int64_t> GgufValue::integers() const {
  if (!is_array() || !is_integer(element_)) fail("an array of integers");
  std::vector<std::int64_t> out(count_);
  for (std::size_t i = 0; i < count_; ++i) {
    out[i] = integer_at(i);
    if (element_ == Type::u64 && out[i] < 0) fail("integers below 2^63");
  }
  return out;
}

std::vector<double> GgufValue::reals() const {
  if (!is_array() || (!is_integer(element_) && !is_real(element_))) fail("an array of numbers");
  std::vector<double> out(count_);
  for (std::size_t i = 0; i < count_; ++i) out[i] = real_at(i);
  return out;
}

std::vector<bool> GgufValue::booleans() const {
  if (!is_array() || element_ != Type::boolean) fail("an array of bools");
  std::vector<bool> out(count_);
  for (std::size_t i = 0; i < count_; ++i) out[i] = data_[i] != std::byte{0};
  return out;
}

Json GgufValue::json() const {
  if (is_string()) return as_string();
  if (is_array() && element_ == Type::string) {
    Json out = Json::array();
    each_string(data_, count_, [&](std::string_view s) { out.push_back(s); });
    return out;
  }
  const auto one = [&](std::size_t i) -> Json {
    if (element_ == Type::boolean) return data_[i] != std::byte{0};
    if (element_ == Type::u64) return read<std::uint64_t>(data_, i);
    if (is_real(element_)) return real_at(i);
    return integer_at(i);
  };
  if (!is_array()) return one(0);
  Json out = Json::array();
  for (std::size_t i = 0; i < count_; ++i) out.push_back(one(i));
  return out;
}

}  // namespace metal_candle
