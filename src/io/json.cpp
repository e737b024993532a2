#include "metal_candle/json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "io/json_tree.h"
#include "metal_candle/error.hpp"

namespace metal_candle {
namespace {

[[noreturn]] void wrong_use(const char* what) { throw UserError(ErrorKind::argument, what); }

/// A child's path; keys without dots, brackets and spaces are written as they are.
std::string join(std::string path, std::string_view key) {
  const bool plain = !key.empty() && key.size() <= 200 && key.find_first_of("[]\"\\ ") == std::string_view::npos &&
                     std::ranges::all_of(key, [](char c) { return c > 0x20 && c < 0x7f; });
  if (!plain) return path + "[" + io::in_quotes(key) + "]";
  if (!path.empty()) path += '.';
  return path.append(key);
}

}  // namespace

// ---- making ---------------------------------------------------------------------------------------------------------

Json::Json(std::string_view value) : kind_(Kind::string) { own_text(value); }

Json::Json(const Json& other) : length_(other.length_), offset_(other.offset_), kind_(other.kind_), wide_(other.wide_) {
  integer_ = other.integer_;
  if (other.kind_ == Kind::array) {
    elements_ = new Elements(*other.elements_);
  } else if (other.kind_ == Kind::object) {
    auto members = std::make_unique<Members>(*other.members_);
    if (!members->keys.empty()) {  // rare: keys of our own, so all become so
      members->keys.clear();
      for (JsonMember& m : members->list) m.key = members->keys.emplace_back(m.key);
    }
    members_ = members.release();
  } else if (other.owns_) {
    own_text(other.text());
  }
  owns_ = other.owns_;
  source_ = other.source_;
  if (source_) source_->uses.fetch_add(1, std::memory_order_relaxed);
}

void Json::swap(Json& other) noexcept {
  static_assert(sizeof(integer_) == sizeof(text_) && sizeof(integer_) == sizeof(real_));
  std::swap(source_, other.source_);
  std::swap(integer_, other.integer_);
  std::swap(length_, other.length_);
  std::swap(offset_, other.offset_);
  std::swap(kind_, other.kind_);
  std::swap(owns_, other.owns_);
  std::swap(wide_, other.wide_);
}

void Json::clear() noexcept {
  if (owns_) {
    if (kind_ == Kind::array) delete elements_;
    else if (kind_ == Kind::object) delete members_;
    else delete[] text_;
  }
  if (source_ && source_->uses.fetch_sub(1, std::memory_order_acq_rel) == 1) delete source_;
}

void Json::own_text(std::string_view text) {
  if (text.size() > 0xffffffffu) wrong_use("Json: a string of 4 GiB or more");
  char* copy = new char[text.size()];
  std::ranges::copy(text, copy);
  text_ = copy;
  length_ = static_cast<std::uint32_t>(text.size());
  owns_ = true;
}

void Json::set_wide(std::uint64_t value) {
  own_text(fmt::format_int(value).str());
  kind_ = Kind::integer;
  wide_ = true;
}

Json Json::array(std::initializer_list<Json> elements) {
  Json out;
  out.elements_ = new Elements{elements};
  out.kind_ = Kind::array;
  out.owns_ = true;
  return out;
}  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks): see ~Json

Json Json::object(std::initializer_list<std::pair<std::string_view, Json>> members) {
  Json out;
  out.members_ = new Members;
  out.kind_ = Kind::object;
  out.owns_ = true;
  for (const auto& [key, value] : members) {
    if (out.contains(key)) wrong_use("Json::object: a key is there twice");
    out.set(key, value);
  }
  return out;
}

void Json::push_back(Json element) {
  if (is_null()) *this = array();
  if (!is_array()) wrong_use("Json::push_back: not an array");
  elements_->list.push_back(std::move(element));
}

void Json::set(std::string_view key, Json value) {
  if (is_null()) *this = object();
  if (!is_object()) wrong_use("Json::set: not an object");
  auto& [list, index, keys] = *members_;
  if (const std::ptrdiff_t found = index.find(list, key); found >= 0) {
    list[static_cast<std::size_t>(found)].value = std::move(value);
    return;
  }
  list.push_back({keys.emplace_back(key), std::move(value)});
  index.add_last(list);
}

// ---- reading --------------------------------------------------------------------------------------------------------

bool Json::as_bool() const {
  if (kind_ != Kind::boolean) fail("true or false");
  return boolean_;
}

std::int64_t Json::as_int64() const {
  if (kind_ != Kind::integer) fail("an integer");
  if (wide_) fail("an integer of 64 bits");
  return integer_;
}

std::uint64_t Json::as_uint64() const {
  if (kind_ != Kind::integer) fail("an integer of 0 or more");
  if (!wide_) {
    if (integer_ < 0) fail("an integer of 0 or more");
    return static_cast<std::uint64_t>(integer_);
  }
  std::uint64_t value = 0;
  if (std::from_chars(text_, text_ + length_, value).ec != std::errc{} || *text_ == '-')
    fail("an unsigned integer of 64 bits");
  return value;
}

std::int64_t Json::as_int(std::int64_t least, std::int64_t most) const {
  if (kind_ == Kind::integer && !wide_ && integer_ >= least && integer_ <= most) return integer_;
  if (least == 1 && most == 0x7fffffff)
    fail(is_integer() && (wide_ || integer_ > most) ? "an integer up to 2147483647" : "a positive integer");
  fail(fmt::format("an integer from {} to {}", least, most));
}

