#include "metal_candle/chat_template.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace metal_candle {
namespace {

Json messages(std::string_view text) { return Json::parse(text, "messages"); }
ChatTemplate chat(std::string_view source) { return {source, "<s>", "</s>", "model/tokenizer_config.json"}; }

TEST(ChatTemplate, GivesTheTemplateWhatTransformersGives) {
  const auto t = chat(
      "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}"
      "{{ add_generation_prompt }} {{ tools }} {{ documents }} {{ mood }}");
  EXPECT_EQ(t.render(messages(R"([{"role": "user", "content": "hi"}])"),
                     {.add_generation_prompt = false, .extra = Json::object({{"mood", "good"}})}),
            "<s>user:hi</s>False None None good");
  EXPECT_EQ(ChatTemplate("{{ bos_token is defined }}", "", "", "t").render(Json::array()), "False");
}

TEST(ChatTemplate, KnowsEveryTokenAndMayHaveAnotherTextForTools) {
  const ChatTemplate t({.text = "{{ pad_token }}{{ mask_token is defined }}",
                        .origin = "t",
                        .with_tools = "{{ tools }}{{ pad_token }}",
                        .tokens = Json::object({{"pad_token", "<p>"}})});
  EXPECT_EQ(t.render(Json::array()), "<p>False");
  EXPECT_EQ(t.render(Json::array(), {.tools = Json::array({1})}), "[1]<p>");
  EXPECT_THAT([] { ChatTemplate({.text = "", .origin = "t", .with_tools = "{{"}); },
              testing::Throws<TemplateError>(testing::Property(&TemplateError::what, testing::HasSubstr("tool_use"))));
}

TEST(ChatTemplate, ReasoningIsFoundByAnyOfItsNames) {
  const auto t = chat("{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }};{% endfor %}");
  EXPECT_EQ(t.render(messages(R"([{"role": "a", "reasoning": "r"}, {"role": "a", "thinking": "t"}, {"role": "a"}])")),
            "rr;tt;;");
}

// As Python has them. There a template can compute with them; here that is an error.
TEST(ChatTemplate, ShowsIntegersOfAnySize) {
  const auto show = [](const std::string& source) {
    return chat(source).render(Json::array(), {.tools = Json::parse(R"([{"most": 18446744073709551615,
        "least": -9223372036854775809, "same": 18446744073709551615, "long": 1000000000000000000000000000000}])",
                                                                    "f")});
  };
  EXPECT_EQ(show("{{ tools[0] | tojson }}"),
            R"({"most": 18446744073709551615, "least": -9223372036854775809, "same": 18446744073709551615, )"
            R"("long": 1000000000000000000000000000000})");
  EXPECT_EQ(
      show("{{ tools[0].least }} {{ tools[0].most is number }} {{ tools[0].most is integer }} "
           "{{ tools[0].most == tools[0].same }} {{ tools[0].most == tools[0].long }} {{ tools[0].most is string }} "
           "{{ 'yes' if tools[0].most }}"),
      "-9223372036854775809 True True True False False yes");
  EXPECT_THROW(show("{{ tools[0].most + 1 }}"), TemplateError);
}

TEST(ChatTemplate, DateIsTheOneGiven) {
  const auto t = chat("{{ strftime_now('%A %d %b %Y') }}");
  EXPECT_EQ(t.render(Json::array(), {.date = "2024-02-29"}), "Thursday 29 Feb 2024");
  for (const char* date : {"2023-02-29", "yesterday", "2024-13-01", "2024-01-01x"})
    EXPECT_THROW(t.render(Json::array(), {.date = date}), UserError) << date;
}

TEST(ChatTemplate, ErrorsNameFileAndLine) {
  try {
    chat("one\n{% if x %}\n{{ 1 + }}");
    FAIL();
  } catch (const TemplateError& e) {
    EXPECT_EQ(e.reason(), TemplateError::Reason::syntax);
    EXPECT_EQ(e.fault(), FileFault::bad);
    EXPECT_EQ(e.line(), 3);
    EXPECT_EQ(e.column(), 8);
    EXPECT_STREQ(e.what(), "model/tokenizer_config.json: line 3, column 8: unexpected 'end of print statement'");
  }
  try {
    chat("\n{{ raise_exception('roles must alternate') }}").render(Json::array());
    FAIL();
  } catch (const TemplateError& e) {
    EXPECT_EQ(e.reason(), TemplateError::Reason::raised);
    EXPECT_EQ(e.message(), "roles must alternate");
    EXPECT_EQ(e.line(), 2);
  }
}

TEST(ChatTemplate, MessagesThatAreNone) {
  EXPECT_THROW(chat("x").render(Json("hi")), UserError);
  try {
    chat("x").render(messages(R"([{"role": "user"}, 5])"));
    FAIL();
  } catch (const UserError& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("messages[1]: expected an object, got 5"));
  }
}

TEST(ChatTemplate, RendersOnManyThreads) {
  const auto t =
      chat("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}");
  const Json two = messages(R"([{"role": "a"}, {"role": "b"}])");
  std::vector<std::thread> threads;
  std::vector<int> good(8);
  for (std::size_t i = 0; i < good.size(); ++i)
    threads.emplace_back([&, i] {
      for (int round = 0; round < 200; ++round) good[i] += t.render(two) == "2";
    });
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(good, testing::Each(200));
}

}  // namespace
}  // namespace metal_candle
