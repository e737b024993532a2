// Rows of jsonl as tokens and what of them is predicted; errors that name the line.
#include "metal_candle/dataset.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "metal_candle/chat_template.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/json.hpp"
#include "metal_candle/tokenizer.hpp"
#include "tests/training/training_support.h"

namespace metal_candle {
namespace {

/// A token a byte, but for "he" and special tokens; <s> is put in front.
Tokenizer letters() {
  Json vocab = Json::object();
  for (int c = 32; c < 127; ++c) vocab.set(c == 32 ? std::string("Ġ") : std::string(1, static_cast<char>(c)), c);
  vocab.set("Ċ", 10);
  vocab.set("he", 200);
  Json added = Json::array();
  int id = 300;
  for (const char* token : {"<s>", "<end>", "<|user|>", "<|model|>", "<|im_end|>", "<|over|>", "</s>"}) {
    vocab.set(token, id);
    added.push_back(Json::object({{"id", id++},
                                  {"content", token},
                                  {"single_word", false},
                                  {"lstrip", false},
                                  {"rstrip", false},
                                  {"normalized", false},
                                  {"special", true}}));
  }
  const Json begin = Json::object({{"SpecialToken", Json::object({{"id", "<s>"}, {"type_id", 0}})}});
  const Json a = Json::object({{"Sequence", Json::object({{"id", "A"}, {"type_id", 0}})}});
  const Json b = Json::object({{"Sequence", Json::object({{"id", "B"}, {"type_id", 1}})}});
  const Json post = Json::object(
      {{"type", "TemplateProcessing"},
       {"single", Json::array({begin, a})},
       {"pair", Json::array({begin, a, begin, b})},
       {"special_tokens",
        Json::object(
            {{"<s>", Json::object({{"id", "<s>"}, {"ids", Json::array({300})}, {"tokens", Json::array({"<s>"})}})}})}});
  const Json byte_level =
      Json::object({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}});
  const Json model = Json::object({{"type", "BPE"},
                                   {"dropout", nullptr},
                                   {"unk_token", nullptr},
                                   {"continuing_subword_prefix", nullptr},
                                   {"end_of_word_suffix", nullptr},
                                   {"fuse_unk", false},
                                   {"byte_fallback", false},
                                   {"vocab", vocab},
                                   {"merges", Json::array({"h e"})}});
  return Tokenizer::from_json(Json::object({{"version", "1.0"},
                                            {"truncation", nullptr},
                                            {"padding", nullptr},
                                            {"added_tokens", added},
                                            {"normalizer", nullptr},
                                            {"pre_tokenizer", byte_level},
                                            {"post_processor", post},
                                            {"decoder", byte_level},
                                            {"model", model}})
                                  .dump(),
                              "tokenizer.json");
}

/// <s>, then for each message its role's token, a line break, the content and <end>.
std::string show(const Json& messages, const Json& tools, bool prompt) {
  std::string text = tools.is_null() ? "<s>" : "<s>" + tools.dump();
  for (const Json& m : messages.elements()) {
    const std::string role(m.at("role").as_string());
    if (role == "nobody") throw UserError(ErrorKind::argument, "no such role");
    text += (role == "assistant" ? "<|model|>\n" : "<|user|>\n") + std::string(m.at("content").as_string()) + "<end>\n";
  }
  return prompt ? text + "<|model|>\n" : text;
}

constexpr std::int32_t kBegin = 300, kEnd = 301;

Dataset parse(const std::string& jsonl, DatasetOptions options = {}, const ChatRenderer& chat = show) {
  options.end_token = kEnd;
  return Dataset::parse(jsonl, "data.jsonl", letters(), chat, options);
}
Sample only(const std::string& row, DatasetOptions options = {}) {
  const Dataset d = parse(row, options);
  EXPECT_EQ(d.size(), 1u);
  return d[0];
}
/// What is predicted, as text.
std::string predicted(const Sample& s) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < s.tokens.size(); ++i)
    if (s.supervised[i]) ids.push_back(s.tokens[i]);
  return letters().decode(ids);
}

