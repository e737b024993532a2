// Where a template meets the rest of the program: JSON in, text or a TemplateError out.
#include "io/jinja/template.h"

#include <charconv>

#include "io/jinja/interpreter.h"

namespace metal_candle::jinja {

namespace {

constexpr std::size_t kMaxSource = 4u << 20;

Value integer(const Json& json) {
  const std::string digits = json.dump();
  std::int64_t value = 0;
  if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec == std::errc{}) return value;
  return std::shared_ptr<Object>(std::make_shared<LongInteger>(digits));
}

[[noreturn]] void raise(const Fault& fault, const std::string& origin) {
  throw TemplateError(fault.reason, origin, fault.line, fault.column, fault.message);
}

}  // namespace

Value from_json(const Json& json) {
  spend(1);
  switch (json.kind()) {
    case Json::Kind::null: return {};
    case Json::Kind::boolean: return json.as_bool();
    case Json::Kind::integer: return integer(json);
    case Json::Kind::real: return json.as_double();
    case Json::Kind::string: return json.as_string();
    case Json::Kind::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const Json& element : json.elements()) items.push_back(from_json(element));
      return Value::list(std::move(items));
    }
    case Json::Kind::object: break;
  }
  Dict dict;
  for (const JsonMember& member : json.items()) dict.set(Value(member.key), from_json(member.value));
  return dict;
}

Template Template::parse(std::string_view source, std::string origin) {
  try {
    if (source.size() > kMaxSource) fail(Reason::limit, "the template is longer than 4 MiB");
    Program program = jinja::parse(source);
    return Template(std::move(program), std::move(origin));
  } catch (const Fault& fault) {
    raise(fault, origin);
  }
}

Rendered Template::render(const Json& context, const std::tm& now, const Limits& limits) const {
  const Budget budget(limits);
  try {
    const Value given = from_json(context);
    Interpreter interpreter(program_, given.dict(), now);
    std::string text = interpreter.run();
    return {std::move(text), interpreter.generated()};
  } catch (const Fault& fault) {
    raise(fault, origin_);
  }
}

}  // namespace metal_candle::jinja
