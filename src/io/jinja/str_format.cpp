// "{0:>5} {name.attribute[key]!r}".format(...)
#include "io/jinja/access.h"
#include "io/jinja/budget.h"
#include "io/jinja/operations.h"
#include "io/jinja/printf.h"
#include "io/jinja/repr.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

bool is_align(char32_t c) { return c == '<' || c == '>' || c == '^' || c == '='; }

/// [[fill]align][sign][#][0][width][,_][.precision][type]
class SpecReader {
 public:
  explicit SpecReader(std::string_view text) : codes_(decode(text)), text_(text) {}

  FormatSpec read() {
    FormatSpec spec;
    alignment(spec);
    if (at() == '+' || at() == '-' || at() == ' ') spec.sign = static_cast<char>(take());
    if (at() == '#') spec.alternate = take() != 0;
    if (at() == '0') {
      take();
      if (!spec.align) spec.align = '=', spec.fill = "0";
    }
    spec.width = number(kMaxFormatWidth);
    if (at() == ',') spec.comma = take() != 0;
    if (at() == '_') spec.underscore = take() != 0;
    if (at() == '.') {
      take();
      if (at() > 127 || !is_digit(static_cast<char>(at()))) fail(Reason::value, "Format specifier missing precision");
      spec.precision = static_cast<int>(number(kMaxFormatPrecision));
    }
    if (at() != 0 && at() < 128) spec.type = static_cast<char>(take());
    if (at_ != codes_.size()) fail(Reason::value, "Invalid format specifier " + in_quotes(text_));
    return spec;
  }

 private:
  char32_t at(std::size_t ahead = 0) const { return at_ + ahead < codes_.size() ? codes_[at_ + ahead] : 0; }
  char32_t take() { return codes_[at_++]; }

  void alignment(FormatSpec& spec) {
    if (is_align(at(1))) {
      spec.fill.clear();
      append(spec.fill, take());
      spec.align = static_cast<char>(take());
    } else if (is_align(at())) {
      spec.align = static_cast<char>(take());
    }
  }

  std::size_t number(std::size_t most) {
    std::size_t value = 0;
    while (at() < 128 && is_digit(static_cast<char>(at()))) {
      value = value * 10 + (take() - '0');
      if (value > most) fail(Reason::limit, "a format is too wide");
    }
    return value;
  }

  std::u32string codes_;
  std::string_view text_;
  std::size_t at_ = 0;
};

[[noreturn]] void fail_code(const FormatSpec& spec, const Value& value) {
  fail(Reason::value, "Unknown format code " + in_quotes(std::string(1, spec.type)) + " for object of type '" +
                          type_name(value) + "'");
}

std::string format_value(const Value& value, std::string_view text) {
  FormatSpec spec = SpecReader(text).read();
  if (value.is_number() && !(value.kind() == Kind::boolean && text.empty())) {
    if (value.is_whole() && spec.type == 'c') {
      std::string body;
      append(body, static_cast<char32_t>(value.whole()));
      return pad(spec, "", std::move(body), '<');
    }
    const std::string_view known = value.is_whole() ? "bdoxXneEfFgG%" : "neEfFgG%";
    if (spec.type != 0 && known.find(spec.type) == known.npos) fail_code(spec, value);
    if (spec.type == 'n') spec.type = value.is_whole() ? 'd' : 'g';
    if (value.is_whole() && spec.type == 0) spec.type = 'd';
    return format_number(spec, value);
  }
  if (!value.is_text() && !text.empty())
    fail_type("unsupported format string passed to " + type_name(value) + ".__format__");
  if (spec.type != 0 && spec.type != 's') fail_code(spec, value);
  if (spec.align == '=') spec.align = '<';
  std::string body = to_text(value);
  if (spec.precision >= 0) body = encode(decode(body).substr(0, static_cast<std::size_t>(spec.precision)));
  return pad(spec, "", std::move(body), '<');
}

class Formatter {
 public:
  Formatter(const Call& arguments) : arguments_(arguments) {}

  std::string run(std::string_view format, int depth = 2) {
    if (depth < 0) fail(Reason::value, "Max string recursion exceeded");
    std::string out;
    for (std::size_t at = 0; at < format.size();) {
      const char c = format[at++];
      if (c != '{' && c != '}') {
        out += c;
      } else if (at < format.size() && format[at] == c) {
        out += c;
        ++at;
      } else if (c == '}') {
        fail(Reason::value, "Single '}' encountered in format string");
      } else {
        out += field(format, at, depth);
        spend_text(out.size());
      }
    }
    return out;
  }

 private:
  std::string field(std::string_view format, std::size_t& at, int depth) {
    const std::size_t from = at;
    int open = 1;
    for (; at < format.size() && open > 0; ++at) open += (format[at] == '{') - (format[at] == '}');
    if (open > 0) fail(Reason::value, "expected '}' before end of string");
    std::string_view inside = format.substr(from, at - 1 - from);
    std::string spec;
    std::size_t end = 0;
    for (bool bracket = false; end < inside.size(); ++end) {
      bracket = inside[end] == '[' || (bracket && inside[end] != ']');
      if (!bracket && (inside[end] == ':' || inside[end] == '!')) break;
    }
    std::string_view rest = inside.substr(end);
    const Value value = look_up(inside.substr(0, end));
    char conversion = 0;
    if (!rest.empty() && rest[0] == '!') {
      if (rest.size() < 2 || (rest.size() > 2 && rest[2] != ':')) fail(Reason::value, "bad conversion in a format");
      conversion = rest[1];
      rest.remove_prefix(2);
    }
    if (!rest.empty()) spec = run(rest.substr(1), depth - 1);
    if (conversion == 's') return format_value(to_text(value), spec);
    if (conversion == 'r' || conversion == 'a') return format_value(repr(value), spec);
    if (conversion != 0) fail(Reason::value, "Unknown conversion specifier " + std::string(1, conversion));
    return format_value(value, spec);
  }

  Value look_up(std::string_view name) {
    const std::size_t end = std::min(name.find_first_of(".["), name.size());
    Value value = first(std::string(name.substr(0, end)));
    for (name.remove_prefix(end); !name.empty();) {
      const bool item = name[0] == '[';
      const std::size_t stop = item ? name.find(']') : std::min(name.find_first_of(".[", 1), name.size());
      if (stop == name.npos) fail(Reason::value, "Missing ']' in format string");
      const std::string key(name.substr(1, stop - 1));
      if (key.empty()) fail(Reason::value, "Empty attribute in format string");
      const bool index = item && key.find_first_not_of("0123456789") == key.npos && key.size() < 10;
      value = item ? get_item(value, index ? Value(std::stoi(key)) : Value(key)) : get_attribute(value, key);
      name.remove_prefix(stop + (item ? 1 : 0));
    }
    return value;
  }

  Value first(const std::string& name) {
    const bool number = name.find_first_not_of("0123456789") == name.npos && name.size() < 10;
    if (number) {
      const std::size_t index = name.empty() ? next_++ : static_cast<std::size_t>(std::stoi(name));
      if (index < arguments_.positional.size()) return arguments_.positional[index];
      fail(Reason::value, "Replacement index " + std::to_string(index) + " out of range for positional args tuple");
    }
    for (const auto& [key, value] : arguments_.named)
      if (key == name) return value;
    fail(Reason::value, in_quotes(name));
  }

  const Call& arguments_;
  std::size_t next_ = 0;
};

}  // namespace

Value str_format(const Value& text, const Call& arguments) {
  return Value(Formatter(arguments).run(text.text()), text.is_markup());
}

}  // namespace metal_candle::jinja
