// Filters that lay text and values out for people: wordwrap as Python's textwrap does it, pprint as its pprint.
#include <algorithm>

#include "io/jinja/budget.h"
#include "io/jinja/filters.h"
#include "io/jinja/operations.h"
#include "io/jinja/repr.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

using Line = std::u32string;

// ---- wordwrap -------------------------------------------------------------------------------------------------------

bool is_blank(char32_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/// Cuts a line where it may be broken: at blanks, behind hyphens within words, around dashes.
class Chunks {
 public:
  Chunks(const Line& line, bool hyphens) : s_(line), hyphens_(hyphens) {}

  std::vector<Line> cut() {
    std::vector<Line> out;
    for (std::size_t at = 0; at < s_.size();) {
      const std::size_t end = is_blank(s_[at]) ? blanks(at) : hyphens_ ? word(at) : plain(at);
      out.push_back(s_.substr(at, end - at));
      at = end;
    }
    return out;
  }

 private:
  bool letter(std::size_t i) const {
    return i < s_.size() && is_word(s_[i]) && !all_are(encode({&s_[i], 1}), CharClass::decimal);
  }
  /// What a word may end in.
  bool ending(std::size_t i) const {
    return i < s_.size() && (is_word(s_[i]) || std::u32string_view(U"!\"'&.,?").find(s_[i]) != Line::npos);
  }
  std::size_t blanks(std::size_t at) const {
    while (at < s_.size() && is_blank(s_[at])) ++at;
    return at;
  }
  std::size_t plain(std::size_t at) const {
    while (at < s_.size() && !is_blank(s_[at])) ++at;
    return at;
  }
  /// Behind the dashes that begin here, if there are two or more and a word follows; else `at`.
  std::size_t dash(std::size_t at) const {
    std::size_t end = at;
    while (end < s_.size() && s_[end] == '-') ++end;
    return end - at >= 2 && end < s_.size() && is_word(s_[end]) ? end : at;
  }
  /// A hyphen at i, between two letters or an initial on its left, and letters on its right.
  bool breaks_behind(std::size_t i) const {
    const bool left =
        (i >= 2 && letter(i - 1) && letter(i - 2)) || (i >= 3 && ending(i - 1) && s_[i - 2] == '-' && letter(i - 3));
    return left && letter(i + 1) && (letter(i + 2) || (i + 2 < s_.size() && s_[i + 2] == '-' && letter(i + 3)));
  }
  std::size_t word(std::size_t at) const {
    if (at > 0 && ending(at - 1) && dash(at) > at) return dash(at);
    for (std::size_t i = at + 1; i < s_.size() && !is_blank(s_[i]); ++i) {
      if (s_[i] == '-' && breaks_behind(i)) return i + 1;
      if (ending(i - 1) && dash(i) > i) return i;
    }
    return plain(at);
  }

  const Line& s_;
  bool hyphens_;
};

bool blank(const Line& chunk) { return std::all_of(chunk.begin(), chunk.end(), is_space); }

/// Where a word that is longer than a line is cut to fill `room`.
std::size_t cut_of(const Line& word, std::size_t room, bool hyphens) {
  if (!hyphens || word.size() <= room || room == 0) return room;
  const std::size_t hyphen = word.rfind(U'-', room - 1);
  const bool good = hyphen != Line::npos && hyphen > 0 &&
                    std::any_of(word.begin(), word.begin() + static_cast<std::ptrdiff_t>(hyphen),
                                [](char32_t c) { return c != '-'; });
  return good ? hyphen + 1 : room;
}

std::vector<Line> wrapped(const Line& line, std::size_t width, bool long_words, bool hyphens) {
  std::vector<Line> chunks = Chunks(line, hyphens).cut(), lines;
  std::reverse(chunks.begin(), chunks.end());
  while (!chunks.empty()) {
    spend(1);
    if (!lines.empty() && blank(chunks.back())) chunks.pop_back();
    Line now, last;
    const auto take = [&](Line chunk) { now += last, last = std::move(chunk); };
    while (!chunks.empty() && now.size() + last.size() + chunks.back().size() <= width) {
      take(std::move(chunks.back()));
      chunks.pop_back();
    }
    if (!chunks.empty() && chunks.back().size() > width) {
      Line& word = chunks.back();
      if (long_words) {
        const std::size_t end = cut_of(word, width - now.size() - last.size(), hyphens);
        take(word.substr(0, end));
        word.erase(0, end);
      } else if (now.empty() && last.empty()) {
        take(std::move(word));
        chunks.pop_back();
      }
    }
    if (!blank(last)) now += last;
    if (!now.empty()) lines.push_back(std::move(now));
  }
  return lines;
}

Value word_wrap(const Value& subject, const Parameters& p) {
  const std::int64_t width = p.whole(0, 79);
  require_defined(subject);
  if (!subject.is_text()) fail_type("'" + type_name(subject) + "' object has no attribute 'splitlines'");
  const std::string& text = subject.text();
  const std::string joint = p.text_or(2, "\n");
  const bool long_words = p.flag(1, true), hyphens = p.flag(3, true);
  std::string out;
  bool first_line = true;
  for (const std::string& line : split_lines(text, false)) {
    if (!std::exchange(first_line, false)) out += joint;
    if (width <= 0 && !line.empty()) fail(Reason::value, "invalid width " + std::to_string(width) + " (must be > 0)");
    const auto room = static_cast<std::size_t>(std::min<std::int64_t>(width, 1 << 30));
    bool first = true;
    for (const Line& one : wrapped(decode(line), room, long_words, hyphens)) {
      if (!std::exchange(first, false)) out += joint;
      out += encode(one);
      spend_text(out.size() / 32);
    }
  }
  spend_text(out.size());
  return out;
}

// ---- pprint ---------------------------------------------------------------------------------------------------------

bool comes_before(const Value& a, const Value& b) {
  if (a.is_text() && b.is_text()) return a.text() < b.text();
  if (a.is_number() && b.is_number()) return a.real() < b.real();
  return type_name(a) < type_name(b);
}

/// The same with the keys of all dicts in order.
Value in_order(const Value& value) {
  spend(1);
  if (value.is_dict()) {
    std::vector<Dict::Item> items = value.dict().items();
    std::stable_sort(items.begin(), items.end(),
                     [](const auto& a, const auto& b) { return comes_before(a.first, b.first); });
    Dict out;
    for (auto& [key, item] : items) out.set(key, in_order(item));
    return out;
  }
  if (!value.is_sequence() || (value.sequence().form != Sequence::Form::list && !value.sequence().is_tuple()))
    return value;
  std::vector<Value> items;
  for (const Value& item : value.sequence().items) items.push_back(in_order(item));
  return value.sequence().is_tuple() ? Value::tuple(std::move(items)) : Value::list(std::move(items));
}

class Pretty {
 public:
  /// `indent`: the column it stands at; `allowance`: what follows it on its last line.
  void put(const Value& value, std::size_t indent, std::size_t allowance, int level) {
    const std::string flat = repr(value);
    const bool fits = indent + allowance + code_points(flat) <= kWidth;
    const bool list = value.is_sequence() && value.sequence().form == Sequence::Form::list;
    if (!fits && value.is_dict()) put_dict(value.dict(), indent, allowance + 1, level + 1);
    else if (!fits && list) put_items('[', value.sequence().items, "]", indent, allowance, level + 1);
    else if (!fits && value.is_sequence() && value.sequence().is_tuple())
      put_tuple(value, indent, allowance, level + 1);
    else if (!fits && value.is_text()) put_text(value.text(), indent, allowance, level + 1);
    else out_ += flat;
    spend_text(out_.size() / 32);
  }
  std::string take() { return std::move(out_); }

 private:
  static constexpr std::size_t kWidth = 80;

  void next_line(std::size_t indent) { out_.append("\n").append(indent, ' '); }

  void put_dict(const Dict& dict, std::size_t indent, std::size_t allowance, int level) {
    out_ += '{';
    for (std::size_t i = 0; i < dict.size(); ++i) {
      const auto& [key, item] = dict.items()[i];
      const std::string name = repr(key);
      if (i > 0) out_ += ',', next_line(indent + 1);
      out_ += name + ": ";
      put(item, indent + 1 + code_points(name) + 2, i + 1 == dict.size() ? allowance : 1, level);
    }
    out_ += '}';
  }
  void put_items(char open, const std::vector<Value>& items, std::string_view close, std::size_t indent,
                 std::size_t allowance, int level) {
    out_ += open;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += ',', next_line(indent + 1);
      put(items[i], indent + 1, i + 1 == items.size() ? allowance + close.size() : 1, level);
    }
    out_ += close;
  }
  void put_tuple(const Value& value, std::size_t indent, std::size_t allowance, int level) {
    const std::vector<Value>& items = value.sequence().items;
    put_items('(', items, items.size() == 1 ? ",)" : ")", indent, allowance, level);
  }
  /// A long text as several in a row, broken behind spaces and line ends.
  void put_text(const std::string& text, std::size_t indent, std::size_t allowance, int level) {
    if (level == 1) ++indent, ++allowance;
    const std::size_t most = kWidth > indent ? kWidth - indent : 0, least = most > allowance ? most - allowance : 0;
    std::vector<std::string> chunks;
    const std::vector<std::string> lines = split_lines(text, true);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const bool last_line = i + 1 == lines.size();
      if (code_points(in_quotes(lines[i])) <= (last_line ? least : most)) {
        chunks.push_back(in_quotes(lines[i]));
        continue;
      }
      std::string now;
      const std::vector<std::string> parts = with_spaces(lines[i]);
      for (std::size_t j = 0; j < parts.size(); ++j) {
        const std::size_t room = last_line && j + 1 == parts.size() ? least : most;
        if (code_points(in_quotes(now + parts[j])) > room) {
          if (!now.empty()) chunks.push_back(in_quotes(now));
          now = parts[j];
        } else {
          now += parts[j];
        }
      }
      if (!now.empty()) chunks.push_back(in_quotes(now));
    }
    const bool brackets = level == 1 && chunks.size() > 1;
    if (brackets) out_ += '(';
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      if (i > 0) next_line(indent);
      out_ += chunks[i];
    }
    if (brackets) out_ += ')';
  }
  /// Words, each with the spaces behind it.
  static std::vector<std::string> with_spaces(const std::string& line) {
    std::vector<std::string> out;
    const Line codes = decode(line);
    for (std::size_t at = 0; at < codes.size();) {
      std::size_t end = at;
      while (end < codes.size() && !is_space(codes[end])) ++end;
      while (end < codes.size() && is_space(codes[end])) ++end;
      out.push_back(encode(codes.substr(at, end - at)));
      at = end;
    }
    return out;
  }

  std::string out_;
};

Value pretty(const Value& subject, const Parameters&) {
  Pretty out;
  out.put(in_order(subject), 0, 0, 0);
  return out.take();
}

constexpr Filter kLayoutFilters[] = {
    {"pprint", pretty},
    {"wordwrap", word_wrap, {"width", "break_long_words", "wrapstring", "break_on_hyphens"}},
};

}  // namespace

std::span<const Filter> layout_filters() { return kLayoutFilters; }

}  // namespace metal_candle::jinja
