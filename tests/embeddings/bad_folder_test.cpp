// Folders and indexes that are damaged or say what cannot be: an error with file and field, never a crash.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "metal_candle/error.hpp"
#include "metal_candle/search.hpp"
#include "tests/embeddings/tiny_embedders.h"

namespace metal_candle::test {
namespace {

using testing::HasSubstr;

/// What loading says; empty where it says nothing.
std::string error_of(const std::filesystem::path& folder) {
  try {
    EmbeddingModel::load(folder);
  } catch (const FileError& e) {
    return e.what();
  }
  return {};
}

class BadFolder : public testing::Test {
 protected:
  void SetUp() override { write_embedder(case_, folder_.path()); }
  void restore(const std::string& file) {
    if (case_.files.contains(file)) write_text(folder_ / file, case_.files.at(file).dump());
    else write_embedder(case_, folder_.path());
  }

  const EmbedderCase& case_ = embedder_case("bert_dense");
  TempFolder folder_;
};

TEST_F(BadFolder, IsRefusedWhereverAFileEnds) {
  for (const char* file :
       {"modules.json", "config.json", "1_Pooling/config.json", "2_Dense/config.json", "sentence_bert_config.json",
        "tokenizer_config.json", "tokenizer.json", "model.safetensors", "2_Dense/model.safetensors"}) {
    const std::string whole = folder_.read(file);
    const std::size_t step = std::max<std::size_t>(1, whole.size() / 60);
    for (std::size_t n = 0; n < whole.size(); n += step) {
      folder_.write(file, whole.substr(0, n));
      EXPECT_THAT(error_of(folder_.path()), HasSubstr(file)) << n << " of " << whole.size() << " bytes";
    }
    folder_.write(file, whole);
  }
  EXPECT_EQ(error_of(folder_.path()), "");
}

TEST_F(BadFolder, SaysWhatAFieldMayBe) {
  struct Case {
    const char *file, *key, *value, *says;
  };
  for (const auto& [file, key, value, says] : std::initializer_list<Case>{
           {"config.json", "model_type", "\"t5\"", "model_type: expected one of bert"},
           {"config.json", "hidden_size", "0", "hidden_size"},
           {"config.json", "hidden_size", "18", "a multiple of the 4 heads"},
           {"config.json", "hidden_size", "4611686018427387904", "hidden_size"},
           {"config.json", "hidden_size", "32", "[40, 16]"},
           {"config.json", "vocab_size", "2000000000", "word_embeddings.weight"},
           {"config.json", "num_hidden_layers", "3", "encoder.layer.2."},
           {"config.json", "num_hidden_layers", "99999999", "num_hidden_layers"},
           {"config.json", "hidden_act", "\"swish9\"", "hidden_act: expected an activation"},
           {"config.json", "layer_norm_eps", "-1", "layer_norm_eps"},
           {"config.json", "is_decoder", "true", "is_decoder: expected false"},
           {"config.json", "position_embedding_type", "\"relative_key\"", "position_embedding_type"},
           {"sentence_bert_config.json", "max_seq_length", "1", "at least the 2 special tokens"},
           {"sentence_bert_config.json", "max_seq_length", "\"40\"", "max_seq_length"},
           {"sentence_bert_config.json", "do_lower_case", "3", "do_lower_case"},
           {"1_Pooling/config.json", "pooling_mode", "\"middle\"", "pooling_mode: expected one of cls"},
           {"1_Pooling/config.json", "pooling_mode", "[]", "at least one mode"},
           {"1_Pooling/config.json", "word_embedding_dimension", "17",
            "1_Pooling/config.json: word_embedding_dimension: expected 16, the width of what comes in, got 17"},
           {"2_Dense/config.json", "in_features", "15", "linear.weight"},
           {"2_Dense/config.json", "activation_function", "\"torch.nn.Softmax\"", "activation_function"},
           {"2_Dense/config.json", "bias", "\"yes\"", "bias"},
       }) {
    Json json = case_.files.at(file);
    json.set(key, Json::parse(value, "value"));
    folder_.write(file, json.dump());
    EXPECT_THAT(error_of(folder_.path()), HasSubstr(says)) << file << ": " << key << " = " << value;
    restore(file);
  }
}

TEST_F(BadFolder, SaysWhatModulesMayBe) {
  const std::string transformer = R"({"path": "", "type": "sentence_transformers.models.Transformer"})";
  const std::string pooling = R"({"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})";
  const auto module = [](const std::string& path, const std::string& type) {
    return R"({"path": ")" + path + R"(", "type": "a.)" + type + "\"}";
  };
  for (const auto& [list, says] : std::initializer_list<std::pair<std::string, const char*>>{
           {"[]", "a Transformer and a Pooling"},
           {"{}", "modules.json"},
           {"[" + transformer + "]", "a Transformer and a Pooling"},
           {"[" + pooling + "]", "a Transformer first"},
           {"[" + transformer + ", " + transformer + "]", "one Transformer"},
           {"[" + transformer + ", " + module("2_Dense", "Dense") + "]", "Pooling behind the Transformer"},
           {"[" + transformer + ", " + pooling + ", " + module("3", "LSTM") + "]", "Dense, Normalize or Dropout"},
           {"[" + transformer + ", " + module("../1_Pooling", "Pooling") + "]", "a folder inside the model's"},
           {"[" + transformer + ", " + module("/1_Pooling", "Pooling") + "]", "a folder inside the model's"},
           {"[" + transformer + ", " + module("9_Pooling", "Pooling") + "]", "9_Pooling/config.json"},
       }) {
    folder_.write("modules.json", list);
    EXPECT_THAT(error_of(folder_.path()), HasSubstr(says)) << list;
  }
}

