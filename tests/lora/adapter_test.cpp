// Adapters against PEFT (fixtures/make_lora_fixtures.py): what a model says with them, files both ways, merging.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <sstream>

#include "metal_candle/error.hpp"
#include "metal_candle/lora.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/runtime.hpp"
#include "metal_candle/safetensors.hpp"
#include "tests/support/errors.h"
#include "tests/support/tiny_llama.h"

namespace metal_candle {
namespace {

namespace fs = std::filesystem;

fs::path fixture(const std::string& name) { return fs::path(METAL_CANDLE_TESTS_DIR) / "fixtures/lora" / name; }

std::vector<double> expected_logits(const std::string& name) {
  std::ifstream file(fixture(name) / "expected.txt");
  std::string word;
  std::int64_t tokens = 0;
  file >> word >> tokens;
  std::vector<double> values;
  for (double v = 0; file >> v;) values.push_back(v);
  EXPECT_EQ(std::ssize(values), tokens * 40) << name;
  return values;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

std::vector<double> logits(const Model& model, const LoRAAdapter* adapter = nullptr) {
  nn::Weights w = model.weights();
  if (adapter) adapter->apply(w);
  return test::tiny_logits(model, w, test::tiny_row(0)).eval().to_f64();
}

/// A folder that is removed with its content.
struct TempFolder {
  fs::path path = fs::temp_directory_path() / ("mc_lora_" + std::to_string(getpid()) + "_" + std::to_string(counter++));
  TempFolder() { fs::create_directories(path); }
  ~TempFolder() { fs::remove_all(path); }
  static inline int counter = 0;
};

void write(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

const char* const kVariants[] = {"plain", "rslora", "patterns", "layers", "embedding", "saved", "saved_tied"};
Model model_of(const std::string& variant) { return test::tiny_llama(variant == "saved_tied"); }

TEST(LoRAAdapter, SaysWhatItSaysUnderPeft) {
  for (const std::string name : kVariants) {
    const Model model = model_of(name);
    const LoRAAdapter adapter = LoRAAdapter::load(fixture(name), model);
    const std::vector<double> want = expected_logits(name);
    EXPECT_LT(largest_difference(logits(model, &adapter), want), 2e-5) << name;
    EXPECT_GT(largest_difference(logits(model), want), 1e-2) << name << ": the adapter does nothing";
  }
}

TEST(LoRAAdapter, MergedItSaysTheSameAndTheBaseIsUntouched) {
  for (const std::string name : kVariants) {
    const Model model = model_of(name);
    const std::vector<double> base = logits(model);
    const Model merged = LoRAAdapter::load(fixture(name), model).merge(model);
    EXPECT_LT(largest_difference(logits(merged), expected_logits(name)), 2e-5) << name;
    EXPECT_EQ(logits(model), base) << name;
    EXPECT_EQ(merged.config().tied_embeddings, false) << name;
  }
}

TEST(LoRAAdapter, MergingKeepsATiedHeadThatNobodyAdapts) {
  const Model model = test::tiny_llama(true);
  const LoRAAdapter adapter = LoRAAdapter::load(fixture("plain"), model);
  const Model merged = adapter.merge(model);
  EXPECT_TRUE(merged.config().tied_embeddings);
  EXPECT_LT(largest_difference(logits(merged), logits(model, &adapter)), 2e-5);
}

TEST(LoRAAdapter, MergingIntoAnotherTypeRoundsOnce) {
  for (const std::string name : kVariants) {
    const Model model = model_of(name);
    const LoRAAdapter adapter = LoRAAdapter::load(fixture(name), model);
    const Model exact = adapter.merge(model), merged = adapter.merge(model, DType::bf16);
    for (const auto& [path, tensor] : exact.parameters()) {
      ASSERT_EQ(merged.parameters()[path].dtype(), DType::bf16) << path;
      EXPECT_EQ(Tensor(merged.parameters()[path]).to_f64(), cast(tensor, DType::bf16).eval().to_f64()) << path;
    }
    EXPECT_EQ(merged.config().tied_embeddings, exact.config().tied_embeddings);
  }
}

// A plan for each shape is what it takes, and nothing to warn of.
TEST(LoRAAdapter, MergingWeightsOfManyShapesIsSilent) {
  const Model model = test::tiny_llama();
  const LoRAAdapter adapter =
      LoRAAdapter::create(model, {.target_modules = {"k_proj", "gate_proj", "down_proj"}}, Key(1));
  std::string log;
  set_log([&](const std::string& line) { log += line + "\n"; });
  clear_plan_cache();
  adapter.merge(model);
  set_log({});
  EXPECT_EQ(log, "");
}

TEST(LoRAAdapter, MergingRefusesWhatIsNotFinite) {
  const Model model = test::tiny_llama();
  const LoRAAdapter adapter = LoRAAdapter::load(fixture("plain"), model);
  ParamTree bad = adapter.trainable();
  const Shape shape = bad["model.layers.1.mlp.up_proj.lora_B.weight"].shape();
  bad["model.layers.1.mlp.up_proj.lora_B.weight"] = Tensor::full(shape, std::numeric_limits<float>::infinity());
  try {
    adapter.with(bad).merge(model);
    FAIL() << "merged";
  } catch (const UserError& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("model.layers.1.mlp.up_proj.weight"));
  }
}

TEST(LoRAAdapter, FilesComeBackBitForBit) {
  for (const std::string name : kVariants) {
    const Model model = model_of(name);
    const LoRAAdapter adapter = LoRAAdapter::load(fixture(name), model);
    const TempFolder folder;
    adapter.save(folder.path);
    // For tests/fixtures/check_peft_reads.py.
    if (const char* keep = std::getenv("METAL_CANDLE_KEEP_ADAPTERS")) adapter.save(fs::path(keep) / name);
    const SafeTensors ours = SafeTensors::open(folder.path / "adapter_model.safetensors");
    const SafeTensors theirs = SafeTensors::open(fixture(name) / "adapter_model.safetensors");
    for (const TensorInfo& t : ours.tensors()) {
      ASSERT_TRUE(theirs.contains(t.name)) << name << ": " << t.name;
      EXPECT_EQ(ours.load(t.name).to_f64(), theirs.load(t.name).to_f64()) << t.name;
    }
    // PEFT also stores layers beside adapters of embeddings and heads; those that are the base's we do not.
    for (const TensorInfo& t : theirs.tensors())
      EXPECT_TRUE(ours.contains(t.name) || t.name.find("base_layer") != std::string::npos) << t.name;
    const LoRAAdapter again = LoRAAdapter::load(folder.path, model);
    EXPECT_EQ(logits(model, &again), logits(model, &adapter)) << name;
  }
}

TEST(LoRAAdapter, AFreshOneChangesNothingAndBeginsWithinBounds) {
  const Model model = test::tiny_llama();
  const LoRAAdapter adapter = LoRAAdapter::create(model, {.rank = 5, .target_modules = {"all-linear"}}, Key(3));
  EXPECT_EQ(adapter.modules().size(), 14u);
  EXPECT_EQ(largest_difference(logits(model, &adapter), logits(model)), 0);
  const Tensor a(adapter.trainable()["model.layers.0.mlp.down_proj.lora_A.weight"]);
  EXPECT_EQ(a.shape(), (Shape{5, 24}));
  const double bound = 1 / std::sqrt(24.0);
  double largest = 0;
  for (const double v : a.to_f64()) largest = std::max(largest, std::abs(v));
  EXPECT_LE(largest, bound);
  EXPECT_GT(largest, 0.9 * bound);
  const LoRAAdapter fewer = LoRAAdapter::create(model, {.rank = 5, .target_modules = {"down_proj"}}, Key(3));
  EXPECT_EQ(Tensor(fewer.trainable()["model.layers.0.mlp.down_proj.lora_A.weight"]).to_f64(), a.to_f64());
}

TEST(LoRAAdapter, ReadsMlxAdapters) {
  const Model model = test::tiny_llama();
  const LoRAAdapter peft = LoRAAdapter::load(fixture("plain"), model);
  const TempFolder folder;
  std::vector<NamedTensor> tensors;
  for (const auto& [path, t] : peft.trainable()) {
    const bool is_a = path.ends_with(".lora_A.weight");
    const std::string module = path.substr(0, path.size() - std::string(".lora_A.weight").size());
    tensors.emplace_back(module + (is_a ? ".lora_a" : ".lora_b"), Tensor(transpose(t).eval()).copy());
  }
  save_safetensors(folder.path / "adapters.safetensors", tensors);
  write(folder.path / "adapter_config.json",
        R"({"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0}})");
  const LoRAAdapter mlx = LoRAAdapter::load(folder.path, model);
  EXPECT_LT(largest_difference(logits(model, &mlx), expected_logits("plain")), 2e-5);
  mlx.save(folder.path / "converted");
  const LoRAAdapter converted = LoRAAdapter::load(folder.path / "converted", model);
  EXPECT_EQ(logits(model, &converted), logits(model, &mlx));
  const auto refusal = [&](const char* settings) -> std::string {
    write(folder.path / "adapter_config.json", settings);
    try {
      LoRAAdapter::load(folder.path, model);
    } catch (const FileError& e) {
      return e.what();
    }
    return "loaded";
  };
  EXPECT_EQ(refusal(R"({"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": {}})"), "loaded");
  EXPECT_EQ(refusal(R"({"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {}})"), "loaded") << "as mlx-lm";
  EXPECT_THAT(
      refusal(R"({"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {}})"),
      testing::HasSubstr("adapter_config.json: num_layers: expected 2 layers, as in adapters.safetensors, got 1"));
  EXPECT_THAT(refusal(R"({"fine_tune_type": "lora", "lora_parameters": {"rank": 8}})"),
              testing::HasSubstr("adapter_config.json: rank: expected a rank of 4, as in adapters.safetensors, got 8"));
  write(folder.path / "adapter_config.json", R"({"fine_tune_type": "dora"})");
  EXPECT_THROW(LoRAAdapter::load(folder.path, model), FileError);
}

