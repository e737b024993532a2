// config.json: both styles of transformers, what classes leave out, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "metal_candle/error.hpp"
#include "tests/support/tiny_models.h"

namespace metal_candle::test {
namespace {

using testing::HasSubstr;
using Kind = nn::RopeScaling::Kind;

Json base(const std::string& type = "llama") {
  return Json::object({{"model_type", type},
                       {"vocab_size", 32},
                       {"hidden_size", 24},
                       {"intermediate_size", 40},
                       {"num_hidden_layers", 3},
                       {"num_attention_heads", 4}});
}
Json with(Json json, std::initializer_list<std::pair<const char*, Json>> members) {
  for (const auto& [key, value] : members) json.set(key, value);
  return json;
}
std::string refusal(const Json& json) {
  try {
    ModelConfig::from_json(Json::parse(json.dump(), "config.json"));
  } catch (const FileError& e) {
    EXPECT_EQ(e.file(), "config.json");
    EXPECT_FALSE(e.expected().empty());
    return e.field() + " | " + e.what();
  }
  return "accepted";
}

TEST(ModelConfig, ClassesFillWhatIsLeftOut) {
  const ModelConfig llama = ModelConfig::from_json(base());
  EXPECT_EQ(llama.key_heads, 4);
  EXPECT_EQ(llama.head_width, 6);
  EXPECT_EQ(llama.max_positions, 2048);
  EXPECT_EQ(llama.rope_base, 10000);
  EXPECT_EQ(llama.bos, 1);
  EXPECT_EQ(llama.eos, std::vector<std::int32_t>{2});
  EXPECT_FALSE(llama.tied_embeddings || llama.qkv_bias || llama.output_bias || llama.mlp_bias || llama.qk_norm);
  EXPECT_TRUE(llama.windowed.empty());

  const ModelConfig qwen2 = ModelConfig::from_json(base("qwen2"));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.output_bias || qwen2.tied_embeddings);
  EXPECT_FALSE(qwen2.bos.has_value());
  EXPECT_EQ(ModelConfig::from_json(base("qwen3")).head_width, 128);
  EXPECT_TRUE(ModelConfig::from_json(base("qwen3")).qk_norm);

  const ModelConfig smollm3 = ModelConfig::from_json(with(base("smollm3"), {{"num_hidden_layers", 9}}));
  EXPECT_TRUE(smollm3.tied_embeddings);
  EXPECT_EQ(smollm3.rope_base, 2e6);
  EXPECT_EQ(smollm3.rotated, (std::vector<bool>{true, true, true, false, true, true, true, false, true}));
  EXPECT_TRUE(smollm3.windowed.empty());
  EXPECT_EQ(smollm3.eos, std::vector<std::int32_t>{128001});
  EXPECT_EQ(smollm3.pad, 128004);

  const ModelConfig mistral = ModelConfig::from_json(base("mistral"));
  EXPECT_EQ(mistral.window, 4096);
  EXPECT_EQ(mistral.windowed, std::vector<bool>(3, true));

