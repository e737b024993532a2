// From the regular expressions of Oniguruma (Ruby's syntax) to those of PCRE2. They are close; what differs is written
// out here: \s, \w, \d, \h, \v and word boundaries, {n,m}+ (repeated, not possessive), {,n}, (?m), nested classes, and
// characters younger than the library's tables. What cannot be said in PCRE2 is refused.
#include <algorithm>
#include <vector>

#include "io/tokenizer/pattern.h"
#include "io/tokenizer/unicode.h"

namespace metal_candle::io::tok {
namespace {

constexpr std::string_view kSpaceSet =
    R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

std::string hex(char32_t c) {
  std::string out = "\\x{";
  for (int shift = 20; shift >= 0; shift -= 4) out += "0123456789ABCDEF"[c >> shift & 15];
  return out + '}';
}

/// The short name of a general category that is written out, else the name itself.
std::string short_name(std::string name) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"Letter", "L"}, {"Mark", "M"},   {"Number", "N"},    {"Punctuation", "P"}, {"Punct", "P"},
      {"punct", "P"},  {"Symbol", "S"}, {"Separator", "Z"}, {"Other", "C"},       {"LC", "L&"},
  };
  for (const auto& [from, to] : kNames) {
    if (name == from) name = to;
  }
  return name;
}

