// Search against sorting all cosines; when an index is kept, made again, and refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "metal_candle/error.hpp"
#include "metal_candle/search.hpp"
#include "tests/embeddings/tiny_embedders.h"

namespace metal_candle::test {
namespace {

class Search : public testing::Test {
 protected:
  void SetUp() override {
    write_embedder(embedder_case("bert_named_prompt"), folder_ / "model");
    for (int i = 0; i < 400; ++i) {
      std::string text;
      for (int k = 0, n = 1 + i % 7; k < n; ++k)
        text += words[static_cast<std::size_t>((i * 31 + k * k * 7) % 8)] + " ";
      texts_.push_back(text);
    }
    write_rows();
  }
  void write_rows() {
    std::string rows;
    for (std::size_t i = 0; i < texts_.size(); ++i)
      rows += Json::object({{"id", "n" + std::to_string(i)}, {"text", texts_[i]}}).dump() + "\n\n";
    folder_.write("corpus.jsonl", rows);
  }
  EmbeddingModel model() { return EmbeddingModel::load(folder_ / "model"); }
  SearchIndex open() { return SearchIndex::open(model(), folder_ / "corpus.jsonl"); }

  const std::vector<std::string> words{"cat", "dog", "sat", "mat", "red", "fox", "the", "sun"};
  TempFolder folder_;
  std::vector<std::string> texts_;
};

TEST_F(Search, FindsWhatSortingFinds) {
  const SearchIndex index = open();
  EXPECT_EQ(index.size(), 400);
  const EmbeddingModel m = model();
  const std::string query = "the red fox";
  // What the model has for either side: its prompt "query", and "document", which is empty.
  const std::vector<float> q = m.embed({&query, 1}, {.prompt = "the fox: "}).to_vector<float>();
  const std::vector<float> all = m.embed(texts_, {.prompt = ""}).to_vector<float>();
  std::vector<std::size_t> order(texts_.size());
  std::iota(order.begin(), order.end(), 0);
  const auto score = [&](std::size_t i) { return cosine(q.data(), all.data() + i * 16, 16); };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return score(a) > score(b); });
  const auto hits = index.find(query, 10);
  ASSERT_EQ(hits.size(), 10u);
  for (std::size_t i = 0; i < hits.size(); ++i) {
    EXPECT_NEAR(hits[i].score, score(order[i]), 1e-6);
    EXPECT_EQ(hits[i].text, texts_[static_cast<std::size_t>(hits[i].index)]);
    EXPECT_EQ(hits[i].id, Json("n" + std::to_string(hits[i].index)));
    if (i > 0) {
      EXPECT_TRUE(hits[i - 1].score > hits[i].score ||
                  (hits[i - 1].score == hits[i].score && hits[i - 1].index < hits[i].index));
    }
  }
  EXPECT_EQ(index.find(query, 1000).size(), 400u);
  EXPECT_THROW(index.find(query, 0), UserError);
}

TEST_F(Search, AnswersSeveralAtOnce) {
  const SearchIndex index = open();
  const std::vector<std::string> queries{"cat", "the sun", ""};
  const auto together = index.find(queries, 3);
  ASSERT_EQ(together.size(), 3u);
  for (std::size_t i = 0; i < queries.size(); ++i)
    for (std::size_t k = 0; k < 3; ++k) {
      EXPECT_EQ(together[i][k].index, index.find(queries[i], 3)[k].index);
      EXPECT_EQ(together[i][k].score, index.find(queries[i], 3)[k].score);
    }
}

TEST_F(Search, KeepsItsIndexWhileNothingChanges) {
  EXPECT_TRUE(open().is_new());
  EXPECT_TRUE(std::filesystem::exists(folder_ / "corpus.jsonl.mc-index"));
  EXPECT_FALSE(open().is_new());
  texts_[5] += "mat";
  write_rows();
  EXPECT_TRUE(open().is_new());
  EXPECT_FALSE(open().is_new());
  write_text(folder_ / "model" / "1_Pooling" / "config.json", "{\"pooling_mode_cls_token\": true}");
  EXPECT_TRUE(open().is_new());
  EXPECT_FALSE(open().is_new());
  const auto in_bf16 = EmbeddingModel::load(folder_ / "model", {.dtype = DType::bf16});
  EXPECT_TRUE(SearchIndex::open(in_bf16, folder_ / "corpus.jsonl").is_new());
}

TEST_F(Search, SearchesLines) {
  folder_.write("lines.txt", "a cat sat\nthe red fox\r\n\nsun");
  const SearchIndex index = SearchIndex::open(model(), folder_ / "lines.txt", {.index = folder_ / "other"});
  EXPECT_EQ(index.size(), 4);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "other"));
  std::vector<std::string> found;
  for (const SearchHit& hit : index.find("fox", 4)) found.push_back(hit.text);
  EXPECT_THAT(found, testing::UnorderedElementsAre("a cat sat", "the red fox", "", "sun"));
}

TEST_F(Search, RefusesWhatIsNoCorpusOrIndex) {
  folder_.write("empty.txt", "");
  EXPECT_THROW(SearchIndex::open(model(), folder_ / "empty.txt"), FileError);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "empty.txt.mc-index"));
  EXPECT_THROW(SearchIndex::open(model(), folder_ / "none.txt"), FileError);
  folder_.write("corpus.jsonl.mc-index", "somebody's file");
  EXPECT_THROW(open(), FileError);
  EXPECT_EQ(folder_.read("corpus.jsonl.mc-index"), "somebody's file");
  save_safetensors(folder_ / "corpus.jsonl.mc-index", {{"w", Tensor::zeros({2})}});
  EXPECT_THROW(open(), FileError);
  folder_.write("broken.jsonl", "{\"text\": \"cat\"}\n{\"text\": 3}\n");
  EXPECT_THROW(SearchIndex::open(model(), folder_ / "broken.jsonl"), FileError);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "broken.jsonl.mc-index"));
}

}  // namespace
}  // namespace metal_candle::test
