// The methods of str.
#include <algorithm>

#include "io/jinja/access.h"
#include "io/jinja/budget.h"
#include "io/jinja/operations.h"
#include "io/jinja/printf.h"
#include "io/jinja/repr.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

Value texts(std::vector<std::string> parts) {
  spend(1 + parts.size());
  std::vector<Value> items;
  for (std::string& part : parts) items.emplace_back(std::move(part));
  return Value::list(std::move(items));
}

template <std::string (*function)(std::string_view)>
Value with_text(const Value& self, const Parameters&) {
  spend_text(self.text().size());
  return Value(function(self.text()), self.is_markup());
}

template <bool (*function)(std::string_view)>
Value asked(const Value& self, const Parameters&) {
  return function(self.text());
}

template <CharClass what>
Value all(const Value& self, const Parameters&) {
  return all_are(self.text(), what);
}

template <Side side>
Value stripped(const Value& self, const Parameters& p) {
  spend_text(self.text().size());
  std::optional<std::string_view> chars;
  if (p.has(0) && !p[0]->is_none()) chars = p.text(0);
  return Value(std::string(strip(self.text(), side, chars)), self.is_markup());
}

template <bool from_right>
Value split(const Value& self, const Parameters& p) {
  spend_text(self.text().size());
  const long limit = static_cast<long>(p.whole(1, -1));
  if (!p.has(0) || p[0]->is_none()) return texts(split_space(self.text(), limit, from_right));
  if (p.text(0).empty()) fail(Reason::value, "empty separator");
  return texts(split_at(self.text(), p.text(0), limit, from_right));
}

Value split_lines(const Value& self, const Parameters& p) {
  spend_text(self.text().size());
  return texts(jinja::split_lines(self.text(), p.flag(0, false)));
}

template <bool from_right>
Value partition(const Value& self, const Parameters& p) {
  const std::string &text = self.text(), &separator = p.text(0);
  if (separator.empty()) fail(Reason::value, "empty separator");
  spend_text(text.size());
  const std::size_t at = from_right ? text.rfind(separator) : text.find(separator);
  if (at == std::string_view::npos) return from_right ? Value::tuple({"", "", self}) : Value::tuple({self, "", ""});
  return Value::tuple({text.substr(0, at), separator, text.substr(at + separator.size())});
}

/// The part [start, end) that a search is told to look at, with the code points before it.
struct Part {
  std::string text;
  std::int64_t before = 0;
  bool valid = true;
};

Part part(const Value& self, const Parameters& p, std::size_t first) {
  spend_text(self.text().size());
  if (!p.has(first) && !p.has(first + 1)) return {self.text()};
  const std::u32string codes = decode(self.text());
  const auto size = static_cast<std::int64_t>(codes.size());
  auto place = [&](std::int64_t i) { return std::clamp<std::int64_t>(i < 0 ? std::max(i, -size) + size : i, 0, size); };
  const std::int64_t asked = p.whole(first, 0), from = place(asked), to = place(p.whole(first + 1, size));
  if (asked > size || from > to) return {"", 0, false};
  return {
      encode(std::u32string_view(codes).substr(static_cast<std::size_t>(from), static_cast<std::size_t>(to - from))),
      from};
}

template <bool at_end>
Value has_affix(const Value& self, const Parameters& p) {
  const Part where = part(self, p, 1);
  auto fits = [&](const Value& affix) {
    if (!affix.is_text()) fail_type("the argument of startswith and endswith must be str or a tuple of str");
    const std::string_view text = where.text;
    return where.valid && (at_end ? text.ends_with(affix.text()) : text.starts_with(affix.text()));
  };
  const Value& affix = p.required(0);
  require_defined(affix);
  if (!affix.is_sequence() || !affix.sequence().is_tuple()) return fits(affix);
  return std::any_of(affix.sequence().items.begin(), affix.sequence().items.end(), fits);
}

