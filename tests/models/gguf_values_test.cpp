// GGUF files whose metadata say more than the usual: templates with names, keys that change the mathematics.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "metal_candle/bundle.hpp"
#include "metal_candle/error.hpp"
#include "tests/io/gguf_bytes.h"
#include "tests/io/temp_folder.h"

namespace metal_candle::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr std::uint32_t kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9;

/// The bytes of a small Qwen with more values in front of its own; a text at their end keeps tensors aligned.
std::string with_values(GgufBytes values, std::uint64_t count) {
  std::ifstream in(METAL_CANDLE_TESTS_DIR "/fixtures/models/qwen2.gguf", std::ios::binary);
  std::string gguf{std::istreambuf_iterator<char>(in), {}};
  const std::size_t size = static_cast<const std::string&>(values.key("x", kString)).size() + 8;
  values.text(std::string((64 - size % 32) % 32 + 32, '.'));
  std::uint64_t before = 0;
  std::memcpy(&before, gguf.data() + 16, 8);
  GgufBytes sum;
  sum.put<std::uint64_t>(before + count + 1);
  return gguf.replace(16, 8, sum).insert(24, static_cast<const std::string&>(values));
}

/// 31 tokens of SentencePiece's kind, and what else `more` puts behind them.
std::string with_tokenizer(const GgufBytes& more, std::uint64_t count) {
  GgufBytes values;
  values.key("tokenizer.ggml.model", kString).text("llama");
  values.key("tokenizer.ggml.tokens", kArray).put(kString).put<std::uint64_t>(31);
  values.text("<unk>").text("<s>").text("</s>");
  for (int i = 0; i < 26; ++i) values.text(std::string(1, static_cast<char>('a' + i)));
  values.text("D").text("T");
  values.key("tokenizer.ggml.scores", kArray).put(kF32).put<std::uint64_t>(31);
  for (int i = 0; i < 31; ++i) values.put(static_cast<float>(-i));
  values.key("tokenizer.ggml.token_type", kArray).put(kI32).put<std::uint64_t>(31);
  for (int i = 0; i < 31; ++i) values.put<std::int32_t>(i == 0 ? 2 : i < 3 ? 3 : 1);
  return with_values(values.raw(static_cast<const std::string&>(more)), count + 4);
}

std::string rendered(const Bundle& bundle, bool tools) {
  const Json messages = Json::parse(R"([{"role": "user", "content": "hi"}])", "messages");
  const Json list = Json::parse(R"([{"type": "function", "function": {"name": "f"}}])", "tools");
  return bundle.chat_template().render(messages, {.tools = tools ? list : Json()});
}

TEST(GgufValues, TemplatesWithNames) {
  GgufBytes templates;
  templates.key("tokenizer.chat_template", kString).text("D{{ messages[0].content }}");
  templates.key("tokenizer.chat_template.tool_use", kString).text("T{{ messages[0].content }}");
  templates.key("tokenizer.chat_template.rag", kString).text("R");
  const TempFolder folder;
  const fs::path file = folder.write("model.gguf", with_tokenizer(templates, 3)), converted = folder.path() / "folder";
  const Bundle bundle = Bundle::load(file);
  save_model(converted, bundle.model, file);
  for (const Bundle& b : {bundle, Bundle::load(converted)}) {
    EXPECT_EQ(rendered(b, false), "Dhi");
    EXPECT_EQ(rendered(b, true), "Thi");
  }
  // A folder's own templates go with it.
  fs::create_directories(converted / "additional_chat_templates");
  std::ofstream(converted / "chat_template.jinja") << "d";
  std::ofstream(converted / "additional_chat_templates/tool_use.jinja") << "t";
  save_model(folder.path() / "again", bundle.model, converted);
  EXPECT_EQ(rendered(Bundle::load(folder.path() / "again"), true), "t");
}

TEST(GgufValues, WithoutATokenizerAreRefusedBeforeWeightsAreWritten) {
  const TempFolder folder;
  const fs::path file = folder.write("model.gguf", with_values({}, 0));
  const Model model = Model::load(file);
  const auto save = [&] {
    save_model(folder.path() / "folder", model, file, []() -> bool { throw std::logic_error("a weight is written"); });
  };
  EXPECT_THROW(save(), FileError);
}

TEST(GgufValues, AreKnownByTheirFirstBytes) {
  const TempFolder folder;
  const Bundle bundle = Bundle::load(folder.write("sha256-0123", with_tokenizer({}, 0)));
  EXPECT_EQ(bundle.tokenizer.vocab_size(), 31);
}

TEST(GgufValues, ThatChangeTheMathematicsAreRefused) {
  const auto refusal = [](const char* key, std::uint32_t type, auto value) -> std::string {
    const TempFolder folder;
    const fs::path file = folder.write("model.gguf", with_values(GgufBytes().key(key, type).put(value), 1));
    try {
      Model::load(file);
    } catch (const FileError& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refusal("qwen2.attention.causal", kBool, std::uint8_t{1}), "accepted");
  EXPECT_THAT(refusal("qwen2.attention.causal", kBool, std::uint8_t{0}), HasSubstr("qwen2.attention.causal"));
  EXPECT_EQ(refusal("qwen2.rope.scaling.attn_factor", kF32, 1.0f), "accepted");
  EXPECT_THAT(refusal("qwen2.rope.scaling.attn_factor", kF32, 0.5f), HasSubstr("attn_factor: expected 1, got 0.5"));
}

}  // namespace
}  // namespace metal_candle::test