/// What loading complains about after `change` has been made to a copy of the plain adapter.
std::string complaint(const std::function<void(const fs::path&)>& change) {
  const TempFolder folder;
  fs::copy(fixture("plain"), folder.path, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  change(folder.path);
  try {
    LoRAAdapter::load(folder.path, test::tiny_llama());
  } catch (const FileError& e) {
    return e.what();
  }
  return "loaded";
}
void edit(const fs::path& file, const std::string& from, const std::string& to) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  std::string s = text.str();
  const std::size_t at = s.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  write(file, s.replace(at, from.size(), to));
}

TEST(LoRAAdapter, FilesThatDoNotFitAreErrorsThatSayWhere) {
  const auto config = [](const std::string& from, const std::string& to) {
    return complaint([=](const fs::path& f) { edit(f / "adapter_config.json", from, to); });
  };
  EXPECT_THAT(config("\"r\": 4", "\"r\": 5"),
              testing::HasSubstr("q_proj.lora_A.weight: expected shape [5, 16], got [4, 16]"));
  EXPECT_THAT(config("\"up_proj\"", "\"nothing\""), testing::HasSubstr("up_proj"));
  EXPECT_THAT(config("\"LORA\"", "\"LOHA\""), testing::HasSubstr("peft_type"));
  EXPECT_THAT(config("\"layers_to_transform\": null", "\"layers_to_transform\": [99]"),
              testing::HasSubstr("adapter_config.json: layers_to_transform: expected layers of this model, got 99"));
  EXPECT_THAT(complaint([](const fs::path& f) { fs::remove(f / "adapter_model.safetensors"); }),
              testing::HasSubstr("adapter_model.safetensors"));
  EXPECT_THAT(
      complaint([](const fs::path& f) { fs::rename(f / "adapter_model.safetensors", f / "adapter_model.bin"); }),
      testing::HasSubstr("pickle"));
  EXPECT_THAT(complaint([](const fs::path& f) { fs::remove(f / "adapter_config.json"); }),
              testing::HasSubstr("adapter_config.json"));
  EXPECT_THAT(complaint([](const fs::path& f) { fs::resize_file(f / "adapter_model.safetensors", 100); }),
              testing::HasSubstr("adapter_model.safetensors"));
  EXPECT_THAT(complaint([](const fs::path& f) { write(f / "adapter_config.json", "{}"); }),
              testing::HasSubstr("peft_type"));
}

