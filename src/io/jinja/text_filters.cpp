// Filters that make text.
#include <fmt/format.h>

#include <algorithm>

#include "io/jinja/budget.h"
#include "io/jinja/filters.h"
#include "io/jinja/operations.h"
#include "io/jinja/printf.h"
#include "io/jinja/repr.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

template <std::string (*function)(std::string_view)>
Value mapped(const Value& subject, const Parameters&) {
  const Value text = soft_text(subject);
  spend_text(text.text().size());
  return Value(function(text.text()), text.is_markup());
}

/// A letter behind a space, a hyphen or an opening bracket is large, the others small.
std::string headline(std::string_view text) {
  auto begins = [](char32_t c) {
    return is_space(c) || (c < 128 && std::string_view("-({[<").find(static_cast<char>(c)) != std::string_view::npos);
  };
  std::string out;
  bool first = true;
  for (char32_t c : decode(text)) {
    const std::string one = encode({&c, 1});
    out += first ? upper(one) : lower(one);
    first = begins(c);
  }
  return out;
}

Value trim(const Value& subject, const Parameters& p) {
  const Value text = soft_text(subject);
  std::optional<std::string_view> chars;
  if (p.has(0) && !p[0]->is_none()) chars = p.text(0);
  return Value(std::string(strip(text.text(), Side::both, chars)), text.is_markup());
}

Value replace(const Value& subject, const Parameters& p) {
  const std::string from = to_text(p.required(0)), to = to_text(p.required(1));
  return jinja::replace(to_text(subject), from, to, static_cast<long>(p.whole(2, -1)));
}

Value center(const Value& subject, const Parameters& p) {
  const Value width = p.has(0) ? *p[0] : Value(80);
  return (*find_text_method(soft_text(subject), "center")).object()->call({.positional = {width}});
}

Value indent(const Value& subject, const Parameters& p) {
  require_defined(subject);
  if (!subject.is_text()) fail_type("can only indent text, not " + type_name(subject));
  std::string margin;
  if (p.has(0) && p[0]->is_text()) margin = p[0]->text();
  else margin.assign(static_cast<std::size_t>(std::clamp<std::int64_t>(p.whole(0, 4), 0, kMaxFormatWidth)), ' ');
  const bool first = p.flag(1, false), blank = p.flag(2, false);
  const std::vector<std::string> lines = split_lines(subject.text() + "\n", false);
  spend_text(subject.text().size() + lines.size() * (margin.size() + 1));
  std::string out;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i == 0 ? first : blank || !lines[i].empty()) out += margin;
    out += lines[i];
  }
  return Value(std::move(out), subject.is_markup());
}

Value truncate(const Value& subject, const Parameters& p) {
  const std::int64_t most = std::min<std::int64_t>(p.whole(0, 255), 1 << 30), leeway = p.whole(3, 5);
  const std::string end = p.text_or(2, "...");
  const auto tail = static_cast<std::int64_t>(code_points(end));
  if (most < tail) fail(Reason::value, fmt::format("expected length >= {}, got {}", tail, most));
  if (leeway < 0) fail(Reason::value, fmt::format("expected leeway >= 0, got {}", leeway));
  if (!subject.is_text()) length(subject);  // throws as Python would
  require_defined(subject);
  if (!subject.is_text()) fail_type("can only truncate text, not " + type_name(subject));
  const std::u32string codes = decode(subject.text());
  if (static_cast<std::int64_t>(codes.size()) <= most + std::min<std::int64_t>(leeway, 1 << 30)) return subject;
  const std::string head = encode(codes.substr(0, static_cast<std::size_t>(most - tail)));
  if (p.flag(1, false)) return head + end;
  return split_at(head, " ", 1, true)[0] + end;
}

Value word_count(const Value& subject, const Parameters&) {
  std::int64_t words = 0;
  bool within = false;
  for (char32_t c : decode(to_text(subject))) {
    words += is_word(c) && !within;
    within = is_word(c);
  }
  return words;
}

Value format(const Value& subject, const Call& call) {
  if (!call.positional.empty() && !call.named.empty())
    fail_type("can't handle positional and keyword arguments at the same time");
  Dict named;
  for (const auto& [name, value] : call.named) named.set(Value(name), value);
  return printf_format(soft_text(subject),
                       call.named.empty() ? Value::tuple(call.positional) : Value(std::move(named)));
}

Value as_string(const Value& subject, const Parameters&) { return soft_text(subject); }
Value safe(const Value& subject, const Parameters&) { return Value(to_text(subject), true); }

Value escape(const Value& subject, const Parameters&) {
  if (subject.is_markup()) return subject;
  const std::string text = to_text(subject);
  spend_text(text.size() * 5);
  return Value(escape_html(text), true);
}
Value force_escape(const Value& subject, const Parameters&) {
  const std::string text = to_text(subject);
  spend_text(text.size() * 5);
  return Value(escape_html(text), true);
}

