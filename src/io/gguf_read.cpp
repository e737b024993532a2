// "GGUF", version, numbers of tensors and values; the values; the tensors' infos; padding; data.
//
// No number of the file leads to an allocation: lists grow as their entries are read, and every entry takes its bytes
// from what is there.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "io/checked.h"
#include "io/gguf_file.h"
#include "io/json_lexer.h"
#include "metal_candle/error.hpp"

namespace metal_candle {
namespace {

constexpr std::uint64_t kMostElements = std::uint64_t{1} << 30;  // of a string or an array
constexpr std::uint64_t kMostKey = 65535, kMostName = 63;
constexpr std::uint32_t kMostAxes = 4;

bool is_utf8(std::string_view text) {
  const char *p = text.data(), *const end = p + text.size();
  while (p < end) {
    const int length = io::utf8_length(p, end);
    if (length == 0) return false;
    p += length;
  }
  return true;
}

/// Positions sorted by key; the position of one that is there twice in `twice`, or -1.
template <class List, class Key>
std::vector<std::uint32_t> sorted(const List& list, Key&& key, std::ptrdiff_t& twice) {
  std::vector<std::uint32_t> order(list.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto key_at = [&](std::uint32_t i) -> std::string_view { return key(list[i]); };
  std::ranges::sort(order, {}, key_at);
  const auto found = std::ranges::adjacent_find(order, {}, key_at);
  twice = found == order.end() ? -1 : static_cast<std::ptrdiff_t>(*found);
  return order;
}

}  // namespace

std::size_t size_of(GgufValue::Type type) {
  constexpr std::size_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kSizes[static_cast<std::size_t>(type)];
}

std::string_view name(GgufValue::Type type) {
  constexpr std::string_view kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                         "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<std::size_t>(type)];
}

void GgufReader::refuse(std::string expected, std::string got) const {
  throw FileError(FileFault::bad, file_.name, place_, std::move(expected), std::move(got));
}

const std::byte* GgufReader::take(std::uint64_t count, const char* what) {
  if (count > left()) refuse(fmt::format("{}, of {} bytes", what, count), fmt::format("the end after {}", left()));
  const std::byte* const data = bytes_.data() + next_;
  next_ += static_cast<std::size_t>(count);
  return data;
}

template <class T>
T GgufReader::number(const char* what) {
  static_assert(std::endian::native == std::endian::little);
  T value;
  std::memcpy(&value, take(sizeof value, what), sizeof value);
  return value;
}

std::string_view GgufReader::string(const char* what) {
  const auto length = number<std::uint64_t>(what);
  if (length > kMostElements) refuse(fmt::format("{} of at most 2^30 bytes", what), fmt::format("{}", length));
  return {reinterpret_cast<const char*>(take(length, what)), static_cast<std::size_t>(length)};
}

void GgufReader::header() {
  const std::byte* const magic = take(4, "the word GGUF");
  if (std::memcmp(magic, "GGUF", 4) != 0)
    refuse("the word GGUF", io::in_quotes({reinterpret_cast<const char*>(magic), 4}));
  const auto version = number<std::uint32_t>("a version");
  if (version != 0 && (version & 0xffffu) == 0) refuse("a little-endian file", "a big-endian one");
  if (version != 2 && version != 3) refuse("version 2 or 3", fmt::format("{}", version));
  tensor_count_ = number<std::uint64_t>("the number of tensors");
  value_count_ = number<std::uint64_t>("the number of values");
  // An entry has at least a length, a type and something more: a count beyond that is refused before the first is read.
  if (tensor_count_ > left() / 24)
    refuse(fmt::format("at most the {} tensors there is room for", left() / 24), fmt::format("{}", tensor_count_));
  if (value_count_ > left() / 13)
    refuse(fmt::format("at most the {} values there is room for", left() / 13), fmt::format("{}", value_count_));
}

GgufValue GgufReader::value() {
  GgufValue out;
  place_ = fmt::format("value {}", file_.values.size());
  out.key_ = string("a key");
  if (out.key_.empty() || out.key_.size() > kMostKey || !is_utf8(out.key_))
    refuse("a key of 1 to 65535 bytes of UTF-8", io::in_quotes(out.key_));
  place_ = out.key_.size() < 200 && out.key_.find_first_of(" \n\t\"") == std::string_view::npos
               ? std::string(out.key_)
               : io::in_quotes(out.key_);
  const auto type = number<std::uint32_t>("a type");
  if (type > 12) refuse("a type from 0 to 12", fmt::format("{}", type));
  out.file_ = &file_.name;
  out.type_ = out.element_ = static_cast<GgufValue::Type>(type);
  if (out.type_ == GgufValue::Type::array) {
    array(out);
  } else if (out.type_ == GgufValue::Type::string) {
    const std::string_view text = string("a string");
    out.data_ = reinterpret_cast<const std::byte*>(text.data());
    out.count_ = text.size();
  } else {
    out.data_ = take(size_of(out.type_), "a number");
    check_booleans(out);
  }
  return out;
}

void GgufReader::array(GgufValue& out) {
  const auto type = number<std::uint32_t>("an element type");
  if (type > 12 || type == static_cast<std::uint32_t>(GgufValue::Type::array))
    refuse("numbers or strings in an array", fmt::format("type {}", type));
  out.element_ = static_cast<GgufValue::Type>(type);
  const auto count = number<std::uint64_t>("a number of elements");
  if (count > kMostElements) refuse("an array of at most 2^30 elements", fmt::format("{}", count));
  out.count_ = static_cast<std::size_t>(count);
  if (out.element_ == GgufValue::Type::string) {
    out.data_ = bytes_.data() + next_;
    for (std::uint64_t i = 0; i < count; ++i) string("a string");
  } else {
    out.data_ = take(count * size_of(out.element_), "an array");
    check_booleans(out);
  }
}

void GgufReader::check_booleans(const GgufValue& value) {
  if (value.element_ != GgufValue::Type::boolean) return;
  const std::span all(value.data_, value.count_);
  if (const auto odd = std::ranges::find_if(all, [](std::byte b) { return b > std::byte{1}; }); odd != all.end())
    refuse("a bool of 0 or 1", fmt::format("{}", std::to_integer<int>(*odd)));
}

void GgufReader::tensor() {
  GgufTensor out;
  place_ = fmt::format("tensor {}", file_.tensors.size());
  out.name = string("a name");
  if (out.name.size() > kMostName || !is_utf8(out.name))
    refuse("a name of at most 63 bytes of UTF-8", io::in_quotes(out.name));
  place_ = "tensor " + io::in_quotes(out.name);
  const auto axes = number<std::uint32_t>("a number of axes");
  if (axes > kMostAxes) refuse("at most 4 axes", fmt::format("{}", axes));
  std::uint64_t extents[kMostAxes];
  io::Checked elements = 1;
  for (std::uint32_t i = 0; i < axes; ++i) {
    extents[i] = number<std::uint64_t>("an extent");
    elements *= std::max<std::uint64_t>(1, extents[i]);
  }
  if (!elements.at_most(std::uint64_t{1} << 62)) refuse("at most 2^62 elements", "more");
  for (std::uint32_t i = axes; i > 0; --i) out.shape.push_back(static_cast<std::int64_t>(extents[i - 1]));
  const auto id = number<std::uint32_t>("an encoding");
  const io::Encoding* const encoding = io::find_encoding(id);
  if (!encoding) refuse("an encoding that is known", fmt::format("number {}", id));
  const std::uint64_t row = axes > 0 ? extents[0] : 1;
  if (row % encoding->values != 0)
    refuse(fmt::format("rows of whole blocks of {} for {}", encoding->values, encoding->name), fmt::format("{}", row));
  const io::Checked bytes =
      io::Checked(static_cast<std::uint64_t>(out.shape.numel()) / encoding->values) * encoding->bytes;
  if (!bytes.at_most(bytes_.size()))
    refuse("a tensor smaller than the file", fmt::format("{} {}", encoding->name, out.shape.str()));
  out.encoding = encoding->name;
  out.bytes = static_cast<std::size_t>(bytes.value());
  offsets_.push_back(number<std::uint64_t>("an offset"));
  file_.tensors.push_back(out);
  file_.places.push_back({encoding, 0});
}

std::uint64_t GgufReader::alignment() const {
  const auto found = std::ranges::find(file_.values, std::string_view("general.alignment"), &GgufValue::key);
  if (found == file_.values.end()) return 32;
  if (found->type() != GgufValue::Type::u32) found->fail("a u32");
  const std::uint64_t alignment = found->as_uint64();
  if (!std::has_single_bit(alignment)) found->fail("a power of two");
  return alignment;
}

/// Data lies in order, each tensor's padded to the alignment; the last one's padding may be missing.
void GgufReader::places() {
  const std::uint64_t alignment = this->alignment();
  const auto padded = [&](io::Checked n) { return io::Checked((n + (alignment - 1)).value() & ~(alignment - 1)); };
  const std::uint64_t begin = padded(next_).value();
  io::Checked next = 0;
  for (std::size_t i = 0; i < file_.tensors.size(); ++i) {
    place_ = "tensor " + io::in_quotes(file_.tensors[i].name);
    if (!next.is(offsets_[i]))
      refuse(fmt::format("data at {}, behind the tensor before", next.value()), fmt::format("{}", offsets_[i]));
    // Nothing overflows: every tensor, and the sum up to here, is smaller than the file.
    const io::Checked end = io::Checked(begin) + next.value() + file_.tensors[i].bytes;
    if (!end.at_most(bytes_.size()))
      refuse(fmt::format("data up to {}", end.value()), fmt::format("a file of {} bytes", bytes_.size()));
    file_.places[i].offset = static_cast<std::size_t>(begin + next.value());
    next = padded(next + file_.tensors[i].bytes);
  }
  file_.alignment = static_cast<std::size_t>(alignment);
}

void GgufReader::read(std::span<const std::byte> bytes, Gguf::File& file) {
  GgufReader reader(bytes, file);
  reader.header();
  for (std::uint64_t i = 0; i < reader.value_count_; ++i) file.values.push_back(reader.value());
  for (std::uint64_t i = 0; i < reader.tensor_count_; ++i) reader.tensor();
  const auto once = [&](std::ptrdiff_t twice, std::string_view what, auto&& key) {
    if (twice < 0) return;
    reader.place_ = fmt::format("{} {}", what, io::in_quotes(key(static_cast<std::size_t>(twice))));
    reader.refuse("it once", "it twice");
  };
  std::ptrdiff_t twice = -1;
  file.by_key = sorted(
      file.values, [](const GgufValue& v) { return v.key(); }, twice);
  once(twice, "key", [&](std::size_t i) { return file.values[i].key(); });
  file.by_name = sorted(
      file.tensors, [](const GgufTensor& t) { return t.name; }, twice);
  once(twice, "tensor", [&](std::size_t i) { return file.tensors[i].name; });
  reader.places();
}

}  // namespace metal_candle