double Json::as_double() const {
  if (kind_ == Kind::real) return real_;
  if (kind_ != Kind::integer) fail("a number");
  if (!wide_) return static_cast<double>(integer_);
  double value = 0;
  if (std::from_chars(text_, text_ + length_, value).ec != std::errc{}) fail("a number within the range of a double");
  return value;
}

std::string_view Json::as_string() const {
  if (kind_ != Kind::string) fail("a string");
  return text();
}

std::size_t Json::size() const {
  return kind_ == Kind::array ? elements_->list.size() : kind_ == Kind::object ? members_->list.size() : 0;
}

std::span<const Json> Json::elements() const {
  if (kind_ != Kind::array) fail("an array");
  return elements_->list;
}

std::span<const JsonMember> Json::items() const {
  if (kind_ != Kind::object) fail("an object");
  return members_->list;
}

const Json& Json::at(std::size_t index) const {
  const auto all = elements();
  if (index >= all.size()) {
    const std::string place = index == ~std::size_t{0} ? "[negative]" : fmt::format("[{}]", index);
    throw FileError(FileFault::bad, file(), path() + place, fmt::format("an index below {}", all.size()), "none there");
  }
  return all[index];
}

const Json* Json::find(std::string_view key) const {
  const auto all = items();
  const std::ptrdiff_t found = members_->index.find(members_->list, key);
  return found < 0 ? nullptr : &all[static_cast<std::size_t>(found)].value;
}

const Json* Json::find_value(std::string_view key) const {
  const Json* found = find(key);
  return found && !found->is_null() ? found : nullptr;
}

const Json& Json::at(std::string_view key) const {
  if (const Json* found = find(key)) return *found;
  throw FileError(FileFault::bad, file(), join(path(), key), "a value", "no such key");
}

// ---- errors ---------------------------------------------------------------------------------------------------------

std::string Json::file() const { return source_ ? source_->origin : "(value)"; }

std::string Json::path() const { return source_ ? source_->path_at(offset_) : std::string(); }

namespace {

/// The names of the first members: of a wrong object its owner knows which it is by them.
std::string shown_keys(std::span<const JsonMember> members) {
  constexpr std::size_t kMost = 4;
  std::string out;
  for (std::size_t i = 0; i < members.size() && i < kMost; ++i) out += (i ? ", " : "") + io::in_quotes(members[i].key);
  return members.size() > kMost ? out + fmt::format(" and {} more", members.size() - kMost) : out;
}

}  // namespace

std::string Json::shown() const {
  switch (kind_) {
    case Kind::string: return "the string " + io::in_quotes(text());
    case Kind::array: return size() == 0 ? "an empty array" : fmt::format("an array of {}", size());
    case Kind::object: return size() == 0 ? "an empty object" : "an object of " + shown_keys(items());
    default: {
      const std::string written = dump();
      return written.size() > 60 ? written.substr(0, 60) + "..." : written;
    }
  }
}

void Json::fail(std::string_view expected) const {
  throw FileError(FileFault::bad, file(), path(), std::string(expected), shown());
}

namespace io {

/// Walks the text, which has been found right before, to the value that begins at `offset`.
std::string JsonSource::path_at(std::size_t offset) const {
  struct Level {
    bool object;
    std::size_t index;
    std::string_view key;
  };
  std::vector<Level> levels;
  JsonArena scratch(text.size());
  JsonLexer lexer(text, origin, scratch);
  for (;;) {
    const char c = lexer.peek();
    if (lexer.at_end() || lexer.position() >= offset) break;
    if (c == '{' || c == '[') {
      lexer.take(c);
      levels.push_back({c == '{', 0, {}});
      if (c == '{' && lexer.peek() == '"') levels.back().key = lexer.string(), lexer.take(':');
    } else if (c == '}' || c == ']') {
      lexer.take(c);
      levels.pop_back();
    } else if (c == ',') {
      lexer.take(c);
      ++levels.back().index;
      if (levels.back().object) levels.back().key = lexer.string(), lexer.take(':');
    } else if (c == '"') {
      lexer.string();
    } else if (c == 't' || c == 'f' || c == 'n') {
      lexer.must_word(c == 't' ? "true" : c == 'f' ? "false" : "null");
    } else {
      lexer.number();
    }
  }
  std::string path;
  for (const Level& level : levels)
    path = level.object ? join(path, level.key) : fmt::format("{}[{}]", path, level.index);
  return path;
}

}  // namespace io

// ---- comparing ------------------------------------------------------------------------------------------------------

bool operator==(const Json& a, const Json& b) {
  if (a.kind_ != b.kind_ || a.size() != b.size() || a.wide() != b.wide()) return false;
  switch (a.kind_) {
    case Json::Kind::null: return true;
    case Json::Kind::boolean: return a.boolean_ == b.boolean_;
    case Json::Kind::integer: return a.wide_ ? a.text() == b.text() : a.integer_ == b.integer_;
    case Json::Kind::real: return a.real_ == b.real_;
    case Json::Kind::string: return a.text() == b.text();
    case Json::Kind::array: return std::ranges::equal(a.elements(), b.elements());
    case Json::Kind::object:
      return std::ranges::all_of(a.items(), [&](const JsonMember& m) {
        const Json* other = b.find(m.key);
        return other && *other == m.value;
      });
  }
  return false;
}

}  // namespace metal_candle