TEST(LoRAAdapter, OfAnotherModelIsAnErrorThatNamesBothModels) {
  const std::string said = complaint([](const fs::path& f) {
    edit(f / "adapter_config.json", "\"base_model_name_or_path\": null",
         "\"base_model_name_or_path\": \"someone/small\"");
    edit(f / "adapter_config.json", "\"r\": 4", "\"r\": 5");
  });
  EXPECT_THAT(said, testing::HasSubstr("made for \"someone/small\"; this model: llama, 2 layers, 16 wide"));
}

TEST(LoRAAdapter, ConfigsThatFitNothingAreUserErrors) {
  const Model model = test::tiny_llama();
  try {
    LoRAAdapter::create(model, {.target_modules = {"wq"}}, Key(1));
    FAIL();
  } catch (const UserError& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("wq"));
    EXPECT_THAT(e.what(), testing::HasSubstr("q_proj"));
  }
  const auto refusal = [&](const LoRAConfig& config) {
    return test::error_of([&] { LoRAAdapter::create(model, config, Key(1)); }, ErrorKind::argument);
  };
  EXPECT_EQ(refusal({.rank = 0}), "LoRA: a rank of 0; it must be from 1 to 1048576");
  EXPECT_EQ(refusal({.rank_pattern = {{"q_proj", -3}}}), "LoRA: rank_pattern of -3 for \"q_proj\"");
  const LoRAAdapter a = LoRAAdapter::create(model, {}, Key(1));
  EXPECT_THROW(a.with({}), UserError);
}