/// How PCRE2 calls it. A long name is a script unless it is a property of other kinds; a bare \p{Han} would also take in
/// what scripts share, such as 、 and 。, which the reference leaves out.
std::string property_name(std::string_view name) {
  constexpr std::string_view kNoScripts[] = {"any",
                                             "ascii",
                                             "alphabetic",
                                             "alpha",
                                             "lowercase",
                                             "lower",
                                             "uppercase",
                                             "upper",
                                             "whitespace",
                                             "hexdigit",
                                             "asciihexdigit",
                                             "idstart",
                                             "idcontinue",
                                             "xidstart",
                                             "xidcontinue",
                                             "ideographic",
                                             "unifiedideograph",
                                             "math",
                                             "dash",
                                             "emoji",
                                             "emojipresentation",
                                             "emojimodifier",
                                             "emojimodifierbase",
                                             "emojicomponent",
                                             "extendedpictographic",
                                             "diacritic",
                                             "extender",
                                             "cased",
                                             "caseignorable",
                                             "quotationmark",
                                             "radical",
                                             "variationselector",
                                             "joincontrol",
                                             "noncharactercodepoint"};
  std::string plain;
  for (const char c : name)
    if (c != '_' && c != '-' && c != ' ') plain += static_cast<char>(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
  const bool script =
      name.size() > 2 && std::find(std::begin(kNoScripts), std::end(kNoScripts), plain) == std::end(kNoScripts);
  return (script ? "sc:" : "") + std::string(name);
}

/// Members of \p{name}, for within a class.
std::string property(std::string name) {
  name = short_name(std::move(name));
  std::string out = "\\p{";
  out.append(property_name(name)).append("}");
  if (name == "Alphabetic" || name == "Alpha") {
    for (const char* letters : {"L", "Nl"}) out += property(letters);
  }
  constexpr std::string_view kYoungAlphabetic =
      R"(\x{363}-\x{36F}\x{897}\x{C04}\x{CF3}\x{F82}\x{F83}\x{1DD3}-\x{1DE6}\x{10D69}\x{10EFC}\x{11080}\x{11081})"
      R"(\x{11241}\x{113B8}-\x{113C0}\x{113C2}\x{113C5}\x{113C7}-\x{113CA}\x{113CC}\x{113CD}\x{11F00}\x{11F01})"
      R"(\x{11F03}\x{11F34}-\x{11F3A}\x{11F3E}-\x{11F40}\x{1611E}-\x{1612E}\x{1E08F})";
  constexpr std::pair<std::string_view, std::string_view> kYoung[] = {
      {"Alphabetic", kYoungAlphabetic},
      {"Alpha", kYoungAlphabetic},
      {"Emoji", R"(\x{1F6DC}\x{1FA75}-\x{1FA77}\x{1FA87}-\x{1FA89}\x{1FA8F}\x{1FAAD}-\x{1FAAF}\x{1FABB}-\x{1FABF})"
                R"(\x{1FAC6}\x{1FACE}\x{1FACF}\x{1FADA}-\x{1FADC}\x{1FADF}\x{1FAE8}\x{1FAE9}\x{1FAF7}\x{1FAF8})"},
      {"Devanagari", R"(\x{11B00}-\x{11B09})"},
      {"Han", R"(\x{2B739}\x{31350}-\x{323AF}\x{2EBF0}-\x{2EE5D})"},
      {"Hiragana", R"(\x{1B132})"},
      {"Katakana", R"(\x{1B155})"},
      {"Latin", R"(\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}\x{1DF25}-\x{1DF2A})"},
      {"Cyrillic", R"(\x{1C89}\x{1C8A}\x{1E030}-\x{1E06D}\x{1E08F})"},
      {"Arabic", R"(\x{897}\x{10EC2}-\x{10EC4}\x{10EFC}-\x{10EFF})"},
  };
  for (const auto& [whole, young] : kYoung) {
    if (name == whole) out += young;
  }
  const bool cased = name == "L&";
  if (name.empty() || (name.size() > 2 && !cased)) return out;
  for (const LateRange& late : late_ranges()) {
    const std::string_view category = late.category;
    if (cased ? category == "Lu" || category == "Ll" || category == "Lt" : category.starts_with(name))
      out += hex(late.first) + '-' + hex(late.last);
  }
  return out;
}

/// What \w has outside of a class, and not within one: six numbers of Latin-1.
constexpr std::string_view kLatinNumbers = R"(\xB2\xB3\xB9\xBC-\xBE)";

/// Members of \w within a class: letters, marks, digits, connectors, and what else is alphabetic.
std::string word_set() {
  std::string out;
  for (const char* category : {"L", "M", "Nd", "Nl", "Pc"}) out += property(category);
  return out + R"(\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{1F150}-\x{1F169}\x{1F170}-\x{1F189})";
}

class Translator {
 public:
  explicit Translator(const std::string& in) : in_(in), word_in_class_(word_set()) {
    word_.append(word_in_class_).append(kLatinNumbers);
  }

  std::string run() {
    refuse_long_folds();
    while (at_ < in_.size()) atom();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const { throw PatternError("this version does not know " + what); }
  /// Without regard to case, one character may equal two there: ß and ss. PCRE2 has no such thing.
  void refuse_long_folds() const {
    if (in_.find("(?i") == std::string::npos && in_.find("(?mi") == std::string::npos) return;
    for (const std::string_view pair :
         {"ss", "ff", "fi", "fl", "st", "ß", "ẞ", "ŉ", "ǰ", "ﬀ", "ﬁ", "ﬂ", "ﬃ", "ﬄ", "ﬅ", "ﬆ"}) {
      const auto same = [](char a, char b) { return a == b || (b >= 'a' && b <= 'z' && (a | 0x20) == b); };
      if (std::search(in_.begin(), in_.end(), pair.begin(), pair.end(), same) != in_.end())
        refuse("(?i) with " + std::string(pair) + ", for which one character may stand");
    }
  }
  bool take(std::string_view s) {
    if (std::string_view(in_).substr(at_, s.size()) != s) return false;
    at_ += s.size();
    return true;
  }
  char peek(std::size_t i = 0) const { return at_ + i < in_.size() ? in_[at_ + i] : '\0'; }

  void atom() {
    const std::size_t start = out_.size();
    const char c = in_[at_];
    if (c == '(') {
      open();
      return;
    }
    if (c == ')') {
      if (groups_.empty()) throw PatternError("there is an unmatched )");
      atom_ = groups_.back();
      groups_.pop_back();
      out_ += c;
      ++at_;
      return;
    }
    if (c == '{' && bound()) return;
    if (c == '*' || c == '+' || c == '?' || c == '|' || c == '^' || c == '$' || c == '.') {
      out_ += c;
      ++at_;
      if (c == '.') atom_ = start;
      return;
    }
    atom_ = start;
    if (c == '[') {
      ++at_;
      character_class();
    } else if (c == '\\') {
      ++at_;
      escape();
    } else {
      do out_ += in_[at_++];
      while (at_ < in_.size() && utf8_continues(in_[at_]));
    }
  }

  void open() {
    groups_.push_back(out_.size());
    ++at_;
    out_ += '(';
    if (!take("?")) return;
    if (take("~")) refuse("the absence operator (?~");
    out_ += '?';
    // Options: Ruby's m lets the dot match newlines.
    while (peek() == 'i' || peek() == 'm' || peek() == 'x' || peek() == '-') {
      out_ += peek() == 'm' ? 's' : peek();
      ++at_;
    }
    while (at_ < in_.size() && std::string_view(":=!<>#)").find(peek()) == std::string_view::npos) out_ += in_[at_++];
    if (peek() == ')') return;
    if (at_ < in_.size()) out_ += in_[at_++];
  }

  /// {n}, {n,}, {n,m}, {,m}; false if the brace is a literal.
  bool bound() {
    const std::size_t close = in_.find('}', at_);
    if (close == std::string::npos) return false;
    const std::string body = in_.substr(at_ + 1, close - at_ - 1);
    if (body.empty() || body == "," || body.find_first_not_of("0123456789,") != std::string::npos) return false;
    at_ = close + 1;
    out_.append(body[0] == ',' ? "{0" : "{").append(body).append("}");
    if (peek() == '+') {
      out_.insert(atom_, "(?:");
      out_ += ')';
    }
    return true;
  }

  std::string braced() {
    if (peek() != '{') return std::string(1, in_[at_++]);
    const std::size_t close = in_.find('}', at_);
    if (close == std::string::npos) throw PatternError("there is an unclosed {");
    std::string name = in_.substr(at_ + 1, close - at_ - 1);
    at_ = close + 1;
    return name;
  }

  void escape() {
    if (at_ >= in_.size()) throw PatternError("it ends with a backslash");
    const char c = in_[at_++];
    const auto set = [&](std::string_view members, bool negated) {
      out_ += negated ? "[^" : "[";
      out_ += members;
      out_ += ']';
    };
    switch (c) {
      case 'p':
      case 'P': {
        std::string name = at_ < in_.size() ? braced() : "";
        const bool caret = name.starts_with('^');
        set(property(name.substr(caret)), (c == 'P') != caret);
        return;
      }
      case 's': return set(kSpaceSet, false);
      case 'S': return set(kSpaceSet, true);
      case 'd': return set(property("Nd"), false);
      case 'D': return set(property("Nd"), true);
      case 'w': return set(word_, false);
      case 'W': return set(word_, true);
      case 'h': return set("0-9A-Fa-f", false);
      case 'H': return set("0-9A-Fa-f", true);
      case 'b': return word_boundary(true);
      case 'B': return word_boundary(false);
      case 'G':
      case 'K':
      case 'X':
      case 'y':
      case 'Y':
      case 'g': refuse(std::string("\\") + c);
      default: --at_; out_ += plain_escape();
    }
  }

  /// Between a word character and another one, or anywhere else.
  void word_boundary(bool is) {
    const auto look = [this](const char* how) { out_.append("(?").append(how).append("[").append(word_).append("])"); };
    out_ += "(?:";
    look("<=");
    look(is ? "!" : "=");
    out_ += '|';
    look("<!");
    look(is ? "=" : "!");
    out_ += ')';
  }

  /// An escape that stands for one character or is the same in both, from the character after the backslash.
  std::string plain_escape() {
    const char c = in_[at_++];
    if (c == 'v') return "\\x0B";
    if (c == 'u') {
      const std::string digits = in_.substr(at_, 4);
      if (digits.size() < 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
        throw PatternError("\\u needs four hexadecimal digits");
      at_ += 4;
      return std::string("\\x{").append(digits).append("}");
    }
    std::string out{'\\', c};
    if (static_cast<unsigned char>(c) >= 0x80) out.erase(0, 1);
    while (static_cast<unsigned char>(c) >= 0x80 && at_ < in_.size() && utf8_continues(in_[at_])) out += in_[at_++];
    return out;
  }

  void character_class() {
    out_ += '[';
    if (take("^")) out_ += '^';
    if (peek() == ']') {
      out_ += "\\]";
      ++at_;
    }
    members();
    out_ += ']';
  }

  /// Up to and with the closing bracket, which is not written.
  void members() {
    if (++depth_ > 20) throw PatternError("its classes nest too deeply");
    while (true) {
      if (at_ >= in_.size()) throw PatternError("there is an unclosed [");
      if (take("]")) break;
      if (take("&&")) refuse("the intersection &&");
      if (take("[:space:]")) {
        out_ += kSpaceSet;
      } else if (take("[:digit:]")) {
        out_ += property("Nd");
      } else if (peek() == '[') {
        if (peek(1) == ':' || peek(1) == '^') refuse("the class " + in_.substr(at_, in_.find(']', at_) - at_ + 1));
        ++at_;
        members();
      } else if (take("\\")) {
        class_escape();
      } else {
        out_ += in_[at_++];
      }
    }
    --depth_;
  }

  void class_escape() {
    if (at_ >= in_.size()) throw PatternError("it ends with a backslash");
    const char c = in_[at_++];
    switch (c) {
      case 'p':
      case 'P': {
        const std::string name = at_ < in_.size() ? braced() : "";
        const bool caret = name.starts_with('^');
        if ((c == 'P') != caret) out_.append("\\P{").append(property_name(short_name(name.substr(caret)))).append("}");
        else out_ += property(name.substr(caret));
        return;
      }
      case 's': out_ += kSpaceSet; return;
      case 'S': out_ += "\\S\\x{180E}"; return;  // which PCRE2 holds for a space
      case 'd': out_ += property("Nd"); return;
      case 'D': out_ += "\\P{Nd}"; return;
      case 'w': out_ += word_in_class_; return;
      case 'h': out_ += "0-9A-Fa-f"; return;
      case 'W':
      case 'H':
      case 'R':
      case 'X': refuse(std::string("\\") + c + " within a class");
      default: --at_; out_ += plain_escape();
    }
  }

  const std::string& in_;
  std::string out_, word_, word_in_class_;
  std::size_t at_ = 0, atom_ = 0;
  int depth_ = 0;
  std::vector<std::size_t> groups_;  // where they begin in out_
};

}  // namespace

std::string translate_regex(const std::string& expression) { return Translator(expression).run(); }

}  // namespace metal_candle::io::tok
