// Text to tree. Recursion is as deep as the value, which is bounded; children gather on one stack and move to an exact
// block when their parent ends.
#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <random>

#include "io/files.h"
#include "io/json_tree.h"
#include "metal_candle/error.hpp"

namespace metal_candle {
namespace io {
namespace {

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

std::uint64_t hash(std::string_view key) {
  static const std::uint64_t kSeed = (std::uint64_t{std::random_device{}()} << 32) | std::random_device{}();
  std::uint64_t h = kSeed ^ key.size();
  const char* p = key.data();
  std::size_t left = key.size();
  for (; left > 0; p += std::min<std::size_t>(left, 8), left -= std::min<std::size_t>(left, 8)) {
    std::uint64_t word = 0;
    std::memcpy(&word, p, std::min<std::size_t>(left, 8));
    h = mix(h ^ word, 0x9e3779b97f4a7c15u ^ kSeed);
  }
  return mix(h, 0xd6e8feb86659fd93u);
}

}  // namespace

std::ptrdiff_t KeyIndex::find(const std::vector<JsonMember>& list, std::string_view key) const {
  if (slots_.empty()) {
    for (std::size_t i = 0; i < list.size(); ++i)
      if (list[i].key == key) return static_cast<std::ptrdiff_t>(i);
    return -1;
  }
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t at = hash(key) & mask; slots_[at] != 0; at = (at + 1) & mask)
    if (list[slots_[at] - 1].key == key) return static_cast<std::ptrdiff_t>(slots_[at]) - 1;
  return -1;
}

bool KeyIndex::add_last(const std::vector<JsonMember>& list) {
  const std::string_view key = list.back().key;
  if (slots_.empty() && list.size() <= kFew) {
    for (std::size_t i = 0; i + 1 < list.size(); ++i)
      if (list[i].key == key) return false;
    return true;
  }
  if (slots_.size() < 2 * list.size()) make_room(2 * list.size(), list);
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = hash(key) & mask;
  for (; slots_[at] != 0; at = (at + 1) & mask)
    if (list[slots_[at] - 1].key == key) return false;
  slots_[at] = static_cast<std::uint32_t>(list.size());
  return true;
}

void KeyIndex::make_room(std::size_t count, const std::vector<JsonMember>& list) {
  slots_.assign(std::bit_ceil(2 * count), 0);
  for (std::uint32_t i = 0; i + 1 < list.size(); ++i) {
    std::size_t at = hash(list[i].key) & (slots_.size() - 1);
    while (slots_[at] != 0) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = i + 1;
  }
}

class JsonParser {
 public:
  explicit JsonParser(JsonSource& source) : source_(source), lexer_(source.text, source.origin, source.arena) {}

  Json document() {
    Json root = value(0);
    if (!lexer_.at_end()) lexer_.fail("nothing after the value");
    return root;
  }

 private:
  Json start() {
    Json out;
    lexer_.peek();
    out.offset_ = static_cast<std::uint32_t>(lexer_.position());
    out.source_ = &source_;
    source_.uses.fetch_add(1, std::memory_order_relaxed);
    return out;
  }

  Json value(int depth) {
    Json out = start();
    switch (lexer_.peek()) {
      case '{': object(out, depth); break;
      case '[': array(out, depth); break;
      case '"':
        text(out, lexer_.string());
        out.kind_ = Json::Kind::string;
        break;
      case 't': word(out, "true", Json::Kind::boolean); break;
      case 'f': word(out, "false", Json::Kind::boolean); break;
      case 'n': word(out, "null", Json::Kind::null); break;
      case '-':
      case '0':
      case '1':
      case '2':
      case '3':
      case '4':
      case '5':
      case '6':
      case '7':
      case '8':
      case '9': number(out); break;
      default: lexer_.fail("a value");
    }
    return out;
  }  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks): see ~Json

  static void text(Json& out, std::string_view chars) {
    out.text_ = chars.data();
    out.length_ = static_cast<std::uint32_t>(chars.size());
  }

  void word(Json& out, std::string_view letters, Json::Kind kind) {
    lexer_.must_word(letters);
    out.kind_ = kind;
    if (kind == Json::Kind::boolean) out.boolean_ = letters == "true";
  }

  void number(Json& out) {
    const JsonNumber read = lexer_.number();
    out.kind_ = read.kind == JsonNumber::Kind::real ? Json::Kind::real : Json::Kind::integer;
    out.wide_ = read.kind == JsonNumber::Kind::wide;
    if (out.wide_) text(out, read.text);
    else if (out.is_integer()) out.integer_ = read.integer;
    else out.real_ = read.real;
  }

  void deeper(int depth) {
    if (depth >= Json::kMaxDepth) lexer_.fail(fmt::format("at most {} levels", Json::kMaxDepth));
  }

  void array(Json& out, int depth) {
    deeper(depth);
    lexer_.must('[');
    const std::size_t first = elements_.size();
    if (!lexer_.take(']')) {
      do elements_.push_back(value(depth + 1));
      while (lexer_.more(']'));
    }
    out.elements_ = new Json::Elements;
    out.kind_ = Json::Kind::array;
    out.owns_ = true;
    auto& list = out.elements_->list;
    list.reserve(elements_.size() - first);
    for (std::size_t i = first; i < elements_.size(); ++i) list.push_back(std::move(elements_[i]));
    elements_.resize(first);
  }

  void object(Json& out, int depth) {
    deeper(depth);
    lexer_.must('{');
    const std::size_t first = members_.size();
    if (!lexer_.take('}')) {
      do {
        if (lexer_.peek() != '"') lexer_.fail("a name in quotes");
        const std::string_view key = lexer_.string();
        lexer_.must(':');
        members_.push_back({key, value(depth + 1)});
      } while (lexer_.more('}'));
    }
    out.members_ = new Json::Members;
    out.kind_ = Json::Kind::object;
    out.owns_ = true;
    auto& [list, index, keys] = *out.members_;
    const std::size_t count = members_.size() - first;
    list.reserve(count);
    if (count > io::KeyIndex::kFew) index.make_room(count, list);
    for (std::size_t i = first; i < members_.size(); ++i) {
      list.push_back(std::move(members_[i]));
      if (!index.add_last(list)) twice(list.back().value);
    }
    members_.resize(first);
  }

  [[noreturn]] void twice(const Json& value) {
    throw FileError(FileFault::bad, source_.origin, value.path(), "each key once", "it twice");
  }

  JsonSource& source_;
  JsonLexer lexer_;
  std::vector<Json> elements_;
  std::vector<JsonMember> members_;
};

namespace {

Json parse_owned(std::string text, std::string origin) {
  if (text.size() >= 0xffffffffu)
    throw FileError(FileFault::bad, origin, "", "less than 4 GiB of JSON", fmt::format("{} bytes", text.size()));
  auto source = std::make_unique<JsonSource>(std::move(origin), std::move(text));
  source->uses = 1;  // ours, so that a failed parse does not free it value by value
  const auto release = [](JsonSource* s) {
    if (s->uses.fetch_sub(1) == 1) delete s;
  };
  const std::unique_ptr<JsonSource, decltype(release)> held(source.release());
  return JsonParser(*held).document();
}

}  // namespace
}  // namespace io

Json Json::parse(std::string_view text, std::string_view origin) {
  return io::parse_owned(std::string(text), std::string(origin));
}

Json Json::load(const std::filesystem::path& path) { return io::parse_owned(io::read_file(path), path.string()); }

}  // namespace metal_candle
