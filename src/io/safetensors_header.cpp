#include "io/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <iterator>
#include <numeric>

#include "io/checked.h"
#include "io/json_lexer.h"

namespace metal_candle::io {
namespace {

constexpr TensorFormat kFormats[] = {
    {"BOOL", 8, DType::boolean},
    {"F4", 4, {}},
    {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},
    {"U8", 8, DType::u8},
    {"I8", 8, DType::i8},
    {"F8_E5M2", 8, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E8M0", 8, {}},
    {"F8_E4M3FNUZ", 8, {}},
    {"F8_E5M2FNUZ", 8, {}},
    {"I16", 16, {}},
    {"U16", 16, {}},
    {"F16", 16, DType::f16},
    {"BF16", 16, DType::bf16},
    {"I32", 32, DType::i32},
    {"U32", 32, {}},
    {"F32", 32, DType::f32},
    {"C64", 64, {}},
    {"F64", 64, DType::f64},
    {"I64", 64, DType::i64},
    {"U64", 64, {}},
};
constexpr int kMostUnknownDepth = 100;  // of a field that nobody asked for

/// What an entry says, before it is known to be true.
struct Entry {
  TensorInfo info;
  std::uint64_t elements = 1, begin = 0, end = 0, bits = 0;
  bool overflow = false;
};

class HeaderReader {
 public:
  HeaderReader(std::string_view text, const std::string& path)
      : path_(path), arena_(text.size()), lexer_(text, path, arena_, "header") {}

  std::vector<Entry> read(FileMetadata& metadata) {
    std::vector<Entry> entries;
    bool seen = false;
    members([&](std::string_view name) {
      if (name != "__metadata__") {
        entries.push_back(entry(std::string(name)));
      } else {
        if (std::exchange(seen, true)) refuse("__metadata__", "it once", "it twice");
        read_metadata(metadata);
      }
    });
    if (!lexer_.at_end()) lexer_.fail("nothing after the value");
    return entries;
  }

 private:
  [[noreturn]] void refuse(std::string field, std::string expected, std::string got) {
    throw FileError(FileFault::bad, path_, std::move(field), std::move(expected), std::move(got));
  }

  /// An object; `f` reads the value of each member.
  template <class F>
  void members(F&& f) {
    lexer_.must('{');
    if (lexer_.take('}')) return;
    do {
      if (lexer_.peek() != '"') lexer_.fail("a name in quotes");
      const std::string_view key = lexer_.string();
      lexer_.must(':');
      f(key);
    } while (lexer_.more('}'));
  }

  std::string_view string(const char* what) {
    if (lexer_.peek() != '"') lexer_.fail(what);
    return lexer_.string();
  }

  std::uint64_t number(const char* what) {
    const char first = lexer_.peek();
    if (first < '0' || first > '9') lexer_.fail(what);
    const JsonNumber read = lexer_.number();
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(read.text.data(), read.text.data() + read.text.size(), value);
    if (read.kind == JsonNumber::Kind::real || error != std::errc{}) refuse_number(what, read.text);
    return value;
  }
  [[noreturn]] void refuse_number(const char* what, std::string_view text) {
    refuse(tensor_.empty() ? "header" : "tensor " + in_quotes(tensor_), what, std::string(text.substr(0, 40)));
  }

  void read_metadata(FileMetadata& metadata) {
    if (lexer_.peek() == 'n') return lexer_.must_word("null");
    members([&](std::string_view key) {
      const auto [at, fresh] = metadata.emplace(key, string("a string, as all metadata"));
      if (!fresh) refuse("__metadata__: " + in_quotes(key), "it once", "it twice");
    });
  }

  Entry entry(std::string name) {
    Entry out;
    tensor_ = name;
    out.info.name = std::move(name);
    bool dtype = false, shape = false, offsets = false;
    const auto once = [&](bool& seen, const char* what) {
      if (std::exchange(seen, true)) refuse("tensor " + in_quotes(tensor_), fmt::format("{} once", what), "it twice");
    };
    members([&](std::string_view key) {
      if (key == "dtype") once(dtype, "dtype"), read_dtype(out);
      else if (key == "shape") once(shape, "shape"), read_shape(out);
      else if (key == "data_offsets") once(offsets, "data_offsets"), read_offsets(out);
      else skip(0);
    });
    if (!dtype || !shape || !offsets)
      refuse("tensor " + in_quotes(tensor_), !dtype ? "a dtype" : !shape ? "a shape" : "data_offsets", "none");
    return out;
  }

  void read_dtype(Entry& out) {
    const std::string_view name = string("a dtype in quotes");
    const TensorFormat* format = find_format(name);
    if (!format) refuse("tensor " + in_quotes(tensor_), "a dtype of the format", in_quotes(name));
    out.info.format = format->name;
    out.info.dtype = format->dtype;
    out.bits = format->bits;
  }

  /// The product runs from left to right, as the reference's does: a zero hides what would overflow behind it only.
  void read_shape(Entry& out) {
    lexer_.must('[');
    if (lexer_.take(']')) return;
    Checked product = 1;
    std::int64_t dims[Shape::kMaxRank];
    std::size_t rank = 0;
    bool fits = true;
    do {
      const std::uint64_t extent = number("an extent");
      product *= extent;
      fits = fits && rank < Shape::kMaxRank && extent <= (std::uint64_t{1} << 62);
      if (fits) dims[rank++] = static_cast<std::int64_t>(extent);
    } while (lexer_.more(']'));
    Checked without_zeros = 1;
    for (std::size_t i = 0; i < rank; ++i)
      without_zeros *= static_cast<std::uint64_t>(std::max<std::int64_t>(1, dims[i]));
    out.info.fits = fits && without_zeros.at_most(std::uint64_t{1} << 62);
    if (out.info.fits) out.info.shape = Shape(std::span<const std::int64_t>(dims, rank));
    out.elements = product.value();
    out.overflow = product.overflow();
  }

  void read_offsets(Entry& out) {
    lexer_.must('[');
    out.begin = number("an offset");
    lexer_.must(',');
    out.end = number("an offset");
    lexer_.must(']');
  }

  void skip(int depth) {
    if (depth > kMostUnknownDepth) lexer_.fail("fewer levels");
    switch (lexer_.peek()) {
      case '{': return members([&](std::string_view) { skip(depth + 1); });
      case '[':
        lexer_.must('[');
        if (lexer_.take(']')) return;
        do skip(depth + 1);
        while (lexer_.more(']'));
        return;
      case '"': lexer_.string(); return;
      case 't': return lexer_.must_word("true");
      case 'f': return lexer_.must_word("false");
      case 'n': return lexer_.must_word("null");
      default: lexer_.number();
    }
  }

  const std::string& path_;
  std::string tensor_;  // the one being read, for errors
  JsonArena arena_;
  JsonLexer lexer_;
};

/// Sizes and places, in the order of the data.
SafeTensorsHeader validate(std::vector<Entry> entries, std::uint64_t data_bytes, std::uint64_t data_at,
                           const std::string& path) {
  std::ranges::stable_sort(entries, {}, [](const Entry& e) { return std::pair(e.begin, e.end); });
  SafeTensorsHeader out;
  std::uint64_t next = 0;
  for (Entry& e : entries) {
    const auto refuse = [&](std::string expected, std::string got) {
      throw FileError(FileFault::bad, path, "tensor " + in_quotes(e.info.name), std::move(expected), std::move(got));
    };
    const std::string offsets = fmt::format("data_offsets [{}, {}]", e.begin, e.end);
    if (e.begin != next) refuse(fmt::format("data from {}, where the one before ends", next), offsets);
    if (e.end < e.begin) refuse("an end after the begin", offsets);
    const Checked bits = e.overflow ? Checked(~std::uint64_t{0}) * 2 : Checked(e.elements) * e.bits;
    if (bits.overflow()) refuse("a size of less than 2^64 bits", "more");
    if (bits.value() % 8 != 0) refuse("whole bytes", fmt::format("{} bits", bits.value()));
    if (e.end - e.begin != bits.value() / 8)
      refuse(fmt::format("{} bytes for {} {}", bits.value() / 8, e.info.format, e.info.shape.str()),
             fmt::format("{} bytes", e.end - e.begin));
    e.info.bytes = static_cast<std::size_t>(e.end - e.begin);
    next = e.end;
    // Offsets beyond the file are harmless until the sum is compared below.
    out.offsets.push_back(static_cast<std::size_t>(data_at + e.begin));
    out.tensors.push_back(std::move(e.info));
  }
  if (next != data_bytes)
    throw FileError(FileFault::bad, path, "", fmt::format("{} bytes of data, as the header says", next),
                    fmt::format("{}", data_bytes));
  return out;
}

}  // namespace

const TensorFormat* find_format(std::string_view name) {
  const auto* found = std::ranges::find(kFormats, name, &TensorFormat::name);
  return found == std::end(kFormats) ? nullptr : found;
}

const TensorFormat& format_of(DType dtype) {
  return *std::ranges::find(kFormats, std::optional(dtype), &TensorFormat::dtype);
}

std::size_t rank_of(const TensorFormat& format) { return static_cast<std::size_t>(&format - kFormats); }

std::vector<std::uint32_t> sort_by_name(const std::vector<TensorInfo>& tensors) {
  std::vector<std::uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::sort(order, {}, [&](std::uint32_t i) -> std::string_view { return tensors[i].name; });
  return order;
}

SafeTensorsHeader read_safetensors_header(std::span<const std::byte> file, const std::string& path) {
  const auto refuse = [&](std::string expected, std::uint64_t got) {
    throw FileError(FileFault::bad, path, "header", std::move(expected), fmt::format("{}", got));
  };
  if (file.size() < 8) refuse("a safetensors file, of at least 8 bytes", file.size());
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | std::to_integer<std::uint64_t>(file[static_cast<std::size_t>(i)]);
  if (length > kMostHeaderBytes)
    refuse(fmt::format("a safetensors header of at most {} bytes", kMostHeaderBytes), length);
  if (length > file.size() - 8) refuse(fmt::format("at most the {} bytes that follow", file.size() - 8), length);
  const auto size = static_cast<std::size_t>(length);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, size);
  FileMetadata metadata;
  std::vector<Entry> entries = HeaderReader(text, path).read(metadata);
  SafeTensorsHeader out = validate(std::move(entries), file.size() - 8 - size, 8 + size, path);
  out.metadata = std::move(metadata);
  return out;
}

}  // namespace metal_candle::io
