// json.dumps of Python, as templates know it by `tojson`.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "io/jinja/budget.h"
#include "io/jinja/operations.h"
#include "io/jinja/repr.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
  return digits(value);
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  void write(const Value& value) {
    spend(1);
    switch (value.kind()) {
      case Kind::none: out += "null"; return;
      case Kind::boolean: out += value.boolean() ? "true" : "false"; return;
      case Kind::integer: out += std::to_string(value.whole()); return;
      case Kind::real: out += number(value.real()); return;
      case Kind::text: return write_text(value.text());
      case Kind::dict: return write_dict(value.dict());
      case Kind::sequence:
        if (value.sequence().form == Sequence::Form::list || value.sequence().is_tuple())
          return write_items(value.sequence().items);
        break;
      default: break;
    }
    if (const LongInteger* integer = long_integer(value)) {
      spend_text(integer->digits.size());
      out += integer->digits;
      return;
    }
    fail_type("Object of type " + type_name(value) + " is not JSON serializable");
  }

  std::string out;

 private:
  void write_text(std::string_view text) {
    spend_text(out.size() + text.size());
    out += '"';
    for (char32_t c : decode(text)) write_char(c);
    out += '"';
  }

  void write_char(char32_t c) {
    const auto code = static_cast<std::uint32_t>(c);
    switch (c) {
      case '"': out += "\\\""; return;
      case '\\': out += "\\\\"; return;
      case '\n': out += "\\n"; return;
      case '\r': out += "\\r"; return;
      case '\t': out += "\\t"; return;
      case '\f': out += "\\f"; return;
      case '\b': out += "\\b"; return;
      default: break;
    }
    if (c >= 0x20 && (!style_.ascii || c < 0x7F)) return append(out, c);
    if (code < 0x10000) {
      out += fmt::format("\\u{:04x}", code);
    } else {
      const std::uint32_t rest = code - 0x10000;
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
    }
  }

  void next_line() {
    if (!style_.indent) return;
    spend_text(out.size() + style_.indent->size() * level_);
    out += '\n';
    for (std::size_t i = 0; i < level_; ++i) out += *style_.indent;
  }

  /// Opens, calls `item` for each number, closes.
  template <class Item>
  void write_list(char open, char close, std::size_t count, Item item) {
    out += open;
    ++level_;
    for (std::size_t i = 0; i < count; ++i) {
      if (i > 0) out += style_.comma;
      next_line();
      item(i);
    }
    --level_;
    if (count > 0) next_line();
    out += close;
  }

  void write_items(const std::vector<Value>& items) {
    write_list('[', ']', items.size(), [&](std::size_t i) { write(items[i]); });
  }

  void write_dict(const Dict& dict) {
    std::vector<const Dict::Item*> items;
    for (const Dict::Item& item : dict.items()) items.push_back(&item);
    if (style_.sort_keys)
      std::stable_sort(items.begin(), items.end(),
                       [](auto* a, auto* b) { return compare(Comparison::less, a->first, b->first); });
    write_list('{', '}', items.size(), [&](std::size_t i) {
      write_text(key(items[i]->first));
      out += style_.colon;
      write(items[i]->second);
    });
  }

  static std::string key(const Value& value) {
    switch (value.kind()) {
      case Kind::text: return value.text();
      case Kind::none: return "null";
      case Kind::boolean: return value.boolean() ? "true" : "false";
      case Kind::integer: return std::to_string(value.whole());
      case Kind::real: return number(value.real());
      default: fail_type("keys must be str, int, float, bool or None, not " + type_name(value));
    }
  }

  const JsonStyle& style_;
  std::size_t level_ = 0;
};

}  // namespace

std::string to_json(const Value& value, const JsonStyle& style) {
  JsonWriter writer(style);
  writer.write(value);
  return std::move(writer.out);
}

}  // namespace metal_candle::jinja
