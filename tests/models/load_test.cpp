// Models from folders and GGUF files, and what is said of files that are no models.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "metal_candle/bundle.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/gguf.hpp"
#include "metal_candle/runtime.hpp"
#include "metal_candle/safetensors.hpp"
#include "tests/support/tiny_models.h"

namespace metal_candle::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Folder {
 public:
  Folder()
      : path_(fs::temp_directory_path() / ("mc-model-" + std::to_string(::getpid()) + "-" + std::to_string(++count))) {
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const { std::ofstream(path_ / name) << text; }

 private:
  static inline int count = 0;
  fs::path path_;
};

std::vector<NamedTensor> tensors_of(const ParamTree& tree) {
  std::vector<NamedTensor> list;
  for (const auto& [name, tensor] : tree) list.emplace_back(name, Tensor(tensor));
  return list;
}

Folder tiny_folder(const std::string& name) {
  Folder folder;
  folder.write("config.json", tiny_case(name).config.dump());
  const ModelConfig config = ModelConfig::from_json(tiny_case(name).config);
  save_safetensors(folder.path() / "model.safetensors", tensors_of(tiny_weights(config)));
  return folder;
}

void expect_weights(const Model& got, const Model& want, double tolerance = 0) {
  ASSERT_EQ(got.parameters().size(), want.parameters().size());
  for (const auto& [path, tensor] : want.parameters()) {
    const auto a = Tensor(got.parameters()[path]).to_f64(), b = Tensor(tensor).to_f64();
    ASSERT_EQ(a.size(), b.size()) << path;
    double worst = 0;
    for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
    EXPECT_LE(worst, tolerance) << path;
  }
}

std::string load_refusal(const fs::path& path) {
  try {
    Model::load(path, {.dtype = DType::f32});
  } catch (const FileError& e) {
    return e.what();
  }
  return "accepted";
}

TEST(LoadModel, FromAFolder) {
  for (const char* name : {"llama_tied_multi_query_biases", "qwen2", "gemma2"}) {
    const Folder folder = tiny_folder(name);
    const Model model = Model::load(folder.path(), {.dtype = DType::f32});
    expect_weights(model, tiny_model(name));
    EXPECT_EQ(model.config().to_json().dump(), tiny_model(name).config().to_json().dump());
    expect_weights(Model::load(folder.path(), {.dtype = DType::bf16}), tiny_model(name, DType::bf16));
    EXPECT_TRUE(is_float(Model::load(folder.path()).dtype()));
  }
}

TEST(LoadModel, BaseModelsLeaveOutThePrefix) {
  const Folder folder = tiny_folder("qwen2");
  std::vector<NamedTensor> renamed;
  for (auto& [name, tensor] : tensors_of(tiny_model("qwen2").parameters()))
    renamed.emplace_back(name.substr(6), tensor);
  save_safetensors(folder.path() / "model.safetensors", renamed);
  expect_weights(Model::load(folder.path(), {.dtype = DType::f32}), tiny_model("qwen2"));
}

// The configuration says that the head is the embeddings, the file has another one.
TEST(LoadModel, AHeadOfItsOwnIsNotTied) {
  const std::string name = "llama_tied_multi_query_biases";
  const Folder folder = tiny_folder(name), copy;
  const ModelConfig config = tiny_model(name).config();
  ASSERT_TRUE(config.tied_embeddings);
  auto tensors = tensors_of(tiny_model(name).parameters());
  ASSERT_EQ(tensors.front().first, "model.embed_tokens.weight");
  const Tensor table = tensors.front().second;
  tensors.emplace_back("lm_head.weight", table);
  save_safetensors(folder.path() / "model.safetensors", tensors);
  EXPECT_TRUE(Model::load(folder.path()).config().tied_embeddings);
  const Tensor head = (table * 0.5).eval();
  tensors.back().second = head;
  save_safetensors(folder.path() / "model.safetensors", tensors);
  const Model model = Model::load(folder.path(), {.dtype = DType::f32});
  EXPECT_FALSE(model.config().tied_embeddings);
  EXPECT_EQ(Tensor(model.parameters()["lm_head.weight"]).to_f64(), head.to_f64());
  EXPECT_TRUE(Model::load(folder.path(), {.head = false}).config().tied_embeddings);
  folder.write("tokenizer.json", "{}");
  save_model(copy.path(), model, folder.path());
  expect_weights(Model::load(copy.path(), {.dtype = DType::f32}), model);
  EXPECT_FALSE(Json::load(copy.path() / "config.json").at("tie_word_embeddings").as_bool());
  tensors.back().second = Tensor::zeros({31, 23});
  save_safetensors(folder.path() / "model.safetensors", tensors);
  EXPECT_THAT(load_refusal(folder.path()), HasSubstr("lm_head.weight"));
}

TEST(SaveModel, LeavesNothingWhenItIsStopped) {
  const std::string name = "llama_tied_multi_query_biases";
  const Folder folder = tiny_folder(name), above;
  const Model model = tiny_model(name);
  folder.write("tokenizer.json", "{}");
  for (const int tensors : {0, 3, 1000}) {
    int asked = 0;
    const auto save = [&] {
      save_model(above.path() / "out", model, folder.path(), [&] { return asked++ == tensors; });
    };
    if (tensors == 1000) {
      save();
      expect_weights(Model::load(above.path() / "out", {.dtype = DType::f32}), model);
    } else {
      EXPECT_THROW(save(), FileError);
      EXPECT_TRUE(std::filesystem::is_empty(above.path())) << "stopped before tensor " << tensors;
    }
  }
}

/// What a file cannot say, or says otherwise than the model that it was made from; the script knows why.
struct OtherInGguf {
  std::string_view name;
  double tolerance;
  void (*change)(ModelConfig& config);
};
constexpr OtherInGguf kOtherInGguf[] = {
    {"llama_llama3", 0, [](ModelConfig& c) { c.rope.original_positions = 8192, c.rope_base = 500000; }},
    {"gemma2", 1e-7,
     [](ModelConfig& c) { c.attention_scale = 1 / std::sqrt(8.0); }},  // norms: one was added, and rounded
};

class GgufModels : public testing::TestWithParam<std::string> {};
TEST_P(GgufModels, AreTheModelsThatTheyWereMadeFrom) {
  const std::string path = METAL_CANDLE_TESTS_DIR "/fixtures/models/" + GetParam() + ".gguf";
  const Model model = Model::load(path, {.dtype = DType::f32});
  ModelConfig want = ModelConfig::from_json(tiny_case(GetParam()).config);
  double tolerance = 0;
  for (const OtherInGguf& other : kOtherInGguf) {
    if (other.name != GetParam()) continue;
    other.change(want);
    tolerance = other.tolerance;
  }
  expect_weights(model, tiny_model(GetParam()), tolerance);
  want.norm_eps = static_cast<double>(1e-5f);
  want.eos = {2};
  want.bos = 1;
  want.pad.reset();
  EXPECT_EQ(model.config().to_json().dump(), want.to_json().dump());
}
/// Every GGUF file beside the tiny models.
std::vector<std::string> gguf_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(METAL_CANDLE_TESTS_DIR "/fixtures/models"))
    if (entry.path().extension() == ".gguf") names.push_back(entry.path().stem());
  std::sort(names.begin(), names.end());
  return names;
}
INSTANTIATE_TEST_SUITE_P(All, GgufModels, testing::ValuesIn(gguf_names()), [](const auto& info) { return info.param; });

