// Json: a value as JSON knows it, members in the order they were written, and getters that refuse what does not fit.
//
//   mc::Json config = mc::Json::load("model/config.json");
//   auto hidden = config.at("hidden_size").positive();
//     // else: "model/config.json: hidden_size: expected a positive integer, got -1"
//   for (const mc::JsonMember& m : config.at("vocab").items()) add(m.key, m.value.as_uint64());
//   std::cout << mc::Json::object({{"event", "step"}, {"loss", 0.5}}).dump();   // {"event": "step", "loss": 0.5}
//
// Nothing is converted silently: 1.5 and 1e3 are no integers, -1 is no unsigned number, 2^63 no int64. A value that was
// parsed knows the file and the place it came from ("layers[3].name"), wherever it is copied; every error names them.
//
// Values are plain: a copy is deep, and references into one live until it is changed. Reading from several threads is
// fine, changing is not.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace metal_candle {

struct JsonMember;
namespace io {
struct JsonSource;
class JsonParser;
}  // namespace io

template <class T>
concept JsonInteger =
    std::integral<T> && !std::same_as<T, bool> && !std::same_as<T, char> && !std::same_as<T, wchar_t> &&
    !std::same_as<T, char8_t> && !std::same_as<T, char16_t> && !std::same_as<T, char32_t>;

class Json {
 public:
  enum class Kind : std::uint8_t { null, boolean, integer, real, string, array, object };

  // ---- making ----

  Json() = default;  // null
  Json(std::nullptr_t) {}
  template <std::same_as<bool> T>
  Json(T value) : kind_(Kind::boolean) {
    boolean_ = value;
  }
  template <JsonInteger T>
  Json(T value) {
    if (std::in_range<std::int64_t>(value)) {
      kind_ = Kind::integer;
      integer_ = static_cast<std::int64_t>(value);
    } else {
      set_wide(static_cast<std::uint64_t>(value));
    }
  }
  template <std::floating_point T>
  Json(T value) : kind_(Kind::real) {
    real_ = static_cast<double>(value);
  }
  Json(std::string_view value);
  Json(const char* value) : Json(std::string_view(value)) {}
  Json(const std::string& value) : Json(std::string_view(value)) {}
  Json(const Json& other);
  Json(Json&& other) noexcept
      : source_(other.source_),
        integer_(other.integer_),  // all eight bytes, whatever they are
        length_(other.length_),
        offset_(other.offset_),
        kind_(other.kind_),
        owns_(other.owns_),
        wide_(other.wide_) {
    other.source_ = nullptr;
    other.kind_ = Kind::null;
    other.owns_ = other.wide_ = false;
  }
  Json& operator=(Json other) noexcept {
    swap(other);
    return *this;
  }
  ~Json() {
    if (source_ || owns_) clear();
  }  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks): it loses sight of pointers that move in the union
  void swap(Json& other) noexcept;

  static Json array(std::initializer_list<Json> elements = {});
  /// Throws UserError when a key is there twice.
  static Json object(std::initializer_list<std::pair<std::string_view, Json>> members = {});
  /// Appends to an array (null becomes one); throws UserError for anything else.
  void push_back(Json element);
  /// Replaces or appends a member of an object (null becomes one); throws UserError for anything else.
  void set(std::string_view key, Json value);

  /// Strict JSON: one value, UTF-8 checked, keys of an object differ, surrogates in pairs, numbers finite, at most
  /// `kMaxDepth` deep. `origin` stands for the file in errors. Throws FileError with line and column.
  static Json parse(std::string_view text, std::string_view origin);
  /// Reads and parses a file.
  static Json load(const std::filesystem::path& path);
  static constexpr int kMaxDepth = 512;

  // ---- reading; what does not fit throws FileError ----

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::null; }
  bool is_bool() const { return kind_ == Kind::boolean; }
  bool is_integer() const { return kind_ == Kind::integer; }
  bool is_number() const { return kind_ == Kind::integer || kind_ == Kind::real; }
  bool is_string() const { return kind_ == Kind::string; }
  bool is_array() const { return kind_ == Kind::array; }
  bool is_object() const { return kind_ == Kind::object; }

  bool as_bool() const;
  std::int64_t as_int64() const;
  std::uint64_t as_uint64() const;
  /// An integer between `least` and `most`, both included.
  std::int64_t as_int(std::int64_t least, std::int64_t most) const;
  /// An integer from 1 up to 2^31 - 1, which no extent, count or id in a file exceeds.
  std::int64_t positive() const { return as_int(1, 0x7fffffff); }
  /// A number; integers convert. Writers of NaN as a string are not humoured.
  double as_double() const;
  /// The bytes live as long as this value.
  std::string_view as_string() const;

  /// Elements of an array or members of an object, 0 for anything else.
  std::size_t size() const;
  /// The elements of an array, the members of an object.
  std::span<const Json> elements() const;
  std::span<const JsonMember> items() const;
  const Json& at(std::size_t index) const;
  const Json& at(std::string_view key) const;
  const Json& at(const char* key) const { return at(std::string_view(key)); }
  template <JsonInteger T>
  const Json& at(T index) const {
    return at(std::in_range<std::size_t>(index) ? static_cast<std::size_t>(index) : ~std::size_t{0});
  }
  /// The member, or null if there is none. Throws for what is not an object.
  const Json* find(std::string_view key) const;
  /// The same, and JSON's null counts as absent.
  const Json* find_value(std::string_view key) const;
  bool contains(std::string_view key) const { return find(key) != nullptr; }

  // ---- where it came from, and errors about it ----

  /// The origin it was parsed from, or "(value)".
  std::string file() const;
  /// The place in it: "layers[3].name". Empty for the root and for values that were not parsed.
  std::string path() const;
  /// What an error would show of it: "-1", "a string "abc"", "an array of 3".
  std::string shown() const;
  /// Throws the FileError of a value that is not what its reader needs: `expected` against `shown`.
  [[noreturn]] void fail(std::string_view expected) const;

  // ---- writing ----

  /// One line with spaces after , and : for indent 0, else one member a line. Reals read back as the same value; NaN
  /// and infinities become the strings "NaN", "Infinity", "-Infinity". Valid UTF-8: what is not becomes U+FFFD.
  std::string dump(int indent = 0) const;

  /// Equal values; the order of members does not matter, 1 and 1.0 differ.
  friend bool operator==(const Json& a, const Json& b);

 private:
  friend class io::JsonParser;
  struct Elements;
  struct Members;

  void clear() noexcept;
  void set_wide(std::uint64_t value);
  void own_text(std::string_view text);
  std::string_view text() const { return {text_, length_}; }
  bool wide() const { return kind_ == Kind::integer && wide_; }
  void write(std::string& out, int indent, int depth) const;

  io::JsonSource* source_ = nullptr;  // counted; null for what was not parsed
  union {
    std::int64_t integer_ = 0;
    double real_;
    bool boolean_;
    const char* text_;  // of a string; of an integer beyond int64, its digits
    Elements* elements_;
    Members* members_;
  };
  std::uint32_t length_ = 0;  // of text_
  std::uint32_t offset_ = 0;  // in the source
  Kind kind_ = Kind::null;
  bool owns_ = false;  // what the union points at
  bool wide_ = false;
};

struct JsonMember {
  std::string_view key;  // lives as long as the object
  Json value;
};

}  // namespace metal_candle
