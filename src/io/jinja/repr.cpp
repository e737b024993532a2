// str() and repr() of Python, and json.dumps.
#include "io/jinja/repr.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "io/jinja/budget.h"
#include "io/jinja/operations.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

void write_repr(std::string& out, const Value& value);

void write_items(std::string& out, const std::vector<Value>& items, bool tuple) {
  out += tuple ? '(' : '[';
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    write_repr(out, items[i]);
  }
  if (tuple && items.size() == 1) out += ',';
  out += tuple ? ')' : ']';
}

void write_sequence(std::string& out, const Value& value) {
  const Sequence& sequence = value.sequence();
  switch (sequence.form) {
    case Sequence::Form::list: return write_items(out, sequence.items, false);
    case Sequence::Form::tuple:
    case Sequence::Form::group: return write_items(out, sequence.items, true);
    case Sequence::Form::range: out += sequence.note; return;
    case Sequence::Form::generator: out += "<generator>"; return;
    default:
      out += type_name(value) + "(";
      write_items(out, sequence.items, false);
      out += ')';
  }
}

void write_dict(std::string& out, const Dict& dict) {
  out += '{';
  bool first = true;
  for (const auto& [key, item] : dict.items()) {
    if (!std::exchange(first, false)) out += ", ";
    write_repr(out, key);
    out += ": ";
    write_repr(out, item);
  }
  out += '}';
}

void write_repr(std::string& out, const Value& value) {
  spend(1);
  const Level level;  // a namespace may hold itself
  switch (value.kind()) {
    case Kind::undefined: out += "Undefined"; break;
    case Kind::none: out += "None"; break;
    case Kind::boolean: out += value.boolean() ? "True" : "False"; break;
    case Kind::integer: out += std::to_string(value.whole()); break;
    case Kind::real: out += digits(value.real()); break;
    case Kind::text: {
      const std::string text = in_quotes(value.text());
      spend_text(out.size() + text.size());
      out += value.is_markup() ? "Markup(" + text + ")" : text;
      break;
    }
    case Kind::sequence: write_sequence(out, value); break;
    case Kind::dict: write_dict(out, value.dict()); break;
    case Kind::object: out += value.object()->repr(); break;
  }
}

}  // namespace

std::string to_text(const Value& value) {
  if (value.is_text()) return value.text();
  if (value.is_undefined()) return {};
  return repr(value);
}

std::string repr(const Value& value) {
  std::string out;
  write_repr(out, value);
  return out;
}

std::string digits(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const double size = std::abs(value);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value,
                                          plain ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer, error == std::errc() ? end : buffer);
  if (plain && text.find('.') == text.npos) text += ".0";
  return text;
}

std::string in_quotes(std::string_view text) {
  const bool doubled = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char32_t quote = doubled ? '"' : '\'';
  std::string out(1, static_cast<char>(quote));
  for (char32_t c : decode(text)) {
    if (c == quote || c == '\\') {
      out += '\\';
      append(out, c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (is_printable(c)) {
      append(out, c);
    } else {
      const auto code = static_cast<std::uint32_t>(c);
      out += c < 0x100     ? fmt::format("\\x{:02x}", code)
             : c < 0x10000 ? fmt::format("\\u{:04x}", code)
                           : fmt::format("\\U{:08x}", code);
    }
  }
  return out += static_cast<char>(quote);
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&#34;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

}  // namespace metal_candle::jinja
