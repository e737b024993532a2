// adapter_config.json: what it means, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "metal_candle/error.hpp"
#include "metal_candle/lora.hpp"

namespace metal_candle {
namespace {

LoRAConfig parsed(const std::string& members) {
  return LoRAConfig::from_json(Json::parse(R"({"peft_type": "LORA", )" + members + "}", "adapter_config.json"));
}

std::string refusal(const std::string& members) {
  try {
    parsed(members);
  } catch (const FileError& e) {
    return e.what();
  }
  return "accepted";
}

TEST(LoRAConfig, DefaultsOfFilesArePefts) {
  const LoRAConfig c = parsed(R"("target_modules": ["q_proj"])");
  EXPECT_EQ(c.rank, 8);
  EXPECT_EQ(c.alpha, 8);
  EXPECT_EQ(c.dropout, 0);
  EXPECT_FALSE(c.rslora);
  EXPECT_EQ(c.scale_of("model.layers.0.self_attn.q_proj"), 1);
}

TEST(LoRAConfig, NamesMatchWholeOrAtTheirEnd) {
  const LoRAConfig c = parsed(R"("target_modules": ["q_proj", "model.layers.1.mlp.up_proj"])");
  EXPECT_TRUE(c.targets("model.layers.0.self_attn.q_proj", true));
  EXPECT_TRUE(c.targets("q_proj", true));
  EXPECT_TRUE(c.targets("model.layers.1.mlp.up_proj", true));
  EXPECT_FALSE(c.targets("model.layers.0.mlp.up_proj", true));
  EXPECT_FALSE(c.targets("model.layers.0.self_attn.xq_proj", true));
}

TEST(LoRAConfig, AnExpressionMatchesTheWholeName) {
  const LoRAConfig c = parsed(R"("target_modules": ".*\\.(q|v)_proj")");
  EXPECT_TRUE(c.target_regex);
  EXPECT_TRUE(c.targets("model.layers.0.self_attn.v_proj", true));
  EXPECT_FALSE(c.targets("model.layers.0.self_attn.v_proj.x", true));
  EXPECT_FALSE(c.targets("model.layers.0.self_attn.k_proj", true));
}

// As PEFT, which asks Python's re.fullmatch.
TEST(LoRAConfig, ExpressionsArePythons) {
  LoRAConfig c;
  c.target_regex = true;
  const auto fits = [&](const char* expression, const char* module) {
    c.target_modules = {expression};
    return c.targets(module, true);
  };
  const char *q = "model.layers.0.self_attn.q_proj", *k = "model.layers.0.self_attn.k_proj";
  for (const char* expression : {R"(.*(?<!k)_proj)", R"((?i).*Q_PROJ)", R"((?P<a>.*)q_proj)", R"(.*q_proj\Z)",
                                 R"(.*q_proj(?#comment))", R"(.*(?>q_proj))", R"(.*q\u005fproj)", R"(.*?q_proj|x)",
                                 R"(x|.*q_pro|.*q_proj)", R"(.*\.(?!k_)[a-z]+_proj$)", R"(.*layers\.\d+\..*q\w+)"}) {
    EXPECT_TRUE(fits(expression, q)) << expression;
    EXPECT_FALSE(fits(expression, k)) << expression;
  }
  EXPECT_FALSE(fits("q_proj", q));
  EXPECT_THROW(fits("(a+)+(b|c)", std::string(60, 'a').c_str()), UserError);
}

TEST(LoRAConfig, AllLinearIsAllButTheHead) {
  const LoRAConfig c = parsed(R"("target_modules": "all-linear", "exclude_modules": ["o_proj"])");
  EXPECT_FALSE(c.target_regex);
  EXPECT_TRUE(c.targets("model.layers.0.mlp.up_proj", true));
  EXPECT_FALSE(c.targets("model.layers.0.self_attn.o_proj", true));
  EXPECT_FALSE(c.targets("lm_head", false));
}

TEST(LoRAConfig, LayersAreCountedByTheFirstNumber) {
  const LoRAConfig c = parsed(R"("target_modules": ["w"], "layers_to_transform": [1, 3])");
  EXPECT_TRUE(c.targets("model.layers.1.mlp.w", true));
  EXPECT_TRUE(c.targets("model.layers.3.experts.0.w", true));
  EXPECT_FALSE(c.targets("model.layers.0.experts.1.w", true));
  EXPECT_FALSE(c.targets("layers.1.w", true));  // PEFT wants two names before the number
  const LoRAConfig p = parsed(R"("target_modules": ["w"], "layers_to_transform": 1, "layers_pattern": "experts")");
  EXPECT_TRUE(p.targets("model.layers.0.experts.1.w", true));
  EXPECT_FALSE(p.targets("model.layers.1.experts.0.w", true));
}

TEST(LoRAConfig, PatternsOfRankAndAlpha) {
  const LoRAConfig c = parsed(
      R"("r": 4, "lora_alpha": 8, "target_modules": "all-linear", "rank_pattern": {"q_proj": 2, "layers\\.1\\.mlp\\..*": 16},
         "alpha_pattern": {"q_proj": 6, "up_proj": 1.5}, "use_rslora": true)");
  EXPECT_EQ(c.rank_of("model.layers.0.self_attn.q_proj"), 2);
  EXPECT_EQ(c.rank_of("model.layers.0.self_attn.xq_proj"), 4);
  EXPECT_EQ(c.rank_of("model.layers.1.mlp.up_proj"), 16);
  EXPECT_DOUBLE_EQ(c.scale_of("model.layers.1.mlp.up_proj"), 1.5 / 4);
  EXPECT_DOUBLE_EQ(c.scale_of("model.layers.0.mlp.down_proj"), 8.0 / 2);
}

TEST(LoRAConfig, WhatChangesTheMathematicsIsRefusedByName) {
  const std::string targets = R"("target_modules": ["q_proj"], )";
  for (const std::string setting :
       {R"("use_dora": true)", R"("layer_replication": [[0, 2]])", R"("alora_invocation_tokens": [1])",
        R"("trainable_token_indices": [5])", R"("target_parameters": ["x"])", R"("megatron_config": {"a": 1})",
        R"("use_qalora": true)", R"("lora_bias": true)", R"("bias": "all")", R"("fan_in_fan_out": true)",
        R"("init_lora_weights": "pissa_niter_4")", R"("some_new_idea": 3)"}) {
    const std::string name = setting.substr(1, setting.find('"', 1) - 1);
    EXPECT_THAT(refusal(targets + setting), testing::HasSubstr(name));
  }
  EXPECT_EQ(
      refusal(targets + R"("use_dora": false, "layer_replication": null, "loftq_config": {}, "some_new_idea": null,
      "init_lora_weights": "gaussian", "peft_version": "0.21.2", "megatron_core": "megatron.core")"),
      "accepted");
}

TEST(LoRAConfig, SavedModulesAreNamedByAnyEnd) {
  const LoRAConfig c{.modules_to_save = {"norm", ""}};
  EXPECT_TRUE(c.saves("model.norm"));
  EXPECT_TRUE(c.saves("model.layers.0.post_attention_layernorm"));
  EXPECT_FALSE(c.saves("model.layers.0.self_attn.q_proj"));
}

TEST(LoRAConfig, TiedWeightsThatAreToStayTiedAreRefusedByName) {
  EXPECT_EQ(refusal(R"("target_modules": ["q_proj"], "ensure_weight_tying": false)"), "accepted");
  EXPECT_THAT(refusal(R"("target_modules": ["q_proj"], "ensure_weight_tying": true)"),
              testing::HasSubstr("ensure_weight_tying"));
}

TEST(LoRAConfig, MalformedFilesNameTheField) {
  EXPECT_THAT(refusal(R"("r": 8)"), testing::HasSubstr("target_modules"));
  EXPECT_THAT(refusal(R"("target_modules": [3])"), testing::HasSubstr("target_modules[0]"));
  EXPECT_THAT(refusal(R"("target_modules": ["q"], "r": 0)"), testing::HasSubstr("r: "));
  EXPECT_THAT(refusal(R"("target_modules": ["q"], "r": 1.5)"), testing::HasSubstr("r: "));
  EXPECT_THAT(refusal(R"("target_modules": "(q")"), testing::HasSubstr("(q"));
  EXPECT_THAT(refusal(R"("target_modules": ["q"], "lora_dropout": 1)"), testing::HasSubstr("dropout"));
  EXPECT_THAT(refusal(R"("target_modules": ["q"], "rank_pattern": {"(": 2})"), testing::HasSubstr("\"(\""));
  EXPECT_THAT(refusal(R"("target_modules": ")" + std::string(5000, 'a') + "\""),
              testing::HasSubstr("5000 bytes; at most 1000"));
  EXPECT_THROW(LoRAConfig::from_json(Json::parse(R"({"peft_type": "IA3"})", "f")), FileError);
}

TEST(LoRAConfig, AnExpressionCannotTakeForever) {
  const LoRAConfig c = parsed(R"("target_modules": "(a+)+b")");
  EXPECT_FALSE(c.targets(std::string(60, 'a'), true));
}

TEST(LoRAConfig, WritesWhatItReads) {
  const LoRAConfig c = parsed(
      R"("r": 4, "lora_alpha": 8, "target_modules": "x|y", "exclude_modules": ["z"], "rank_pattern": {"b": 1, "a": 2},
         "alpha_pattern": {"b": 2.5}, "layers_to_transform": [2], "modules_to_save": ["lm_head"], "lora_dropout": 0.25)");
  const Json written = c.to_json();
  EXPECT_EQ(LoRAConfig::from_json(Json::parse(written.dump(), "again")).to_json(), written);
  EXPECT_EQ(written.at("target_modules").as_string(), "x|y");
}

TEST(LoRAConfig, TargetsOfTheCommandLine) {
  LoRAConfig c;
  c.set_targets("q_proj, v_proj");
  EXPECT_EQ(c.target_modules, (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_FALSE(c.target_regex);
  c.set_targets(".*mlp.*");
  EXPECT_TRUE(c.target_regex);
  c.set_targets("");
  EXPECT_THROW(c.check(), UserError);
}

}  // namespace
}  // namespace metal_candle