Value url_encode(const Value& subject, const Parameters&) {
  auto quote = [](std::string_view text, bool query) {
    std::string out;
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                         std::string_view("_.-~").find(c) != std::string_view::npos || (c == '/' && !query);
      out += plain ? std::string(1, c) : query && c == ' ' ? "+" : fmt::format("%{:02X}", byte);
    }
    return out;
  };
  if (subject.is_text() || !is_iterable(subject)) return quote(to_text(subject), false);
  std::string out;
  const Value pairs = subject.is_dict() ? (*find_container_method(subject, "items")).object()->call({}) : subject;
  for (const Value& pair : iterate(pairs)) {
    const std::vector<Value> both = iterate(pair);
    if (both.size() != 2) fail(Reason::value, "urlencode wants pairs");
    if (!out.empty()) out += '&';
    out += quote(to_text(both[0]), true) + "=" + quote(to_text(both[1]), true);
    spend_text(out.size() / 32);
  }
  return out;
}

Value to_json(const Value& subject, const Parameters& p) {
  JsonStyle style;
  style.ascii = p.flag(0, false);
  if (p.has(1) && p[1]->is_text()) style.indent = p[1]->text();
  else if (p.has(1) && !p[1]->is_none())
    style.indent = std::string(static_cast<std::size_t>(std::clamp<std::int64_t>(p.whole(1, 0), 0, 1024)), ' ');
  if (style.indent) style.comma = ",";
  if (p.has(2) && !p[2]->is_none()) {
    const std::vector<Value> both = iterate(*p[2]);
    if (both.size() != 2 || !both[0].is_text() || !both[1].is_text())
      fail(Reason::value, "tojson: separators must be two texts");
    style.comma = both[0].text();
    style.colon = both[1].text();
  }
  style.sort_keys = p.flag(3, false);
  return jinja::to_json(subject, style);
}

Value strip_tags(const Value& subject, const Parameters&) {
  std::string text = to_text(subject);
  for (auto [open, close] : {std::pair<std::string_view, std::string_view>{"<!--", "-->"}, {"<", ">"}}) {
    std::string kept;
    std::string_view rest = text;
    for (std::size_t at; (at = rest.find(open)) != rest.npos;) {
      const std::size_t end = rest.find(close, at);
      if (end == rest.npos) break;
      kept.append(rest.substr(0, at));
      rest.remove_prefix(end + close.size());
    }
    text = kept.append(rest);
  }
  std::string out;
  for (const std::string& word : split_space(text, -1, false)) out += (out.empty() ? "" : " ") + word;
  for (auto [entity, plain] : {std::pair<std::string_view, std::string_view>{"&lt;", "<"},
                               {"&gt;", ">"},
                               {"&#34;", "\""},
                               {"&quot;", "\""},
                               {"&#39;", "'"},
                               {"&amp;", "&"}})
    out = jinja::replace(out, entity, plain, -1);
  return out;
}

Value xml_attributes(const Value& subject, const Parameters& p) {
  if (!subject.is_dict()) fail_type("xmlattr wants a dict, not " + type_name(subject));
  std::string out;
  for (const auto& [key, value] : subject.dict().items()) {
    if (value.is_none() || value.is_undefined()) continue;
    const std::string name = to_text(key), text = to_text(value);
    if (name.find_first_of(" \t\n\r\f\v/>=") != name.npos)
      fail(Reason::value, "Invalid character in attribute name: " + in_quotes(name));
    if (!out.empty()) out += ' ';
    out += escape_html(name) + "=\"" + (value.is_markup() ? text : escape_html(text)) + "\"";
    spend_text(out.size() / 32);
  }
  return p.flag(0, true) && !out.empty() ? " " + out : out;
}

constexpr Filter kTextFilters[] = {
    {"capitalize", mapped<capitalize>},
    {"center", center, {"width"}},
    {"e", escape},
    {"escape", escape},
    {"forceescape", force_escape},
    {"format", nullptr, {}, format},
    {"indent", indent, {"width", "first", "blank"}},
    {"lower", mapped<lower>},
    {"replace", replace, {"old", "new", "count"}},
    {"safe", safe},
    {"string", as_string},
    {"striptags", strip_tags},
    {"title", mapped<headline>},
    {"tojson", to_json, {"ensure_ascii", "indent", "separators", "sort_keys"}},
    {"trim", trim, {"chars"}},
    {"truncate", truncate, {"length", "killwords", "end", "leeway"}},
    {"upper", mapped<upper>},
    {"urlencode", url_encode},
    {"wordcount", word_count},
    {"xmlattr", xml_attributes, {"autospace"}},
};

}  // namespace

std::span<const Filter> text_filters() { return kTextFilters; }

}  // namespace metal_candle::jinja