TEST(LoRAAdapter, EveryTargetIsAModuleAndTheConfigHasItsName) {
  const Model model = test::tiny_llama();
  const auto create = [&](const char* targets) {
    LoRAConfig config{.rank = 2, .alpha = 4};
    config.set_targets(targets);
    return LoRAAdapter::create(model, config, Key(0));
  };
  const LoRAAdapter words = create("embeddings,lm_head,q,k,v,o,gate,up,down");
  EXPECT_EQ(words.config().target_modules,
            (std::vector<std::string>{"embed_tokens", "lm_head", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj",
                                      "up_proj", "down_proj"}));
  EXPECT_EQ(words.modules(),
            create("embed_tokens,lm_head,q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj").modules());
  EXPECT_THAT(words.modules(), testing::IsSupersetOf({"model.embed_tokens", "lm_head", "model.layers.1.mlp.up_proj"}));
  for (const char* targets : {"q_proj,vproj", "vproj", "q_proj,norm", "q_proj,_proj", "all-linear,vproj"}) {
    try {
      create(targets);
      ADD_FAILURE() << targets;
    } catch (const UserError& e) {
      const std::string wrong = targets;
      EXPECT_THAT(e.what(), testing::HasSubstr("\"" + wrong.substr(wrong.rfind(',') + 1) + "\"")) << targets;
      EXPECT_THAT(e.what(), testing::HasSubstr("embed_tokens, ")) << targets;
      EXPECT_THAT(e.what(), testing::Not(testing::HasSubstr("no \"q_proj\""))) << targets;
    }
  }
}

// PEFT's expressions are Python's, and its modules are not only layers: names are what both understand alike.
TEST(LoRAAdapter, AnExpressionIsWrittenAsTheModulesThatItChose) {
  const Model model = test::tiny_llama();
  LoRAConfig config{.rank = 2, .alpha = 4};
  config.set_targets(".*\\.1\\.mlp\\.[[:alpha:]_]+");
  config.exclude_modules = {".*up_[[:alpha:]]+"};
  config.exclude_regex = true;
  const LoRAAdapter adapter = LoRAAdapter::create(model, config, Key(0));
  EXPECT_EQ(adapter.modules(),
            (std::vector<std::string>{"model.layers.1.mlp.gate_proj", "model.layers.1.mlp.down_proj"}));
  const TempFolder folder;
  adapter.save(folder.path);
  const Json written = Json::load(folder.path / "adapter_config.json");
  Json names = Json::array();
  for (const std::string& module : adapter.modules()) names.push_back(module);
  EXPECT_EQ(written.at("target_modules"), names);
  EXPECT_TRUE(written.at("exclude_modules").is_null());
  EXPECT_EQ(LoRAAdapter::load(folder.path, model).modules(), adapter.modules());
}

TEST(LoRALayer, DropoutInBothForms) {
  const LoRAConfig config{.rank = 3, .alpha = 6, .dropout = 0.5};
  LoRALayer layer(randn({3, 10}, {.key = Key(1)}).eval(), randn({7, 3}, {.key = Key(2)}).eval(), 2.0, config.dropout);
  const Tensor x = randn({4, 10}, {.key = Key(3)}).eval();
  const std::vector<float> calm = layer.forward(x).to_vector<float>();
  EXPECT_EQ(layer.forward(x, Key(9)).to_vector<float>(), calm) << "no dropout unless training";
  layer.train(true);
  const std::vector<float> dropped = layer.forward(x, Key(9)).to_vector<float>();
  EXPECT_NE(dropped, calm);
  EXPECT_EQ(layer.forward_lazy(x, Key(9)).eval().to_vector<float>(), dropped);
  EXPECT_NE(layer.forward(x, Key(10)).to_vector<float>(), dropped);
  const ParamTree p = layer.parameters();
  const LazyTensor seen = dropout(x, 0.5, Key(9));
  const Tensor want = (matmul(matmul(seen, transpose(p["lora_A.weight"])), transpose(p["lora_B.weight"])) * 2.0).eval();
  EXPECT_LT(largest_difference(want.to_f64(), std::vector<double>(dropped.begin(), dropped.end())), 1e-5);
}

TEST(LoRALayer, CreatedAsPeftDoes) {
  const LoRALayer layer = LoRALayer::create(100, 20, {.rank = 4, .alpha = 6, .rslora = true}, Key(1));
  EXPECT_DOUBLE_EQ(layer.scale(), 3);
  EXPECT_EQ(layer.parameters()["lora_A.weight"].shape(), (Shape{4, 100}));
  EXPECT_EQ(layer.parameters()["lora_B.weight"].shape(), (Shape{20, 4}));
  EXPECT_EQ(layer.forward_lazy(Tensor::ones({2, 3, 100})).shape(), (Shape{2, 3, 20}));
  EXPECT_THROW(LoRALayer(Tensor::ones({4, 3}), Tensor::ones({3, 5}), 1), UserError);
}

}  // namespace
}  // namespace metal_candle