TEST(Rows, ATextIsItsTokensAndTheEndTokenOnce) {
  const Sample s = only(R"({"text": "hey", "id": 7})");
  EXPECT_EQ(s.tokens, (std::vector<std::int32_t>{kBegin, 200, 'y', kEnd}));
  EXPECT_EQ(predicted(s), "hey<end>");
  EXPECT_EQ(only(R"({"text": "hey<end>"})").tokens, s.tokens);
}

TEST(Rows, OfAPromptAndCompletionTheCompletionAndTheEndArePredicted) {
  const Sample s = only(R"({"prompt": "a b ", "completion": "hey"})");
  EXPECT_EQ(letters().decode(s.tokens), "<s>a b hey<end>");
  EXPECT_EQ(predicted(s), "hey<end>");
  const Sample split = only(R"({"prompt": "a h", "completion": "ey"})");
  EXPECT_EQ(predicted(split), "hey<end>") << "a token of both is the completion's";
  EXPECT_EQ(predicted(only(R"({"prompt": "a", "completion": ""})")), "<end>");
  EXPECT_EQ(predicted(only(R"({"prompt": "a b", "completion": "c"})", {.train_on = TrainOn::all})), "a bc<end>");
}

TEST(Rows, OfMessagesTheAnswersAndTheirEndsArePredicted) {
  const Sample s = only(
      R"({"messages": [{"role": "user", "content": "model"}, {"role": "assistant", "content": "hey"}, {"role": "user", "content": "hey"}, {"role": "assistant", "content": " yes "}]})");
  EXPECT_EQ(letters().decode(s.tokens),
            "<s><|user|>\nmodel<end>\n<|model|>\nhey<end>\n<|user|>\nhey<end>\n<|model|>\n yes <end>\n");
  EXPECT_EQ(predicted(s), "hey<end> yes <end>");
  const Sample all = only(R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})",
                          {.train_on = TrainOn::all});
  EXPECT_EQ(predicted(all), "<|user|>\na<end>\n<|model|>\nb<end>\n");
}

TEST(Rows, AnswersOfNoWeightAreNotLearned) {
  const auto row = [](const char* weight) {
    return std::string(
               R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": )") +
           weight + R"(}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "weight": 1}]})";
  };
  EXPECT_EQ(predicted(only(row("0"))), "d<end>");
  EXPECT_EQ(predicted(only(row("1"))), "b<end>d<end>");
  EXPECT_EQ(predicted(only(row("null"))), "b<end>d<end>");
  EXPECT_THROW(only(row("0.5")), FileError);
}

TEST(Rows, AModelsTemplateIsARenderer) {
  const ChatTemplate chat(
      "{% for m in messages %}<|user|>{{ m['content'] }}<end>{% endfor %}{% if add_generation_prompt %}<|user|>{% "
      "endif %}",
      "", "", "template");
  const Dataset d = parse(R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})",
                          {}, chat_renderer(chat));
  EXPECT_EQ(letters().decode(d[0].tokens), "<|user|>a<end><|user|>b<end>");
  EXPECT_EQ(predicted(d[0]), "b<end>");
}

/// What is predicted of a row, here on several lines, that a template shows.
std::string predicted_by(const std::string& source, std::string row) {
  std::replace(row.begin(), row.end(), '\n', ' ');
  const Dataset d = parse(row, {}, chat_renderer(ChatTemplate(source, "", "</s>", "template")));
  return d.size() == 1 ? predicted(d[0]) : "no row";
}

