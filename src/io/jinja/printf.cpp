// "%s and %05.1f" % (a, b)
#include <cmath>

#include "io/jinja/budget.h"
#include "io/jinja/operations.h"
#include "io/jinja/printf.h"
#include "io/jinja/repr.h"
#include "io/jinja/text.h"

namespace metal_candle::jinja {

namespace {

class Printf {
 public:
  Printf(std::string_view format, const Value& values) : format_(format), values_(values) {
    if (values.is_sequence() && values.sequence().is_tuple()) queue_ = values.sequence().items;
    else queue_ = {values};
  }

  std::string run() {
    while (at_ < format_.size()) {
      const std::size_t percent = std::min(format_.find('%', at_), format_.size());
      out_.append(format_.substr(at_, percent - at_));
      at_ = percent + 1;
      if (percent < format_.size()) conversion();
      spend_text(out_.size() / 32);
    }
    // A dict or a lone sequence may stay unused; a tuple or a plain value not.
    const bool may_stay = values_.is_dict() || (values_.is_sequence() && !values_.sequence().is_tuple());
    if (taken_ < queue_.size() && !may_stay) fail_type("not all arguments converted during string formatting");
    return std::move(out_);
  }

 private:
  char peek() const {
    if (at_ >= format_.size()) fail(Reason::value, "incomplete format");
    return format_[at_];
  }

  Value argument() {
    if (named_) return std::exchange(named_, std::nullopt).value();
    if (taken_ >= queue_.size()) fail_type("not enough arguments for format string");
    return queue_[taken_++];
  }

  void name() {
    if (peek() != '(') return;
    const std::size_t from = ++at_;
    for (int open = 1; open > 0; ++at_) open += (peek() == '(') - (peek() == ')');
    const std::string key(format_.substr(from, at_ - 1 - from));
    if (!values_.is_dict()) fail_type("format requires a mapping");
    const Value* found = values_.dict().find(std::string_view(key));
    if (!found) fail(Reason::value, in_quotes(key));
    named_ = *found;
    taken_ = queue_.size();
  }

  std::int64_t number() {
    if (peek() == '*') {
      ++at_;
      return to_int(argument(), "*");
    }
    std::int64_t value = 0;
    while (peek() >= '0' && peek() <= '9') {
      value = value * 10 + (format_[at_++] - '0');
      if (value > static_cast<std::int64_t>(kMaxFormatWidth)) fail(Reason::limit, "a format is too wide");
    }
    return value;
  }

  void flags(FormatSpec& spec) {
    for (;; ++at_) {
      switch (peek()) {
        case '-': spec.align = '<'; break;
        case '+': spec.sign = '+'; break;
        case ' ': spec.sign = spec.sign == '+' ? '+' : ' '; break;
        case '#': spec.alternate = true; break;
        case '0': zero_ = true; break;
        default: return;
      }
    }
  }

  void conversion() {
    FormatSpec spec;
    zero_ = false;
    name();
    flags(spec);
    const std::int64_t width = number();
    if (width < 0) spec.align = '<';
    if (std::abs(width) > static_cast<std::int64_t>(kMaxFormatWidth)) fail(Reason::limit, "a format is too wide");
    spec.width = static_cast<std::size_t>(std::abs(width));
    if (peek() == '.') {
      ++at_;
      const std::int64_t precision = number();
      if (precision > kMaxFormatPrecision) fail(Reason::limit, "a format is too precise");
      spec.precision = static_cast<int>(std::max<std::int64_t>(precision, 0));
    }
    while (peek() == 'l' || peek() == 'h' || peek() == 'L') ++at_;
    const char type = peek();
    ++at_;
    convert(spec, type);
  }

  void convert(FormatSpec& spec, char type) {
    switch (type) {
      case '%': out_ += '%'; return;
      case 's': return text(spec, to_text(argument()));
      case 'r':
      case 'a': return text(spec, repr(argument()));
      case 'c': return character(spec);
      case 'd':
      case 'i':
      case 'u': return whole(spec, 'd');
      case 'x':
      case 'X':
      case 'o': return whole(spec, type);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G': return real(spec, type);
      default:
        fail(Reason::value, "unsupported format character " + in_quotes(std::string(1, type)) + " at index " +
                                std::to_string(at_ - 1));
    }
  }

  void text(const FormatSpec& spec, std::string body) {
    if (spec.precision >= 0) body = encode(decode(body).substr(0, static_cast<std::size_t>(spec.precision)));
    out_ += pad(spec, "", std::move(body), '>');
  }

  void character(const FormatSpec& spec) {
    const Value value = argument();
    std::string body;
    if (value.is_whole() && value.whole() >= 0 && value.whole() < 0x110000)
      append(body, static_cast<char32_t>(value.whole()));
    else if (value.is_text() && code_points(value.text()) == 1) body = value.text();
    else fail_type("%c requires int or char");
    out_ += pad(spec, "", std::move(body), '>');
  }

  void digits(FormatSpec& spec, const Value& value) {
    if (zero_ && spec.align != '<') {
      spec.fill = "0";
      spec.align = '=';
    }
    out_ += format_number(spec, value);
  }

  void whole(FormatSpec& spec, char type) {
    Value value = argument();
    require_defined(value);
    if (!value.is_number() || (type != 'd' && !value.is_whole()))
      fail_type("%" + std::string(1, type) + " format: " + (type == 'd' ? "a real number" : "an integer") +
                " is required, not " + type_name(value));
    if (value.kind() == Kind::real) {
      if (!(std::abs(value.real()) < 9e18)) fail(Reason::value, "cannot convert float to integer");
      value = static_cast<std::int64_t>(value.real());
    }
    spec.type = type;
    digits(spec, value);
  }

  void real(FormatSpec& spec, char type) {
    const Value value = argument();
    require_defined(value);
    if (!value.is_number()) fail_type("must be real number, not " + type_name(value));
    spec.type = type;
    digits(spec, value);
  }

  std::string_view format_;
  const Value& values_;
  std::vector<Value> queue_;
  std::size_t at_ = 0, taken_ = 0;
  std::optional<Value> named_;
  bool zero_ = false;
  std::string out_;
};

}  // namespace

Value printf_format(const Value& text, const Value& values) {
  return Value(Printf(text.text(), values).run(), text.is_markup());
}

}  // namespace metal_candle::jinja
