// Cutting text in pieces.
#include <algorithm>

#include "io/jinja/budget.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

bool space_at(std::string_view text, std::size_t at, std::size_t& width) {
  width = 1;
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 128) return is_space(byte);
  while (at + width < text.size() && width < 4 && (static_cast<unsigned char>(text[at + width]) & 0xC0) == 0x80)
    ++width;
  const std::u32string codes = decode(text.substr(at, width));
  return codes.size() == 1 && is_space(codes[0]);
}

std::vector<std::string> split_space_left(std::string_view text, long limit) {
  std::vector<std::string> parts;
  text = strip(text, Side::left);
  while (!text.empty()) {
    if (limit >= 0 && static_cast<long>(parts.size()) == limit) {
      parts.emplace_back(text);
      break;
    }
    std::size_t end = 0, width = 0;
    while (end < text.size() && !space_at(text, end, width)) end += width;
    parts.emplace_back(text.substr(0, end));
    text = strip(text.substr(end), Side::left);
  }
  return parts;
}

std::vector<std::string> split_space_right(std::string_view text, long limit) {
  std::vector<std::string> words = split_space_left(text, -1);
  if (limit < 0 || static_cast<long>(words.size()) <= limit) return words;
  text = strip(text, Side::right);
  // What is left of the last `limit` words stays one piece.
  for (long i = 0; i < limit; ++i) {
    text.remove_suffix(words[words.size() - 1 - static_cast<std::size_t>(i)].size());
    text = strip(text, Side::right);
  }
  std::vector<std::string> parts;
  if (!text.empty()) parts.emplace_back(text);
  parts.insert(parts.end(), words.end() - limit, words.end());
  return parts;
}

}  // namespace

std::vector<std::string> split_space(std::string_view text, long limit, bool from_right) {
  return from_right ? split_space_right(text, limit) : split_space_left(text, limit);
}

std::vector<std::string> split_at(std::string_view text, std::string_view separator, long limit, bool from_right) {
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<long>(parts.size()) < limit) {
    const std::size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == text.npos) break;
    if (from_right) {
      parts.emplace_back(text.substr(at + separator.size()));
      text = text.substr(0, at);
    } else {
      parts.emplace_back(text.substr(0, at));
      text.remove_prefix(at + separator.size());
    }
  }
  parts.emplace_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  auto is_end = [](char32_t c) {
    return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
  };
  const std::u32string codes = decode(text);
  for (std::size_t at = 0; at < codes.size();) {
    std::size_t end = at;
    while (end < codes.size() && !is_end(codes[end])) ++end;
    std::size_t behind = std::min(end + 1, codes.size());
    if (end + 1 < codes.size() && codes[end] == '\r' && codes[end + 1] == '\n') ++behind;
    lines.push_back(encode(std::u32string_view(codes).substr(at, (keep_ends ? behind : end) - at)));
    at = behind;
  }
  return lines;
}

namespace {

/// How often `replace` will write `to`, at most.
std::size_t count(std::string_view text, std::string_view from) {
  if (from.empty()) return code_points(text) + 1;
  std::size_t found = 0;
  for (std::size_t at = text.find(from); at != text.npos; at = text.find(from, at + from.size())) ++found;
  return found;
}

}  // namespace

std::string replace(std::string_view text, std::string_view from, std::string_view to, long limit) {
  std::size_t times = count(text, from);
  if (limit >= 0) times = std::min(times, static_cast<std::size_t>(limit));
  if (times == 0) return std::string(text);
  spend_text(text.size() + times * to.size());  // both are texts in memory: no overflow
  std::string out;
  long done = 0;
  auto more = [&] { return limit < 0 || done < limit; };
  if (from.empty()) {
    for (char32_t c : decode(text)) {
      if (more()) out += to, ++done;
      append(out, c);
    }
    if (more()) out += to;
    return out;
  }
  while (more()) {
    const std::size_t at = text.find(from);
    if (at == text.npos) break;
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
    ++done;
  }
  return out.append(text);
}

}  // namespace metal_candle::jinja