TEST(Rows, AnAnswerIsFoundWhereTheTemplatePutItNotWhereItsTextStands) {
  // As Mistral's: what the system says moves into the last message of the user, so nothing shown before is a prefix.
  const std::string moved =
      "{% set first = messages[0]['content'] %}{% for m in messages[1:] %}{% if m['role'] == 'user' %}<|user|>"
      "{% if loop.index0 >= messages|length - 3 %}{{ first }} {% endif %}{{ m['content'] }}"
      "{% else %}<|model|>{{ m['content'] }}<end>{% endif %}{% endfor %}";
  EXPECT_EQ(
      predicted_by(moved, R"({"messages": [{"role": "system", "content": "4?"}, {"role": "user", "content": "2+2"},
      {"role": "assistant", "content": "4"}, {"role": "user", "content": "is it 4"}, {"role": "assistant", "content": "4"}]})"),
      "4<end>4<end>");
  const std::string plain = "{% for m in messages %}<|user|>{{ m['content'] }}<end>{% endfor %}";
  EXPECT_EQ(predicted_by(
                plain, R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b\n"}]})"),
            "b\n<end>");
  EXPECT_EQ(
      predicted_by(plain, R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]})"),
      "<end>");
  const std::string trims = "{% for m in messages %}<|user|>{{ m['content'] | trim }} <end>{% endfor %}";
  EXPECT_EQ(predicted_by(
                trims, R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " b\n"}]})"),
            "b<end>");
  EXPECT_THAT(
      [&] {
        return predicted_by("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",
                            R"({"messages": [{"role": "assistant", "content": "b"}]})");
      },
      testing::Throws<FileError>(testing::Property(&FileError::what, testing::HasSubstr("as it stands"))));
}

TEST(Rows, OfTheWhiteSpaceAroundAnAnswerATemplateMayStripAny) {
  const std::string content = "\n\n  x = 1  \n\n";
  const auto learned = [&](const std::string& how, const std::string& behind, const std::string& answer) {
    const ChatTemplate chat(
        "{% for m in messages %}<|user|>{{ m['content']" + how + " }}" + behind + "<end>{% endfor %}", "", "",
        "template");
    const Json turn = Json::object({{"role", "user"}, {"content", "a"}});
    const Json said = Json::object({{"role", "assistant"}, {"content", answer}});
    const Json row = Json::object({{"messages", Json::array({turn, said, turn, said})}});
    return predicted(parse(row.dump(), {}, chat_renderer(chat))[0]);
  };
  const auto twice = [](const std::string& text) { return text + "<end>" + text + "<end>"; };
  EXPECT_EQ(learned("", "", content), twice(content));
  EXPECT_EQ(learned("|trim", "", "\u3000" + content + "\u3000"), twice("x = 1"));
  EXPECT_EQ(learned(".lstrip('\\n')", "", content), twice("  x = 1  \n\n"));
  EXPECT_EQ(learned(".strip('\\n')", "", content), twice("  x = 1  "));
  EXPECT_EQ(learned(".lstrip('\\n')", "", "\n \n"), twice(" \n"));
  // White space of the template's own is not learned.
  EXPECT_EQ(learned(".rstrip('\\n')", "\n", content), twice("\n\n  x = 1  "));
  EXPECT_EQ(learned(".lstrip(' \\n')", "\n", content), twice("x = 1  \n\n"));
  EXPECT_EQ(learned("|trim", "\n", "\n\n"), twice(""));
}

TEST(Rows, ThoughtsAreNoPlaceForAnswers) {
  // As Qwen3's: an empty thought is written where there is none, earlier thoughts are left out.
  const std::string thinks =
      "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}<end>{% else %}<|model|>"
      "{% set t = m['reasoning'] or '' %}{% set c = m['content'] %}"
      "{% if '</think>' in c %}{% set t = c.split('</think>')[0].split('<think>')[-1].strip() %}"
      "{% set c = c.split('</think>')[-1].lstrip() %}{% endif %}"
      "{% if loop.last %}<think> {{ t }} </think> {% endif %}{{ c }}<end>{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}<|model|>{% endif %}";
  EXPECT_EQ(
      predicted_by(thinks,
                   R"({"messages": [{"role": "user", "content": "say hi"}, {"role": "assistant", "content": "hi"}]})"),
      "hi<end>");
  EXPECT_EQ(predicted_by(thinks, R"({"messages": [{"role": "user", "content": "a"},
      {"role": "assistant", "content": "fine", "reasoning": "so fine"}]})"),
            "fine<end>");
  EXPECT_EQ(predicted_by(thinks, R"({"messages": [{"role": "user", "content": "a"},
      {"role": "assistant", "content": "<think>x</think>b"}, {"role": "user", "content": "a"},
      {"role": "assistant", "content": "<think>y</think>c"}]})"),
            "b<end><think> y </think> c<end>");
}

