// Cuts a template in data, {{ }}, {% %} and their tokens, with jinja2's rules for trim_blocks and lstrip_blocks.
#include "io/jinja/lexer.h"

#include <algorithm>

#include "io/jinja/repr.h"
#include "io/jinja/scan.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

/// Lines end with \n alone, and the last newline of a template is no part of it.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    out += source[i] == '\r' ? '\n' : source[i];
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) root();
    push(Token::Kind::end, at_, {});
    return std::move(tokens_);
  }

 private:
  std::string_view rest(std::size_t from) const { return std::string_view(source_).substr(from); }
  bool sees(std::string_view what) const { return rest(at_).starts_with(what); }

  [[noreturn]] void fail(std::size_t where, std::string message) {
    const auto [line, column] = place(where);
    throw Fault{Reason::syntax, std::move(message), line, column};
  }

  std::pair<int, int> place(std::size_t where) {
    // Called with growing places, but for errors.
    if (where < counted_) counted_ = 0, line_ = column_ = 1;
    for (; counted_ < where; ++counted_) {
      column_ += (static_cast<unsigned char>(source_[counted_]) & 0xC0) != 0x80;
      if (source_[counted_] == '\n') ++line_, column_ = 1;
    }
    return {line_, column_};
  }

  Token& push(Token::Kind kind, std::size_t where, std::string text) {
    const auto [line, column] = place(where);
    return tokens_.emplace_back(Token{.kind = kind, .text = std::move(text), .line = line, .column = column});
  }

  /// Data up to the next tag, and what the tag is.
  void root() {
    std::size_t open = source_.find('{', at_);
    while (open != source_.npos &&
           (open + 1 == source_.size() || std::string_view("{%#").find(source_[open + 1]) == std::string_view::npos))
      open = source_.find('{', open + 1);
    if (open == source_.npos) {
      push(Token::Kind::data, at_, source_.substr(at_));
      at_ = source_.size();
      return;
    }
    const char kind = source_[open + 1];
    const char sign = open + 2 < source_.size() ? source_[open + 2] : 0;
    data(open, sign, kind != '{');
    at_ = open + 2 + (sign == '-' || sign == '+');
    if (kind == '#') return comment(open);
    if (kind == '%' && raw_begin()) return raw(open);
    push(kind == '%' ? Token::Kind::tag_begin : Token::Kind::print_begin, open, {});
    inside(kind == '%');
  }

  /// The data before a tag at `open`: stripped for a minus; of a block's own indentation otherwise.
  void data(std::size_t open, char sign, bool block) {
    std::string_view text = rest(at_).substr(0, open - at_);
    if (sign == '-') {
      text = strip(text, Side::right);
    } else if (sign != '+' && block) {
      const std::size_t newline = text.rfind('\n');
      const std::size_t line = newline == text.npos ? 0 : newline + 1;
      const bool starts = line > 0 || at_ == 0 || source_[at_ - 1] == '\n';
      if (starts && strip(text.substr(line), Side::both).empty()) text = text.substr(0, line);
    }
    if (!text.empty()) push(Token::Kind::data, at_, std::string(text));
  }

  void skip_space() { at_ = source_.size() - strip(rest(at_), Side::left).size(); }

  /// Behind the closing sign of a block or comment: -%} takes all space, %} a newline, +%} nothing.
  void close(char sign) {
    at_ += 2;
    if (sign == '-') skip_space();
    if (sign == 0 && sees("\n")) ++at_;
  }

  void comment(std::size_t open) {
    const std::size_t end = source_.find("#}", at_);
    if (end == source_.npos) fail(open, "Missing end of comment tag");
    const char before = end > at_ ? source_[end - 1] : '\0';
    at_ = end;
    close(before == '-' || before == '+' ? before : '\0');
  }

  /// Whether {% raw %} stands here; moves behind it if so.
  bool raw_begin() {
    const std::size_t start = at_;
    skip_space();
    if (sees("raw")) {
      at_ += 3;
      skip_space();
      if (sees("-%}")) {
        at_ += 3;
        skip_space();
        return true;
      }
      if (sees("%}")) {
        at_ += 2;
        return true;
      }
    }
    at_ = start;
    return false;
  }

  void raw(std::size_t open) {
    const std::size_t from = at_;
    for (std::size_t tag = source_.find("{%", from); tag != source_.npos; tag = source_.find("{%", tag + 2)) {
      at_ = tag + 2;
      const char sign = at_ < source_.size() ? source_[at_] : 0;
      if (sign == '-' || sign == '+') ++at_;
      skip_space();
      if (!sees("endraw")) continue;
      at_ += 6;
      skip_space();
      const char end = sees("-%}") ? '-' : sees("+%}") ? '+' : '\0';
      if (end != 0) ++at_;
      if (!sees("%}")) continue;
      const std::size_t behind = at_;
      at_ = from;
      data(tag, sign, true);
      at_ = behind;
      return close(end);
    }
    fail(open, "Missing end of raw directive");
  }

  /// Tokens up to the end of the tag.
  void inside(bool tag) {
    brackets_.clear();
    while (at_ < source_.size()) {
      if (brackets_.empty() && tag_end(tag)) return;
      if (const std::size_t space = rest(at_).size() - strip(rest(at_), Side::left).size()) {
        at_ += space;
        continue;
      }
      token();
    }
  }

  bool tag_end(bool tag) {
    const char sign = sees("-") ? '-' : tag && sees("+") ? '+' : '\0';
    if (!rest(at_ + (sign != 0)).starts_with(tag ? "%}" : "}}")) return false;
    push(tag ? Token::Kind::tag_end : Token::Kind::print_end, at_, {});
    at_ += sign != 0;
    if (tag) {
      close(sign);
    } else {
      at_ += 2;
      if (sign == '-') skip_space();
    }
    return true;
  }

  void token() {
    const std::size_t from = at_;
    if (const Scanned number = scan_number(source_, at_); number.size > 0) {
      push(number.real ? Token::Kind::real : Token::Kind::integer, from, {}).number = number_value(number, from);
      at_ += number.size;
    } else if (const std::size_t name = scan_name(rest(at_))) {
      if (!is_identifier(rest(at_).substr(0, name))) fail(from, "Invalid character in identifier");
      push(Token::Kind::name, from, source_.substr(from, name));
      at_ += name;
    } else if (const std::size_t text = scan_text(rest(at_))) {
      try {
        push(Token::Kind::text, from, unescape(rest(at_).substr(1, text - 2)));
      } catch (const Fault& fault) {
        fail(from, fault.message);
      }
      at_ += text;
    } else {
      sign();
    }
  }

  Value number_value(const Scanned& number, std::size_t from) {
    try {
      return value_of(number);
    } catch (const Fault& fault) {
      fail(from, fault.message);
    }
  }

  void sign() {
    constexpr std::string_view kSigns[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                           "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    const auto* found = std::find_if(std::begin(kSigns), std::end(kSigns), [&](auto s) { return sees(s); });
    if (found == std::end(kSigns)) {
      const std::u32string codes = decode(rest(at_).substr(0, 4));
      fail(at_, "unexpected char " + in_quotes(encode(codes.substr(0, 1))) + " at " +
                    std::to_string(code_points(std::string_view(source_).substr(0, at_))));
    }
    balance(found->front());
    push(Token::Kind::sign, at_, std::string(*found));
    at_ += found->size();
  }

  void balance(char sign) {
    constexpr std::string_view kOpen = "{([", kClose = "})]";
    if (const auto i = kOpen.find(sign); i != kOpen.npos) brackets_ += kClose[i];
    if (kClose.find(sign) == kClose.npos) return;
    if (brackets_.empty()) fail(at_, std::string("unexpected '") + sign + "'");
    const char expected = brackets_.back();
    brackets_.pop_back();
    if (sign != expected) fail(at_, std::string("unexpected '") + sign + "', expected '" + expected + "'");
  }

  std::string source_;
  std::size_t at_ = 0;
  std::vector<Token> tokens_;
  std::string brackets_;  // the closing ones that are awaited
  std::size_t counted_ = 0;
  int line_ = 1, column_ = 1;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(normalized(source)).run(); }

std::string describe(const Token& token) {
  switch (token.kind) {
    case Token::Kind::data: return "template data / text";
    case Token::Kind::print_begin: return "begin of print statement";
    case Token::Kind::print_end: return "end of print statement";
    case Token::Kind::tag_begin: return "begin of statement block";
    case Token::Kind::tag_end: return "end of statement block";
    case Token::Kind::text: return "string";
    case Token::Kind::integer: return "integer";
    case Token::Kind::real: return "float";
    case Token::Kind::end: return "end of template";
    default: return token.text;
  }
}

}  // namespace metal_candle::jinja
