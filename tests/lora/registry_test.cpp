// Several adapters beside one model: switched at once, without a plan, and without a trace.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>

#include "metal_candle/error.hpp"
#include "metal_candle/lora.hpp"
#include "tests/runtime/probe.h"
#include "tests/support/tiny_llama.h"

namespace metal_candle {
namespace {

std::filesystem::path folder_of(const std::string& name) {
  return std::filesystem::path(METAL_CANDLE_TESTS_DIR) / "fixtures/lora" / name;
}

std::vector<float> say(const AdapterRegistry& registry) {
  return test::tiny_logits(registry.model(), registry.weights(), test::tiny_row(0)).eval().to_vector<float>();
}

TEST(AdapterRegistry, LogitsChangeAndComeBackBitForBitWithoutANewPlan) {
  AdapterRegistry registry(test::tiny_llama());
  registry.load("one", folder_of("training/first"));
  registry.load("two", folder_of("training/last"));
  registry.load("other ranks", folder_of("patterns"));
  const std::vector<float> base = say(registry);
  registry.use("one");
  const std::vector<float> one = say(registry);
  registry.use("other ranks");
  const std::vector<float> other = say(registry);
  EXPECT_NE(base, one);
  EXPECT_NE(one, other);

  const test::Counted counted;
  registry.use("two");  // the structure of "one"
  const std::vector<float> two = say(registry);
  EXPECT_NE(two, one);
  for (int round = 0; round < 3; ++round) {
    registry.use("one");
    EXPECT_EQ(say(registry), one);
    registry.use_base();
    EXPECT_EQ(say(registry), base);
    registry.use("other ranks");
    EXPECT_EQ(say(registry), other);
    registry.use("two");
    EXPECT_EQ(say(registry), two);
  }
  EXPECT_EQ(counted.compiled(), 0u);
}

TEST(AdapterRegistry, SwitchesInLessThanFiveMilliseconds) {
  AdapterRegistry registry(test::tiny_llama());
  registry.load("one", folder_of("training/first"));
  registry.load("two", folder_of("training/last"));
  const auto begin = std::chrono::steady_clock::now();
  constexpr int kSwitches = 200;
  for (int i = 0; i < kSwitches; ++i) {
    registry.use(i % 2 == 0 ? "one" : "two");
    registry.weights();
  }
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(took.count() / kSwitches, 5.0);
}

TEST(AdapterRegistry, NamesAndErrors) {
  AdapterRegistry registry(test::tiny_llama());
  EXPECT_EQ(registry.active(), "");
  registry.load("a", folder_of("plain"));
  EXPECT_EQ(registry.names(), std::vector<std::string>{"a"});
  EXPECT_THROW(registry.use("b"), UserError);
  EXPECT_THROW(registry.load("", folder_of("plain")), UserError);
  EXPECT_THROW(registry.load("a", folder_of("nowhere")), FileError);
  registry.use("a");
  EXPECT_EQ(registry.active(), "a");
  const std::vector<float> with_a = say(registry);
  const nn::Weights kept = registry.weights();
  registry.remove("a");
  EXPECT_EQ(registry.active(), "");
  EXPECT_NE(say(registry), with_a);
  EXPECT_EQ(test::tiny_logits(registry.model(), kept, test::tiny_row(0)).eval().to_vector<float>(), with_a);
}

}  // namespace
}  // namespace metal_candle