template <bool from_right, bool must_be>
Value find(const Value& self, const Parameters& p) {
  const Part where = part(self, p, 1);
  const std::size_t at = from_right ? where.text.rfind(p.text(0)) : where.text.find(p.text(0));
  if (at != std::string::npos && where.valid)
    return where.before + static_cast<std::int64_t>(code_points(std::string_view(where.text).substr(0, at)));
  if (must_be) fail(Reason::value, "substring not found");
  return -1;
}

Value count(const Value& self, const Parameters& p) {
  const Part where = part(self, p, 1);
  const std::string& wanted = p.text(0);
  if (!where.valid) return 0;
  if (wanted.empty()) return static_cast<std::int64_t>(code_points(where.text)) + 1;
  std::int64_t found = 0;
  for (std::size_t at = where.text.find(wanted); at != std::string::npos;
       at = where.text.find(wanted, at + wanted.size()))
    ++found;
  return found;
}

Value replace_in(const Value& self, const Parameters& p) {
  return Value(jinja::replace(self.text(), p.text(0), p.text(1), static_cast<long>(p.whole(2, -1))), self.is_markup());
}

Value join(const Value& self, const Parameters& p) {
  std::string out;
  std::int64_t i = 0;
  for (const Value& item : iterate(p.required(0))) {
    if (!item.is_text())
      fail_type("sequence item " + std::to_string(i) + ": expected str instance, " + type_name(item) + " found");
    if (i++ > 0) out += self.text();
    out += item.text();
    spend_text(out.size() / 32);
  }
  return Value(std::move(out), self.is_markup());
}

template <char align>
Value justified(const Value& self, const Parameters& p) {
  FormatSpec spec;
  spec.align = align;
  const std::int64_t width = std::max<std::int64_t>(to_int(p.required(0), "width"), 0);
  if (width > static_cast<std::int64_t>(kMaxFormatWidth)) fail(Reason::limit, "a format is too wide");
  spec.width = static_cast<std::size_t>(width);
  if (p.has(1)) spec.fill = p.text(1);
  if (code_points(spec.fill) != 1) fail_type("The fill character must be exactly one character long");
  if (align != '^') return Value(pad(spec, "", self.text(), align), self.is_markup());
  // Python's centre leans left where one character is over and the width is even.
  const std::size_t size = code_points(self.text()), over = spec.width > size ? spec.width - size : 0;
  const std::size_t left = over / 2 + (over & spec.width & 1);
  FormatSpec first = spec;
  first.width = size + left;
  first.align = '>', spec.align = '<';
  return Value(pad(spec, "", pad(first, "", self.text(), '>'), '<'), self.is_markup());
}

Value zero_filled(const Value& self, const Parameters& p) {
  FormatSpec spec;
  const std::int64_t width = std::max<std::int64_t>(to_int(p.required(0), "width"), 0);
  if (width > static_cast<std::int64_t>(kMaxFormatWidth)) fail(Reason::limit, "a format is too wide");
  spec.width = static_cast<std::size_t>(width);
  spec.fill = "0";
  spec.align = '=';
  std::string_view text = self.text();
  const std::string_view sign = text.starts_with('+') || text.starts_with('-') ? text.substr(0, 1) : "";
  return pad(spec, sign, std::string(text.substr(sign.size())), '=');
}

Value expand_tabs(const Value& self, const Parameters& p) {
  const std::int64_t size = std::clamp<std::int64_t>(p.whole(0, 8), 0, 1024);
  std::string out;
  std::int64_t column = 0;
  for (char32_t c : decode(self.text())) {
    if (c != '\t') {
      append(out, c);
      column = c == '\n' || c == '\r' ? 0 : column + 1;
      continue;
    }
    const std::int64_t spaces = size > 0 ? size - column % size : 0;
    spend_text(out.size() / 1024 + static_cast<std::size_t>(spaces));
    out.append(static_cast<std::size_t>(spaces), ' ');
    column += spaces;
  }
  return out;
}