/// What is predicted of a conversation with calls that a template of tests/fixtures/jinja/chat shows.
std::string predicted_of_calls(const std::string& name, const std::string& messages) {
  const std::string file = std::string(METAL_CANDLE_TESTS_DIR) + "/fixtures/jinja/chat/" + name + ".jinja";
  return predicted_by(test::text_of(file), R"({"tools": [{"type": "function", "function": {"name": "look"}}],
      "messages": [{"role": "user", "content": "look"}, )" +
                                               messages + "]}");
}
std::string calling(const std::string& content, const std::string& name) {
  return R"({"role": "assistant", "content": )" + content +
         R"(, "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": ")" + name +
         R"(", "arguments": {"at": "look"}}}]})";
}

// What is written when the model calls a tool is learned whole, from the end of its prompt to the end of its turn.
TEST(Rows, CallsOfToolsAreAnswers) {
  const std::string result = R"(, {"role": "tool", "content": "a look", "tool_call_id": "abcdefghi"}, )";
  const std::string then = R"({"role": "assistant", "content": "it"})";
  const std::string more = R"(, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"})";
  const std::string chatml = "<call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"look\"}}\n</call><|im_end|>";
  EXPECT_EQ(predicted_of_calls("tools_chatml", calling("\"\"", "look")), chatml);
  EXPECT_EQ(predicted_of_calls("tools_chatml", calling("null", "look") + result + then), chatml + "it<|im_end|>");
  EXPECT_EQ(predicted_of_calls("tools_chatml", calling("\"so:\"", "look")), "so:\n" + chatml);
  EXPECT_EQ(predicted_of_calls("headers", calling("\"not shown\"", "look") + result + then + more),
            "{\"name\": \"look\", \"parameters\": {\"at\": \"look\"}}<|over|>it<|over|>c<|over|>");
  // Whose tools stand before the last question only, so that no prompt before is a beginning of the whole.
  EXPECT_EQ(predicted_of_calls("inst", calling("\"\"", "look") + result + then + more),
            "[CALLS][{\"name\": \"look\", \"arguments\": {\"at\": \"look\"}, \"id\": \"abcdefghi\"}]</s>it</s>c</s>");
  // Without calls in the template the text is the answer, and where there is none the row cannot be learned.
  EXPECT_EQ(predicted_of_calls("chatml", calling("\"so\"", "look")), "so<|im_end|>");
  EXPECT_THAT(
      [&] {
        return predicted_by("{% for m in messages %}{{ m['role'] }}<end>{% endfor %}",
                            R"({"messages": [)" + calling("null", "look") + "]}");
      },
      testing::Throws<FileError>(testing::Property(&FileError::what, testing::HasSubstr("calls"))));
}