  const ModelConfig gemma = ModelConfig::from_json(base("gemma2"));
  EXPECT_TRUE(gemma.tied_embeddings);
  EXPECT_EQ(gemma.attention_softcap, 50);
  EXPECT_EQ(gemma.logit_softcap, 30);
  EXPECT_EQ(gemma.activation, nn::Activation::gelu_tanh);
  EXPECT_EQ(gemma.windowed, (std::vector<bool>{true, false, true}));
}

TEST(ModelConfig, BothStylesOfRope) {
  const Json scaling = Json::object({{"type", "linear"}, {"factor", 4}});
  const ModelConfig old = ModelConfig::from_json(with(base(), {{"rope_theta", 5e5}, {"rope_scaling", scaling}}));
  const Json parameters = Json::object({{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 500000}});
  const ModelConfig now = ModelConfig::from_json(with(base(), {{"rope_parameters", parameters}}));
  EXPECT_EQ(old.rope_base, 5e5);
  EXPECT_EQ(old.rope.kind, Kind::linear);
  EXPECT_EQ(now.rope_base, old.rope_base);
  EXPECT_EQ(now.rope, old.rope);
  EXPECT_EQ(ModelConfig::from_json(with(base(), {{"rope_scaling", nullptr}})).rope.kind, Kind::none);
}

// As transformers reads them, which the numbers of the logits tests come from.
TEST(ModelConfig, OfTwoPlacesTheOneThatTransformersGoesBy) {
  const Json scaling = Json::object({{"type", "linear"}, {"factor", 4}});
  const Json parameters = Json::object({{"rope_type", "default"}, {"rope_theta", 777.0}});
  const auto both = [&](const Json& older) {
    return ModelConfig::from_json(
        with(base(), {{"rope_theta", 5e5}, {"rope_parameters", parameters}, {"rope_scaling", older}}));
  };
  EXPECT_EQ(both(scaling).rope.kind, Kind::linear);
  EXPECT_EQ(both(scaling).rope_base, 5e5);
  for (const Json& none : {Json(), Json::object()}) {
    EXPECT_EQ(both(none).rope.kind, Kind::none);
    EXPECT_EQ(both(none).rope_base, 777);
  }
  const Json yarn = Json::object({{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 64}});
  EXPECT_EQ(ModelConfig::from_json(with(base(), {{"rope_scaling", yarn}})).rope.original_positions, 64);
  EXPECT_EQ(ModelConfig::from_json(with(base(), {{"rope_scaling", yarn}, {"original_max_position_embeddings", 32}}))
                .rope.original_positions,
            32);
  EXPECT_EQ(ModelConfig::from_json(with(base("gemma2"), {{"hidden_act", "gelu"}})).activation,
            nn::Activation::gelu_tanh);
}

TEST(ModelConfig, MistralsLayersMayBeListed) {
  const Json list = Json::array({"full_attention", "sliding_attention", "full_attention"});
  const ModelConfig c = ModelConfig::from_json(with(base("mistral"), {{"layer_types", list}}));
  EXPECT_EQ(c.windowed, (std::vector<bool>{false, true, false}));
  EXPECT_EQ(ModelConfig::from_json(c.to_json()).windowed, c.windowed);
  EXPECT_FALSE(ModelConfig::from_json(base("mistral")).to_json().contains("layer_types"));
}

TEST(ModelConfig, TokenIds) {
  const Json two = Json::array({7, 9});
  const ModelConfig c =
      ModelConfig::from_json(with(base(), {{"eos_token_id", two}, {"bos_token_id", nullptr}, {"pad_token_id", -1}}));
  EXPECT_EQ(c.eos, (std::vector<std::int32_t>{7, 9}));
  EXPECT_FALSE(c.bos || c.pad);
  EXPECT_TRUE(ModelConfig::from_json(with(base(), {{"eos_token_id", nullptr}})).eos.empty());
}

TEST(ModelConfig, DynamicScalingLengthensTheContext) {
  const Json scaling = Json::object({{"rope_type", "dynamic"}, {"factor", 2.5}});
  const Json json = with(base(), {{"rope_scaling", scaling}, {"max_position_embeddings", 100}});
  EXPECT_EQ(ModelConfig::from_json(json).context(), 250);
  EXPECT_EQ(ModelConfig::from_json(with(base(), {{"max_position_embeddings", 100}})).context(), 100);
}

TEST(ModelConfig, WhatTransformersHasAsAnIntegerIsWrittenAsOne) {
  const Json gemma = with(base("gemma2"), {{"query_pre_attn_scalar", 144}, {"head_dim", 8}, {"sliding_window", 4}});
  const Json written = ModelConfig::from_json(gemma).to_json();
  const Json integers = with(gemma, {{"max_position_embeddings", 1}, {"num_key_value_heads", 1}});
  for (const JsonMember& m : integers.items()) {
    EXPECT_TRUE(!m.value.is_integer() || written.at(m.key).is_integer()) << m.key;
  }
  EXPECT_EQ(written.at("query_pre_attn_scalar"), Json(144));
  EXPECT_EQ(ModelConfig::from_json(with(gemma, {{"query_pre_attn_scalar", 2.5}})).to_json().at("query_pre_attn_scalar"),
            Json(2.5));
}

class ConfigRoundTrip : public testing::TestWithParam<std::string> {};
TEST_P(ConfigRoundTrip, IsTheSame) {
  const ModelConfig c = ModelConfig::from_json(tiny_case(GetParam()).config);
  const ModelConfig back = ModelConfig::from_json(Json::parse(c.to_json(DType::bf16).dump(2), "written"));
  EXPECT_EQ(back.to_json().dump(), c.to_json().dump());
  EXPECT_EQ(back.windowed, c.windowed);
  EXPECT_EQ(back.rope, c.rope);
  EXPECT_EQ(back.eos, c.eos);
  EXPECT_DOUBLE_EQ(back.attention_scale, c.attention_scale);
  EXPECT_EQ(weight_shapes(back), weight_shapes(c));
}
std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const TinyCase& c : tiny_cases()) names.push_back(c.name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(All, ConfigRoundTrip, testing::ValuesIn(case_names()),
                         [](const auto& info) { return info.param; });

TEST(ModelConfig, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(refusal(base("mamba")), HasSubstr("model_type | config.json: model_type: expected one of llama, mistral, "
                                                "qwen2, qwen3, smollm3, gemma2 (an encoder is for "));
  const auto rope = [](Json scaling) { return with(base(), {{"rope_scaling", std::move(scaling)}}); };
  EXPECT_THAT(refusal(rope(Json::object({{"rope_type", "longrope"}, {"factor", 2}}))),
              HasSubstr("one of default, linear, dynamic, llama3, yarn"));
  EXPECT_THAT(refusal(rope(Json::object({{"rope_type", "linear"}}))), HasSubstr("factor"));
  EXPECT_THAT(refusal(rope(Json::object({{"rope_type", "linear"}, {"factor", 0.5}}))), HasSubstr("at least 1"));
  EXPECT_THAT(refusal(rope(Json::object(
                  {{"rope_type", "llama3"}, {"factor", 2}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}))),
              HasSubstr("high_freq_factor"));
  EXPECT_THAT(refusal(rope(Json::object({{"partial_rotary_factor", 0.5}}))), HasSubstr("partial_rotary_factor"));
  EXPECT_THAT(refusal(with(base(), {{"rope_parameters", Json::object({{"full_attention", Json::object()}})}})),
              HasSubstr("one set of rope"));
  EXPECT_THAT(refusal(with(base(), {{"quantization_config", Json::object({{"bits", 4}})}})),
              HasSubstr("no quantization"));
  EXPECT_THAT(refusal(with(base(), {{"hidden_act", "mish"}})), HasSubstr("silu"));
}

TEST(ModelConfig, RefusesWhatContradicts) {
  EXPECT_THAT(refusal(with(base(), {{"num_key_value_heads", 3}})), HasSubstr("num_key_value_heads | "));
  EXPECT_THAT(refusal(with(base(), {{"num_attention_heads", 5}})), HasSubstr("hidden_size | "));
  EXPECT_THAT(refusal(with(base(), {{"head_dim", 7}})), HasSubstr("even"));
  EXPECT_THAT(refusal(with(base(), {{"vocab_size", -1}})), HasSubstr("vocab_size | "));
  EXPECT_THAT(refusal(with(base(), {{"hidden_size", 1.5}})), HasSubstr("hidden_size | "));
  EXPECT_THAT(refusal(with(base(), {{"intermediate_size", "x"}})), HasSubstr("intermediate_size | "));
  EXPECT_THAT(refusal(with(base(), {{"num_hidden_layers", 1 << 20}})), HasSubstr("num_hidden_layers | "));
  EXPECT_THAT(refusal(with(base(), {{"rms_norm_eps", 0}})), HasSubstr("rms_norm_eps | "));
  EXPECT_THAT(refusal(with(base(), {{"rope_theta", -5}})), HasSubstr("rope_theta | "));
  EXPECT_THAT(refusal(with(base(), {{"tie_word_embeddings", 1}})), HasSubstr("tie_word_embeddings | "));
  EXPECT_THAT(refusal(with(base(), {{"eos_token_id", "</s>"}})), HasSubstr("eos_token_id | "));
  EXPECT_THAT(refusal(with(base("gemma2"), {{"layer_types", Json::array({"full_attention"})}})),
              HasSubstr("layer_types | "));
  const auto places = [&](Json json) { return with(base("smollm3"), {{"no_rope_layers", std::move(json)}}); };
  EXPECT_THAT(refusal(places(Json::array({1, 0}))), HasSubstr("no_rope_layers | "));
  EXPECT_THAT(refusal(places(Json::array({1, 0, 2}))), HasSubstr("no_rope_layers[2] | "));
  EXPECT_THAT(refusal(with(base("smollm3"), {{"no_rope_layer_interval", 0}})), HasSubstr("no_rope_layer_interval | "));
  const Json windows = Json::array({"full_attention", "sliding_attention", "full_attention"});
  EXPECT_THAT(refusal(with(base("smollm3"), {{"layer_types", windows}, {"sliding_window", 4}})),
              HasSubstr("where use_sliding_window is false"));
  for (const char* key :
       {"model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}) {
    const Json whole = base();
    Json json = Json::object();
    for (const JsonMember& m : whole.items())
      if (m.key != key) json.set(m.key, m.value);
    EXPECT_THAT(refusal(json), HasSubstr(key));
  }
}

TEST(Model, NamesTheWeightThatIsMissingOrWrong) {
  const ModelConfig config = ModelConfig::from_json(tiny_case("llama").config);
  const ParamTree good = tiny_weights(config);
  const auto complaint = [&](const ParamTree& tree) -> std::string {
    try {
      Model model(config, tree);
    } catch (const UserError& e) {
      return e.what();
    }
    return "accepted";
  };
  const std::string path = "model.layers.1.mlp.up_proj.weight";
  ParamTree without, wrong;
  for (const auto& [name, tensor] : good) {
    if (name != path) without.insert(name, tensor);
    wrong.insert(name, name == path ? Tensor::zeros({40, 23}) : tensor);
  }
  EXPECT_THAT(complaint(without), HasSubstr(path + "\" [40, 24] is missing"));
  EXPECT_THAT(complaint(wrong), HasSubstr(path + "\" is [40, 23], expected [40, 24]"));
  ParamTree more = good;
  more.insert("model.rotary_emb.inv_freq", Tensor::zeros({3}));
  EXPECT_EQ(Model(config, more).parameters().size(), good.size());
}

TEST(Model, KnowsItsLinearModules) {
  const auto modules = tiny_model("llama").linear_modules();
  ASSERT_EQ(modules.size(), 2u * 7 + 1);
  EXPECT_EQ(modules.front(), "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(modules.back(), "lm_head");
  EXPECT_EQ(tiny_model("qwen2").linear_modules().back(), "model.layers.1.mlp.down_proj");
}

TEST(Model, RefusesBatchesThatDoNotFit) {
  const Model m = tiny_model("llama");
  EXPECT_THROW(m.hidden(m.weights(), {.ids = ints({1, 2})}), UserError);
  EXPECT_THROW(m.hidden(m.weights(), {.ids = ints({1, 2}), .positions = ints({0})}), UserError);
}

}  // namespace
}  // namespace metal_candle::test