TEST_F(BadFolder, SaysWhatAFolderIsNot) {
  EXPECT_THAT(error_of(folder_ / "config.json"), HasSubstr("expected a model's folder, got a file"));
  EXPECT_THAT(error_of(folder_ / "nowhere"), HasSubstr("nowhere: expected a model's folder, got nothing"));
  std::filesystem::create_directory(folder_ / "empty");
  EXPECT_THAT(error_of(folder_ / "empty"), HasSubstr("empty: expected a folder with modules.json or config.json"));
}

TEST_F(BadFolder, DamagedIndexesAreMadeAgain) {
  const EmbeddingModel model = EmbeddingModel::load(folder_.path());
  folder_.write("corpus.txt", "the cat\na dog\nred fox\n");
  EXPECT_EQ(SearchIndex::open(model, folder_ / "corpus.txt").size(), 3);
  const std::string name = "corpus.txt.mc-index", whole = folder_.read(name);
  const auto is_made_again = [&](const std::string& damaged) {
    folder_.write(name, damaged);
    EXPECT_TRUE(SearchIndex::open(model, folder_ / "corpus.txt").is_new());
    EXPECT_EQ(folder_.read(name), whole);
  };
  for (std::size_t n = 0; n < whole.size(); n += 13) {
    SCOPED_TRACE(n);
    is_made_again(whole.substr(0, n));
  }
  is_made_again(whole + "x");
  for (const std::size_t place : {whole.size() - 1, whole.size() - 9}) {  // where a line begins: far outside
    std::string damaged = whole;
    damaged[place] = '\x7f';
    is_made_again(damaged);
  }
  EXPECT_FALSE(SearchIndex::open(model, folder_ / "corpus.txt").is_new());
  // What does not begin as an index does is somebody's.
  for (std::string other : {"x" + whole, whole.substr(1), std::string("notes\n"), whole}) {
    if (other == whole) other[40] = '?';
    folder_.write(name, other);
    EXPECT_THROW(SearchIndex::open(model, folder_ / "corpus.txt"), FileError);
    EXPECT_EQ(folder_.read(name), other);
  }
}

}  // namespace
}  // namespace metal_candle::test