// As Qwen3's: the last answer gets an empty thought, so a conversation cut behind a call is no beginning of the whole.
TEST(Rows, CallsAreFoundWhereTheEndOfAConversationLooksOtherwise) {
  const std::string thinks =
      "{% for m in messages %}{% if m.role != 'assistant' %}<|user|>{{ m.content }}<end>{% else %}<|model|>"
      "{% if loop.last %}<think></think>{% endif %}{{ m.content or '' }}"
      "{% for c in m.tool_calls or [] %}<call>{{ c.name }} {{ c.arguments | tojson }}</call>{% endfor %}<end>"
      "{% endif %}{% endfor %}{% if add_generation_prompt %}<|model|>{% endif %}";
  const std::string calls = R"({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"f": 1}},
      {"name": "g", "arguments": {}}]})";
  EXPECT_EQ(predicted_by(thinks, R"({"messages": [{"role": "user", "content": "f"}, )" + calls +
                                     R"(, {"role": "tool", "content": "f"}, {"role": "assistant", "content": "b"}]})"),
            "<call>f {\"f\": 1}</call><call>g {}</call><end>b<end>");
  EXPECT_EQ(predicted_by(thinks, R"({"messages": [{"role": "user", "content": "f"}, )" + calls + "]}"),
            "<think></think><call>f {\"f\": 1}</call><call>g {}</call><end>");
}

TEST(Rows, TheTokenThatEndsATextEndsATurnWhetherSpecialOrNot) {
  const ChatRenderer plain = [](const Json& messages, const Json&, bool) {
    std::string text;
    for (const Json& m : messages.elements()) text += std::string(m.at("content").as_string()) + "Z";
    return text;
  };
  const Dataset d =
      Dataset::parse(R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})",
                     "data.jsonl", letters(), plain, {.end_token = 'Z'});
  EXPECT_EQ(predicted(d[0]), "bZ");
}

TEST(Rows, PartsOfTextAreAnAnswer) {
  EXPECT_EQ(
      predicted_by(
          "{% for m in messages %}<|user|>{% for p in m['content'] %}{{ p['text'] }}{% endfor %}<end>{% endfor %}",
          R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "b"}]}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]})"),
      "b<end>");
}

TEST(Rows, ToolsReachTheTemplate) {
  const Sample s =
      only(R"({"tools": [1], "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})");
  EXPECT_EQ(letters().decode(s.tokens), "<s>[1]<|user|>\na<end>\n<|model|>\nb<end>\n");
}

TEST(Dataset, MarksBreaksAndBlankLinesAreLegal) {
  const Dataset d = parse("\xef\xbb\xbf{\"text\": \"a\"}\r\n\r\n  \t\n{\"text\": \"b\"}\n{\"text\": \"c\"}");
  ASSERT_EQ(d.size(), 3u);
  EXPECT_EQ(d[0].line, 1);
  EXPECT_EQ(d[1].line, 4);
  EXPECT_EQ(d[2].line, 5);
  EXPECT_EQ(d.counts().rows, 3);
}

TEST(Dataset, WhatIsTooLongIsCutAndLeftOutWhenNothingRemains) {
  const Dataset d =
      parse("{\"text\": \"abcdef\"}\n{\"prompt\": \"abcdef\", \"completion\": \"g\"}\n{\"text\": \"a\"}\n",
            {.max_length = 4});
  ASSERT_EQ(d.size(), 2u);
  EXPECT_EQ(d[0].tokens, (std::vector<std::int32_t>{kBegin, 'a', 'b', 'c'}));
  EXPECT_EQ(d.counts().rows, 3);
  EXPECT_EQ(d.counts().cut, 2);
  EXPECT_EQ(d.counts().left_out, 1);
  EXPECT_EQ(static_cast<std::int64_t>(d.size()), d.counts().rows - d.counts().left_out);
}

std::string complaint(const std::string& jsonl, const ChatRenderer& chat = show) {
  try {
    parse(jsonl, {}, chat);
  } catch (const FileError& e) {
    return e.what();
  }
  return "accepted";
}

