#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "io/json_tree.h"

namespace metal_candle {
namespace {

void write_text(std::string& out, std::string_view text) {
  out += '"';
  const char *p = text.data(), *const end = p + text.size();
  while (p < end) {
    const auto byte = static_cast<unsigned char>(*p);
    const int length = io::utf8_length(p, end);
    constexpr std::string_view kValues = "\"\\\b\f\n\r\t", kNames = "\"\\bfnrt";
    if (length == 0) {
      out += "\xef\xbf\xbd";  // U+FFFD
      ++p;
      continue;
    }
    if (const auto found = kValues.find(*p); found != std::string_view::npos) out += '\\', out += kNames[found];
    else if (byte < 0x20) out += fmt::format("\\u{:04x}", byte);
    else out.append(p, static_cast<std::size_t>(length));
    p += length;
  }
  out += '"';
}

void write_real(std::string& out, double value) {
  if (std::isnan(value)) return void(out += "\"NaN\"");
  if (std::isinf(value)) return void(out += value > 0 ? "\"Infinity\"" : "\"-Infinity\"");
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  const std::string_view written(digits, static_cast<std::size_t>(end - digits));
  out += written;
  if (written.find_first_of(".e") == std::string_view::npos) out += ".0";  // stays a real
}

}  // namespace

std::string Json::dump(int indent) const {
  std::string out;
  write(out, indent, 1);
  return out;
}

void Json::write(std::string& out, int indent, int depth) const {
  const auto line = [&](int level) {
    if (indent > 0) out += '\n', out.append(static_cast<std::size_t>(indent) * static_cast<std::size_t>(level), ' ');
  };
  const auto list = [&](char open, char close, const auto& all, const auto& one) {
    out += open;
    bool first = true;
    for (const auto& element : all) {
      if (!first) out += indent > 0 ? "," : ", ";
      first = false;
      line(depth);
      one(element);
    }
    if (!first) line(depth - 1);
    out += close;
  };
  switch (kind_) {
    case Kind::null: out += "null"; break;
    case Kind::boolean: out += boolean_ ? "true" : "false"; break;
    case Kind::integer: wide_ ? out += text() : out += fmt::format_int(integer_).str(); break;
    case Kind::real: write_real(out, real_); break;
    case Kind::string: write_text(out, text()); break;
    case Kind::array: list('[', ']', elements_->list, [&](const Json& j) { j.write(out, indent, depth + 1); }); break;
    case Kind::object:
      list('{', '}', members_->list, [&](const JsonMember& m) {
        write_text(out, m.key);
        out += ": ";
        m.value.write(out, indent, depth + 1);
      });
  }
}

}  // namespace metal_candle