/// A GGUF file's bytes with one more number in front of its metadata, and a text beside it that keeps tensors aligned.
std::string with_number(std::string gguf, const std::string& key, float value) {
  const auto raw = [](auto x) { return std::string(reinterpret_cast<const char*>(&x), sizeof x); };
  const auto text = [&](const std::string& s) { return raw(std::uint64_t{s.size()}) + s; };
  std::string more = text(key) + raw(std::uint32_t{6}) + raw(value) + text("x") + raw(std::uint32_t{8});
  more += text(std::string((64 - (more.size() + 8) % 32) % 32 + 32, '.'));
  std::uint64_t count = 0;
  std::memcpy(&count, gguf.data() + 16, 8);
  return gguf.replace(16, 8, raw(count + 2)).insert(24, more);
}

TEST(GgufModels, AFactorOfRopeWithoutAKindIsLinear) {
  std::ifstream in(METAL_CANDLE_TESTS_DIR "/fixtures/models/qwen2.gguf", std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  const Folder folder;
  for (const char* key : {"qwen2.rope.scaling.factor", "qwen2.rope.scale_linear"}) {
    folder.write("model.gguf", with_number(bytes, key, 4));
    const ModelConfig c = Model::load(folder.path() / "model.gguf").config();
    EXPECT_EQ(c.rope.kind, nn::RopeScaling::Kind::linear) << key;
    EXPECT_EQ(c.rope.factor, 4) << key;
  }
  folder.write("model.gguf", with_number(bytes, "qwen2.other", 4));
  EXPECT_EQ(Model::load(folder.path() / "model.gguf").config().rope.kind, nn::RopeScaling::Kind::none);
}

TEST(LoadModel, TensorsWithoutAPlaceAreRefusedByName) {
  const Folder folder = tiny_folder("llama");
  auto tensors = tensors_of(tiny_model("llama").parameters());
  tensors.emplace_back("model.layers.0.self_attn.rotary_emb.inv_freq", Tensor::zeros({4}));
  tensors.emplace_back("score.weight", Tensor::zeros({4}));
  save_safetensors(folder.path() / "model.safetensors", tensors);
  EXPECT_EQ(load_refusal(folder.path()), "accepted");
  for (const char* name : {"lm_head.bias", "model.norm.bias"}) {
    auto more = tensors;
    more.emplace_back(name, Tensor::zeros({24}));
    save_safetensors(folder.path() / "model.safetensors", more);
    EXPECT_THAT(load_refusal(folder.path()), HasSubstr(name));
  }
  tensors.emplace_back("model.layers.1.self_attn.q_proj.bias", Tensor::zeros({24}));
  save_safetensors(folder.path() / "model.safetensors", tensors);
  EXPECT_THAT(load_refusal(folder.path()), HasSubstr("model.layers.1.self_attn.q_proj.bias"));

  // The same factors under a name of the same length that says nothing to us.
  std::ifstream in(METAL_CANDLE_TESTS_DIR "/fixtures/models/llama_llama3.gguf", std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  const std::string known = "rope_freqs.weight", unknown = "rope_long_.weight";
  const std::size_t at = bytes.find(known);
  ASSERT_NE(at, std::string::npos);
  folder.write("model.gguf", bytes);
  EXPECT_EQ(load_refusal(folder.path() / "model.gguf"), "accepted");
  folder.write("model.gguf", bytes.replace(at, known.size(), unknown));
  EXPECT_THAT(load_refusal(folder.path() / "model.gguf"), HasSubstr(unknown));
}

TEST(StoredDType, IsWhatMostBytesHave) {
  const ModelConfig config = ModelConfig::from_json(tiny_case("llama").config);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Folder folder;
    std::vector<NamedTensor> tensors = tensors_of(tiny_weights(config, dtype));
    tensors.emplace_back("scale", Tensor::ones({3}, dtype == DType::f32 ? DType::bf16 : DType::f32));
    save_safetensors(folder.path() / "model.safetensors", tensors);
    EXPECT_EQ(stored_dtype(folder.path()), dtype) << name(dtype);
  }
  EXPECT_THROW(stored_dtype("/nowhere"), FileError);
}

TEST(LoadModel, SaysWhatIsWrong) {
  EXPECT_THAT(load_refusal("/nowhere/at/all"), HasSubstr("/nowhere/at/all"));
  const Folder empty;
  EXPECT_THAT(load_refusal(empty.path()), HasSubstr("config.json"));
  empty.write("adapter_config.json", "{}");
  EXPECT_THAT(load_refusal(empty.path()), HasSubstr("expected a model (config.json), got an adapter"));
  const Folder folder = tiny_folder("llama");
  auto tensors = tensors_of(tiny_model("llama").parameters());
  const NamedTensor head = tensors.back();
  ASSERT_EQ(head.first, "lm_head.weight");
  tensors.pop_back();
  save_safetensors(folder.path() / "model.safetensors", tensors);
  EXPECT_THAT(load_refusal(folder.path()), testing::AllOf(HasSubstr("lm_head.weight"), HasSubstr("[31, 24]")));
  tensors.emplace_back("lm_head.weight", Tensor::zeros({31, 23}));
  save_safetensors(folder.path() / "model.safetensors", tensors);
  EXPECT_THAT(load_refusal(folder.path()), testing::AllOf(HasSubstr("[31, 24]"), HasSubstr("[31, 23]")));
  tensors.back().second = Tensor::zeros({31, 24}, DType::i32);
  save_safetensors(folder.path() / "model.safetensors", tensors);
  EXPECT_THAT(load_refusal(folder.path()), HasSubstr("lm_head.weight"));
  folder.write("config.json", "{\"model_type\": \"bloom\"}");
  EXPECT_THAT(load_refusal(folder.path()), HasSubstr("one of llama"));
  folder.write("model.gguf", "GGUF but not really");
  EXPECT_THAT(load_refusal(folder.path() / "model.gguf"), HasSubstr("model.gguf"));
  EXPECT_THROW(Model::load(folder.path(), {.dtype = DType::i32}), UserError);
}

}  // namespace
}  // namespace metal_candle::test
