// Templates: read and run, or refused; within the limits either way.
#include "io/jinja/template.h"
#include "tests/fuzz/targets.h"

namespace metal_candle::fuzz {

void jinja(std::string_view bytes) {
  static const Json context = Json::parse(
      R"({"messages": [{"role": "user", "content": "a <b> é"}, {"role": "assistant", "content": ["x", 1.5, null]}],
          "tools": [{"function": {"name": "f", "arguments": {"k": [1, true]}}}], "n": 3, "text": "one two", "add_generation_prompt": true})",
      "context");
  constexpr jinja::Limits kLimits{.steps = 20'000, .depth = 300, .output = 1 << 16};
  try {
    const auto program = jinja::Template::parse(bytes, "fuzzed");
    const std::string text = program.render(context, {}, kLimits).text;
    must(text.size() <= kLimits.output, "a text within its limit");
    must(program.render(context, {}, kLimits).text == text, "the same text again");
  } catch (const TemplateError& e) {
    must(e.line() > 0, "an error with its line");
  }
}

}  // namespace metal_candle::fuzz