TEST(Dataset, ErrorsNameFileAndLine) {
  const std::string good = "{\"text\": \"a\"}\n";
  const auto third = [&](const std::string& row) { return complaint(good + "\n" + row + "\n" + good); };
  for (const std::string row :
       {R"({"text": 3})", R"({"text": null})", R"({"prompt": "a"})", R"({"completion": "a"})", R"({"other": 1})", "{}",
        "[]", "3", "{", R"({"text": "a"} x)", R"({"text": "a", "text": "b"})", R"({"text": "a", "messages": []})",
        R"({"messages": []})", R"({"messages": [3]})", R"({"messages": [{"role": "assistant"}]})",
        R"({"messages": [{"content": "a"}]})", R"({"messages": [{"role": "nobody", "content": "a"}]})",
        "{\"text\": \"\x01\"}", "{\"text\": \"\xff\"}"}) {
    EXPECT_THAT(third(row), testing::StartsWith("data.jsonl:3:")) << row;
  }
  EXPECT_THAT(third(std::string("{\"text\": \"a\"}\0", 14)), testing::StartsWith("data.jsonl:3:"));
  EXPECT_THAT(third(R"({"text": 3})"), testing::HasSubstr("text: expected a string, got 3"));
  EXPECT_THAT(third(R"({"messages": [{"role": "nobody", "content": "a"}]})"), testing::HasSubstr("no such role"));
  EXPECT_THAT(complaint(R"({"messages": [{"role": "user", "content": "a"}]})", {}),
              testing::HasSubstr("there is no chat template (ChatRenderer) that shows messages"));
  EXPECT_THAT(complaint("\n\n"), testing::HasSubstr("0 rows"));
  EXPECT_THAT(complaint(""), testing::HasSubstr("0 rows"));
}

TEST(Dataset, FilesAndFolders) {
  const test::TempFolder folder;
  for (const char* name : {"train.jsonl", "valid.jsonl"}) std::ofstream(folder.path / name) << "{\"text\": \"a\"}\n";
  const DatasetFiles files = DatasetFiles::find(folder.path);
  EXPECT_EQ(files.train, folder.path / "train.jsonl");
  EXPECT_EQ(files.valid, folder.path / "valid.jsonl");
  EXPECT_FALSE(files.test);
  EXPECT_EQ(DatasetFiles::find(folder.path / "train.jsonl").train, folder.path / "train.jsonl");
  EXPECT_EQ(Dataset::load(files.train, letters(), show, {.end_token = kEnd}).size(), 1u);
  try {
    Dataset::load(folder.path / "test.jsonl", letters(), show, {});
    FAIL();
  } catch (const FileError& e) {
    EXPECT_EQ(e.fault(), FileFault::missing);
  }
}

TEST(Dataset, FingerprintsDiffer) {
  const std::string row = "{\"prompt\": \"ab\", \"completion\": \"c\"}\n";
  const std::uint64_t print = parse(row).fingerprint();
  EXPECT_EQ(parse("\n" + row).fingerprint(), print);
  EXPECT_NE(parse(row + row).fingerprint(), print);
  EXPECT_NE(parse(row, {.train_on = TrainOn::all}).fingerprint(), print);
  EXPECT_NE(parse("{\"prompt\": \"a\", \"completion\": \"bc\"}\n").fingerprint(), print);
}

TEST(Dataset, RandomBytesAreErrorsAndNothingElse) {
  const std::string seeds[] = {
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})",
      R"({"prompt": "a", "completion": "bA"})", R"({"text": "hey"})"};
  std::uint64_t state = 1;
  const auto next = [&](std::uint64_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % below;
  };
  const Tokenizer tokenizer = letters();
  int accepted = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = seeds[next(3)] + "\n" + seeds[next(3)];
    for (std::uint64_t n = next(4); n > 0; --n) {
      const std::size_t at = next(text.size());
      if (next(2) == 0) text[at] = static_cast<char>(next(256));
      else text.erase(at, next(4));
    }
    try {
      Dataset::parse(text, "f", tokenizer, show, {.end_token = kEnd});
      ++accepted;
    } catch (const UserError&) {  // as it should
    }
  }
  EXPECT_GT(accepted, 300);
}

}  // namespace
}  // namespace metal_candle