Value without_prefix(const Value& self, const Parameters& p) {
  const std::string& text = self.text();
  return text.starts_with(p.text(0)) ? text.substr(p.text(0).size()) : text;
}
Value without_suffix(const Value& self, const Parameters& p) {
  const std::string& text = self.text();
  return text.ends_with(p.text(0)) ? text.substr(0, text.size() - p.text(0).size()) : text;
}

std::string fold(std::string_view text) { return jinja::replace(lower(text), "ß", "ss", -1); }

constexpr Method kMethods[] = {
    {"capitalize", with_text<capitalize>, {}},
    {"casefold", with_text<fold>, {}},
    {"center", justified<'^'>, {"width", "fillchar"}},
    {"count", count, {"sub", "start", "end"}},
    {"endswith", has_affix<true>, {"suffix", "start", "end"}},
    {"expandtabs", expand_tabs, {"tabsize"}},
    {"find", find<false, false>, {"sub", "start", "end"}},
    {"index", find<false, true>, {"sub", "start", "end"}},
    {"isalnum", all<CharClass::alnum>, {}},
    {"isalpha", all<CharClass::alpha>, {}},
    {"isascii", all<CharClass::ascii>, {}},
    {"isdecimal", all<CharClass::decimal>, {}},
    {"isdigit", all<CharClass::digit>, {}},
    {"isidentifier", asked<is_identifier>, {}},
    {"islower", asked<is_lower>, {}},
    {"isnumeric", all<CharClass::numeric>, {}},
    {"isprintable", all<CharClass::printable>, {}},
    {"isspace", all<CharClass::space>, {}},
    {"istitle", asked<is_title>, {}},
    {"isupper", asked<is_upper>, {}},
    {"join", join, {"iterable"}},
    {"ljust", justified<'<'>, {"width", "fillchar"}},
    {"lower", with_text<lower>, {}},
    {"lstrip", stripped<Side::left>, {"chars"}},
    {"partition", partition<false>, {"sep"}},
    {"removeprefix", without_prefix, {"prefix"}},
    {"removesuffix", without_suffix, {"suffix"}},
    {"replace", replace_in, {"old", "new", "count"}},
    {"rfind", find<true, false>, {"sub", "start", "end"}},
    {"rindex", find<true, true>, {"sub", "start", "end"}},
    {"rjust", justified<'>'>, {"width", "fillchar"}},
    {"rpartition", partition<true>, {"sep"}},
    {"rsplit", split<true>, {"sep", "maxsplit"}},
    {"rstrip", stripped<Side::right>, {"chars"}},
    {"split", split<false>, {"sep", "maxsplit"}},
    {"splitlines", split_lines, {"keepends"}},
    {"startswith", has_affix<false>, {"prefix", "start", "end"}},
    {"strip", stripped<Side::both>, {"chars"}},
    {"swapcase", with_text<swap_case>, {}},
    {"title", with_text<title>, {}},
    {"upper", with_text<upper>, {}},
    {"zfill", zero_filled, {"width"}},
};

/// `format` takes what it is given, by any names.
struct Format : Object {
  explicit Format(Value self_) : self(std::move(self_)) {}
  std::string type() const override { return "builtin_function_or_method"; }
  bool callable() const override { return true; }
  Value call(const Call& call) override { return str_format(self, call); }
  Value self;
};

}  // namespace

std::optional<Value> find_text_method(const Value& self, std::string_view name) {
  if (name == "format") return Value(std::shared_ptr<Object>(std::make_shared<Format>(self)));
  const auto* found =
      std::find_if(std::begin(kMethods), std::end(kMethods), [&](const Method& m) { return m.name == name; });
  return found == std::end(kMethods) ? std::nullopt : std::optional(bind(self, *found));
}

}  // namespace metal_candle::jinja
