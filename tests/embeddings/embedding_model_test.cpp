// Tiny models of every family against sentence-transformers; what a text becomes whatever lies beside it; folders that
// are wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "metal_candle/error.hpp"
#include "metal_candle/runtime.hpp"
#include "tests/embeddings/tiny_embedders.h"

namespace metal_candle::test {
namespace {

using testing::HasSubstr;

EmbeddingModel load_case(const std::string& name, DType dtype = DType::f32) {
  const TempFolder folder;
  write_embedder(embedder_case(name), folder.path());
  return EmbeddingModel::load(folder.path(), {.dtype = dtype});
}

class EmbeddingOracle : public testing::TestWithParam<EmbedderCase> {};

TEST_P(EmbeddingOracle, IsSentenceTransformers) {
  const EmbedderCase& c = GetParam();
  const EmbeddingModel model = load_case(c.name);
  const Tensor got = model.embed(c.texts, c.options);
  const auto width = static_cast<std::int64_t>(c.embeddings[0].size());
  ASSERT_EQ(got.shape(), (Shape{static_cast<std::int64_t>(c.texts.size()), width}));
  const std::vector<float> values = got.to_vector<float>();
  for (std::size_t i = 0; i < c.texts.size(); ++i)
    for (std::size_t j = 0; j < c.embeddings[i].size(); ++j)
      EXPECT_NEAR(values[i * c.embeddings[i].size() + j], c.embeddings[i][j], 1e-5) << c.texts[i] << " at " << j;
}

/// The bits of a text, whatever lies beside it.
void expect_independence(const EmbeddingModel& model, const EmbedderCase& c) {
  const std::vector<float> together = model.embed(c.texts, c.options).to_vector<float>();
  const std::size_t width = together.size() / c.texts.size();
  std::vector<std::string> turned(c.texts.rbegin(), c.texts.rend());
  EmbedOptions small = c.options;
  small.batch_tokens = 24;
  const std::vector<float> other = model.embed(turned, small).to_vector<float>();
  for (std::size_t i = 0; i < c.texts.size(); ++i) {
    const std::vector<float> alone = model.embed({&c.texts[i], 1}, c.options).to_vector<float>();
    const std::size_t back = c.texts.size() - 1 - i;
    for (std::size_t j = 0; j < width; ++j) {
      ASSERT_EQ(together[i * width + j], alone[j]) << c.texts[i] << " at " << j;
      ASSERT_EQ(together[i * width + j], other[back * width + j]) << c.texts[i] << " at " << j;
    }
  }
}

TEST_P(EmbeddingOracle, DoesNotDependOnBatchOrOrder) {
  for (const DType type : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(name(type));
    expect_independence(load_case(GetParam().name, type), GetParam());
  }
}

TEST_P(EmbeddingOracle, IsCloseInBf16) {
  const EmbedderCase& c = GetParam();
  const EmbeddingModel model = load_case(c.name, DType::bf16);
  EXPECT_EQ(model.dtype(), DType::bf16);
  const Tensor got = model.embed(c.texts, c.options);
  for (std::size_t i = 0; i < c.texts.size(); ++i) {
    const std::vector<float> wanted(c.embeddings[i].begin(), c.embeddings[i].end());
    const auto width = static_cast<std::int64_t>(wanted.size());
    EXPECT_GE(cosine(got.data<float>() + static_cast<std::int64_t>(i) * width, wanted.data(), width), 0.999)
        << c.texts[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, EmbeddingOracle, testing::ValuesIn(embedder_cases()),
                         [](const auto& info) { return info.param.name; });

TEST(EmbeddingModel, StreamsInOrderAndCounts) {
  const EmbeddingModel model = load_case("bert_mean");
  const std::vector<std::string> some{"the cat", "a dog sat", "", "red fox ran"};
  const std::vector<float> wanted = model.embed(some).to_vector<float>();
  const std::int64_t count = 2500;  // more than are kept at a time
  std::int64_t given = 0, seen = 0;
  const auto next = [&](std::string& text) {
    if (given == count) return false;
    text = some[static_cast<std::size_t>(given++) % some.size()];
    return true;
  };
  const auto put = [&](std::int64_t index, std::span<const float> row) {
    ASSERT_EQ(index, seen++);
    ASSERT_EQ(row.size(), static_cast<std::size_t>(model.width()));
    const auto at =
        wanted.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(index) % some.size() * row.size());
    ASSERT_TRUE(std::equal(row.begin(), row.end(), at)) << index;
  };
  EXPECT_EQ(model.for_each(next, put), count);
  EXPECT_EQ(seen, count);
}

TEST(EmbeddingModel, GivesNothingForNothing) {
  const EmbeddingModel model = load_case("bert_mean");
  EXPECT_EQ(model.embed({}).shape(), (Shape{0, 16}));
}

TEST(EmbeddingModel, LeavesNormalizationOut) {
  const EmbeddingModel model = load_case("bert_mean");
  const std::vector<std::string> texts{"the cat sat"};
  const auto length = [](const std::vector<float>& v) {
    return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
  };
  const std::vector<float> raw = model.embed(texts, {.normalize = false}).to_vector<float>();
  EXPECT_NEAR(length(model.embed(texts).to_vector<float>()), 1, 1e-6);
  EXPECT_GT(std::abs(length(raw) - 1), 0.1);
  const std::vector<float> begin = model.embed(texts, {.normalize = false, .dimensions = 5}).to_vector<float>();
  EXPECT_EQ(begin, std::vector<float>(raw.begin(), raw.begin() + 5));
}

TEST(EmbeddingModel, TakesAnyPrompt) {
  const EmbeddingModel model = load_case("bert_default_prompt");
  EXPECT_EQ(model.default_prompt_name(), "query");
  const std::vector<std::string> texts{"cat"}, whole{"big cat"};
  EXPECT_EQ(model.embed(texts, {.prompt = "big "}).to_vector<float>(),
            model.embed(whole, {.prompt = ""}).to_vector<float>());
  EXPECT_EQ(model.embed(texts, {.prompt_name = "passage"}).to_vector<float>(),
            model.embed(whole, {.prompt = ""}).to_vector<float>());
}

TEST(EmbeddingModel, RefusesWhatItCannotGive) {
  const EmbeddingModel model = load_case("bert_default_prompt");
  const std::vector<std::string> texts{"cat"};
  const auto why = [&](const EmbedOptions& options) {
    try {
      model.embed(texts, options);
    } catch (const UserError& e) {
      return std::string(e.what());
    }
    return std::string("nothing");
  };
  EXPECT_THAT(why({.prompt_name = "other"}), HasSubstr("no prompt \"other\" but document, passage, query"));
  EXPECT_THAT(why({.dimensions = 17}), HasSubstr("the model's 16, got 17"));
  EXPECT_THAT(why({.dimensions = -1}), HasSubstr("got -1"));
  EXPECT_THAT(why({.batch_tokens = 0}), HasSubstr("at least 1, got 0"));
}

TEST(EmbeddingModel, ServesSeveralThreads) {
  const EmbeddingModel model = load_case("mpnet");
  const auto& texts = embedder_case("mpnet").texts;
  const std::vector<float> wanted = model.embed(texts).to_vector<float>();
  std::vector<std::thread> threads;
  std::vector<int> same(4);
  for (std::size_t i = 0; i < same.size(); ++i)
    threads.emplace_back([&, i] {
      same[i] = load_case("mpnet").embed(texts).to_vector<float>() == wanted &&
                model.embed(texts).to_vector<float>() == wanted;
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(same, std::vector<int>(4, 1));
}

TEST(EmbeddingModel, ReplaysPlans) {
  const EmbeddingModel model = load_case("bert_mean");
  std::vector<std::string> texts(300, "the cat sat on the mat");
  for (std::size_t i = 0; i < texts.size(); ++i) texts[i].resize(3 + i % 20);
  model.embed(texts);
  const auto before = counters().plans_compiled;
  std::reverse(texts.begin(), texts.end());
  model.embed(texts);
  EXPECT_EQ(counters().plans_compiled, before);
}

}  // namespace
}  // namespace metal_candle::test
