// The generator against plain passes of the model: the same tokens and log-probabilities, however they were computed.
#include "metal_candle/generate.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <malloc.h>

#include <cmath>
#include <numeric>
#include <set>

#include "metal_candle/error.hpp"
#include "metal_candle/runtime.hpp"
#include "tests/support/tiny_models.h"

namespace metal_candle::test {
namespace {

using testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

/// Log-probabilities of the token after each token, by one pass over everything.
std::vector<double> plain_logprobs(const Model& model, const nn::Weights& w, const Ids& ids, std::size_t position) {
  Batch batch = sequence(ids);
  const LazyTensor logits = model.logits(w, model.hidden(w, batch));
  const LazyTensor row = slice(logits, 0, static_cast<std::int64_t>(position), static_cast<std::int64_t>(position) + 1);
  return log_softmax(cast(row, DType::f64)).eval().to_f64();
}

std::int32_t largest(const std::vector<double>& values) {
  return static_cast<std::int32_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

void expect_same(const Generated& a, const Generated& b, const std::string& what = {}) {
  EXPECT_EQ(a.tokens, b.tokens) << what;
  EXPECT_EQ(a.logprobs, b.logprobs) << what;
  EXPECT_EQ(a.finish, b.finish) << what;
}

GenerateOptions greedy(int count) {
  GenerateOptions o;
  o.max_tokens = count;
  o.ignore_eos = true;
  return o;
}
GenerateOptions sampled(int count, std::uint64_t seed = 1) {
  GenerateOptions o = greedy(count);
  o.sampling.temperature = 0.9;
  o.sampling.seed = seed;
  return o;
}

/// A model large enough for real passes, small enough to be quick.
const Model& small_model(DType dtype = DType::f32) {
  const auto make = [](DType type) {
    ModelConfig c = ModelConfig::from_json(tiny_case("llama").config);
    c.vocabulary = 131;
    c.max_positions = 600;
    return Model::random(c, Key(5), type);
  };
  static const Model single = make(DType::f32), half = make(DType::bf16);
  return dtype == DType::f32 ? single : half;
}

Ids numbers(std::size_t count, std::int32_t from = 0) {
  Ids ids;
  for (std::size_t i = 0; i < count; ++i) ids.push_back((from + static_cast<std::int32_t>(i * i) * 7) % 131);
  return ids;
}

class TinyGenerators : public testing::TestWithParam<std::string> {};

TEST_P(TinyGenerators, GreedyIsTheLikeliestOfAPlainPass) {
  const Model model = tiny_model(GetParam());
  Generator generator(model);
  const Ids prompt(tiny_case(GetParam()).ids.begin(), tiny_case(GetParam()).ids.begin() + 5);
  const Generated g = generator.generate(prompt, greedy(9));
  ASSERT_EQ(g.tokens.size(), 9u);
  EXPECT_EQ(g.prompt_tokens, prompt);
  EXPECT_EQ(g.finish, Finish::length);
  if (model.config().rope.kind == nn::RopeScaling::Kind::dynamic && model.config().max_positions < 14) return;
  Ids ids = prompt;
  for (std::size_t i = 0; i < g.tokens.size(); ++i) {
    const auto logprobs = plain_logprobs(model, model.weights(), ids, ids.size() - 1);
    EXPECT_EQ(g.tokens[i], largest(logprobs)) << i;
    EXPECT_NEAR(g.logprobs[i], logprobs[static_cast<std::size_t>(g.tokens[i])], 1e-5) << i;
    ids.push_back(g.tokens[i]);
  }
}

TEST_P(TinyGenerators, ScoresAreThoseOfAPlainPass) {
  const Model model = tiny_model(GetParam());
  Generator generator(model);
  const Ids& ids = tiny_case(GetParam()).ids;
  const std::vector<double> scores = generator.score(ids);
  ASSERT_EQ(scores.size(), ids.size() - 1);
  for (std::size_t i = 0; i + 1 < ids.size(); ++i)
    EXPECT_NEAR(scores[i], plain_logprobs(model, model.weights(), ids, i)[static_cast<std::size_t>(ids[i + 1])], 1e-5);
}

std::vector<std::string> names() {
  std::vector<std::string> list;
  for (const TinyCase& c : tiny_cases()) list.push_back(c.name);
  return list;
}
INSTANTIATE_TEST_SUITE_P(All, TinyGenerators, testing::ValuesIn(names()), [](const auto& info) { return info.param; });

// The promise of the engine: a token is one replayed plan, and nothing is asked of the system.
TEST(Generator, ATokenIsAReplay) {
  for (const GenerateOptions& options : {greedy(40), sampled(40)}) {
    Generator generator(small_model(DType::bf16));
    Counters second{}, last{};
    int count = 0;
    generator.generate(numbers(40), options, [&](const Piece&) {
      if (++count == 2) second = counters();
      last = counters();
      return true;
    });
    EXPECT_EQ(last.evaluations - second.evaluations, 38u);
    EXPECT_EQ(last.plans_compiled, second.plans_compiled);
    EXPECT_EQ(last.memory_requests, second.memory_requests);
    EXPECT_EQ(last.replays - second.replays, 38u);
  }
}

TEST(Generator, LengthsOfPromptsNeedFewPlans) {
  Generator generator(small_model());
  for (const std::size_t n : {1u, 2u, 5u, 16u, 17u, 64u, 300u}) generator.generate(numbers(n), greedy(3));
  const Counters before = counters();
  for (const std::size_t n : {3u, 7u, 11u, 30u, 47u, 50u, 80u, 200u, 280u})
    generator.generate(numbers(n, 3), greedy(3));
  EXPECT_LE(counters().plans_compiled - before.plans_compiled, 4u);  // sizes not met above
}

TEST(Generator, PromptsOfAnyLengthGoInPasses) {
  Generator generator(small_model());
  for (const std::size_t n : {1u, 2u, 3u, 15u, 16u, 17u, 48u, 49u, 64u, 65u, 192u, 193u, 256u, 257u, 511u, 600u}) {
    const Ids prompt = numbers(n, static_cast<std::int32_t>(n));
    const Generated g = generator.generate(prompt, greedy(1));
    const auto want = plain_logprobs(small_model(), small_model().weights(), prompt, n - 1);
    ASSERT_EQ(g.tokens.size(), 1u);
    EXPECT_EQ(g.tokens[0], largest(want)) << n;
    EXPECT_NEAR(g.logprobs[0], want[static_cast<std::size_t>(g.tokens[0])], 1e-5) << n;
  }
}

TEST(Generator, APromptDoesNotDependOnItsBatch) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::vector<Ids> prompts = {numbers(3),      numbers(70, 9), numbers(1, 4),
                                      numbers(300, 2), numbers(3),     numbers(18, 11)};
    std::vector<GenerateOptions> options;
    for (std::size_t i = 0; i < prompts.size(); ++i)
      options.push_back(i % 2 ? sampled(12, i) : greedy(5 + static_cast<int>(i)));
    options[4].sampling.logit_bias[7] = 3;
    std::vector<Generated> alone;
    for (std::size_t i = 0; i < prompts.size(); ++i)
      alone.push_back(Generator(small_model(dtype)).generate(prompts[i], options[i]));
    for (const int batch : {1, 3, 8}) {
      Generator generator(small_model(dtype), {.batch = batch});
      const auto together = generator.generate_batch(prompts, options);
      ASSERT_EQ(together.size(), prompts.size());
      for (std::size_t i = 0; i < prompts.size(); ++i)
        expect_same(together[i], alone[i], std::to_string(batch) + "/" + std::to_string(i));
    }
  }
}

// Vocabularies so large that the engine cuts a row, with divisors and without.
TEST(Generator, ABatchDoesNotShowInLargeVocabularies) {
  for (const std::int64_t vocabulary : {70000, 66047}) {
    ModelConfig c = ModelConfig::from_json(tiny_case("qwen2").config);
    c.vocabulary = vocabulary;
    const Model model = Model::random(c, Key(8));
    const std::vector<Ids> prompts = {numbers(3), numbers(5, 1), numbers(2, 2), numbers(9, 3), numbers(4, 4)};
    std::vector<GenerateOptions> options = {greedy(6), sampled(6), greedy(6), sampled(6, 4), greedy(6)};
    Generator together(model);
    const auto results = together.generate_batch(prompts, options);
    for (std::size_t i = 0; i < prompts.size(); ++i)
      expect_same(Generator(model).generate(prompts[i], options[i]), results[i], std::to_string(i));
  }
}

TEST(Generator, ResultsDoNotDependOnThreadsOrOnThePast) {
  Generator generator(small_model());
  const Generated first = generator.generate(numbers(40), sampled(30));
  generator.generate(numbers(90, 5), greedy(3));
  expect_same(generator.generate(numbers(40), sampled(30)), first, "again");
  Ids longer = first.prompt_tokens;  // goes on from kept keys
  longer.insert(longer.end(), first.tokens.begin(), first.tokens.begin() + 10);
  const Generated fresh = Generator(small_model()).generate(longer, greedy(8));
  expect_same(generator.generate(longer, greedy(8)), fresh, "kept");
  const int before = threads();
  set_threads(1);
  expect_same(Generator(small_model()).generate(numbers(40), sampled(30)), first, "one thread");
  set_threads(before);
}

TEST(Generator, KeptKeysSaveWork) {
  Generator generator(small_model());
  generator.generate(numbers(300), greedy(2));
  Ids longer = numbers(300);
  longer.push_back(1);
  const Counters before = counters();
  generator.generate(longer, greedy(1));
  EXPECT_EQ(counters().evaluations - before.evaluations, 1u);
}

TEST(Generator, SeedsAndPromptsDrawDifferently) {
  Generator generator(small_model());
  const Generated one = generator.generate(numbers(4), sampled(30, 1));
  EXPECT_NE(one.tokens, generator.generate(numbers(4), sampled(30, 2)).tokens);
  EXPECT_NE(one.tokens, generator.generate(numbers(5), sampled(30, 1)).tokens);
  EXPECT_EQ(one.tokens, generator.generate(numbers(4), sampled(30, 1)).tokens);
}

TEST(Generator, EndsWhereItIsTold) {
  const Model model = small_model();
  Generator generator(model);
  const Ids tokens = generator.generate(numbers(4), greedy(20)).tokens;
  GenerateOptions stop = greedy(20);
  stop.stop_tokens = {tokens[6]};
  const auto first = static_cast<std::size_t>(std::find(tokens.begin(), tokens.end(), tokens[6]) - tokens.begin());
  const Generated stopped = generator.generate(numbers(4), stop);
  EXPECT_EQ(stopped.finish, Finish::stop);
  EXPECT_EQ(stopped.tokens, Ids(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(first) + 1));

  Generator ending(model, {.end_tokens = Ids{tokens[6]}});
  GenerateOptions plain;
  plain.max_tokens = 20;
  EXPECT_EQ(ending.generate(numbers(4), plain).tokens, stopped.tokens);
  EXPECT_EQ(ending.generate(numbers(4), greedy(20)).tokens, tokens);  // ignore_eos
  EXPECT_EQ(generator.generate(numbers(4), greedy(0)).tokens, Ids{});
}

TEST(Generator, EndsWithTheContext) {
  Generator generator(small_model(), {.context = 20});
  const Generated g = generator.generate(numbers(16), greedy(100));
  EXPECT_EQ(g.tokens.size(), 5u);  // the last one is not fed any more
  EXPECT_EQ(g.finish, Finish::length);
  EXPECT_EQ(generator.generate(numbers(20), greedy(100)).tokens.size(), 1u);
}

TEST(Generator, IsCancelledByItsListener) {
  Generator generator(small_model(), {.batch = 2});
  std::vector<int> heard(3);
  const auto results = generator.generate_batch({numbers(4), numbers(9), numbers(2)}, greedy(10), [&](const Piece& p) {
    EXPECT_LE(p.logprob, 0);
    return ++heard[p.index] < 4 || p.index != 1;
  });
  EXPECT_EQ(heard, (std::vector<int>{10, 4, 10}));
  EXPECT_EQ(results[1].finish, Finish::cancelled);
  EXPECT_EQ(results[1].tokens.size(), 4u);
  expect_same(results[2], generator.generate(numbers(2), greedy(10)));
  EXPECT_THROW(generator.generate(numbers(4), greedy(5), [](const Piece&) -> bool { throw std::runtime_error("x"); }),
               std::runtime_error);
  expect_same(results[0], generator.generate(numbers(4), greedy(10)));
}

// ---- results as they come -------------------------------------------------------------------------------------------

TEST(GenerateEach, GivesEachResultWhenItEndsAndItsPlaceToTheNext) {
  std::vector<Ids> prompts;
  std::vector<GenerateOptions> options;
  for (std::size_t i = 0; i < 40; ++i) {
    prompts.push_back(numbers(1 + i * 17 % 90, static_cast<std::int32_t>(i)));
    const int count = static_cast<int>(i * 7 % 13);
    options.push_back(i % 2 ? sampled(count, i) : greedy(count));
  }
  Generator generator(small_model(), {.batch = 4});
  const auto want = Generator(small_model(), {.batch = 1}).generate_batch(prompts, options);
  std::vector<int> pieces(prompts.size());
  std::set<std::size_t> under_way, given;
  std::vector<std::size_t> order;
  generator.generate_each(
      prompts, options,
      [&](std::size_t index, Generated&& g) {
        EXPECT_EQ(pieces[index], static_cast<int>(g.tokens.size()));
        EXPECT_EQ(g.prompt_tokens, prompts[index]);
        expect_same(g, want[index], std::to_string(index));
        EXPECT_TRUE(given.insert(index).second);
        under_way.erase(index);
        order.push_back(index);
      },
      [&](const Piece& p) {
        ++pieces[p.index];
        under_way.insert(p.index);
        EXPECT_EQ(given.count(p.index), 0u);
        EXPECT_LE(p.index, given.size() + 3);  // nobody waits while there is a place
        EXPECT_LE(under_way.size(), 4u);
        return true;
      });
  EXPECT_EQ(given.size(), prompts.size());
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
}

TEST(GenerateEach, ReplaysThePlansOfABatch) {
  Generator generator(small_model(), {.batch = 4});
  const std::vector<Ids> prompts(12, numbers(1));
  std::vector<GenerateOptions> options;
  for (int i = 0; i < 12; ++i) options.push_back(greedy(3 + i % 5));
  const auto all = [&] {
    std::size_t count = 0;
    generator.generate_each(prompts, options, [&](std::size_t, Generated&&) { ++count; });
    return count;
  };
  EXPECT_EQ(all(), 12u);
  const Counters before = counters();
  EXPECT_EQ(all(), 12u);
  EXPECT_EQ(counters().plans_compiled, before.plans_compiled);
  const auto tokens =
      std::accumulate(options.begin(), options.end(), 0, [](int n, const auto& o) { return n + o.max_tokens; });
  EXPECT_LE(counters().evaluations - before.evaluations,
            static_cast<std::uint64_t>(tokens) / 4 + 4);  // places are full
}

TEST(GenerateEach, EndsWithWhatACallbackThrows) {
  Generator generator(small_model(), {.batch = 2});
  const std::vector<Ids> prompts = {numbers(4), numbers(9), numbers(2), numbers(5)};
  const Generated want = generator.generate(numbers(9), greedy(6));
  std::vector<std::size_t> given;
  EXPECT_THROW(generator.generate_each(prompts, greedy(6),
                                       [&](std::size_t index, Generated&&) {
                                         given.push_back(index);
                                         if (index == 1) throw std::runtime_error("enough");
                                       }),
               std::runtime_error);
  EXPECT_EQ(given, (std::vector<std::size_t>{0, 1}));
  given.clear();
  const OnResult note = [&](std::size_t index, Generated&&) { given.push_back(index); };
  const OnPiece third = [](const Piece& p) { return p.index == 2 ? throw std::runtime_error("enough") : true; };
  EXPECT_THROW(generator.generate_each(prompts, greedy(6), note, third), std::runtime_error);
  EXPECT_EQ(given, (std::vector<std::size_t>{0, 1}));
  expect_same(generator.generate(numbers(9), greedy(6)), want);
}

TEST(GenerateEach, GivesWhatWasCancelled) {
  Generator generator(small_model(), {.batch = 2});
  std::vector<std::pair<std::size_t, Finish>> given;
  generator.generate_each(
      {numbers(4), numbers(9), numbers(2)}, greedy(10),
      [&](std::size_t index, Generated&& g) { given.emplace_back(index, g.finish); },
      [](const Piece& p) { return p.index != 0; });
  EXPECT_EQ(given, (std::vector<std::pair<std::size_t, Finish>>{
                       {0, Finish::cancelled}, {1, Finish::length}, {2, Finish::length}}));
}

// A model that fails at one prompt: what ended before was given.
TEST(GenerateEach, AnErrorLosesNothingThatEnded) {
  const ModelConfig config = ModelConfig::from_json(tiny_case("llama").config);
  ASSERT_FALSE(config.tied_embeddings);
  ParamTree weights = tiny_weights(config);
  std::vector<float> embeddings = cast(weights["model.embed_tokens.weight"], DType::f32).eval().to_vector<float>();
  embeddings[static_cast<std::size_t>(11 * config.hidden)] = NAN;
  weights["model.embed_tokens.weight"] = Tensor::from(embeddings, {config.vocabulary, config.hidden});
  Generator generator(Model(config, weights), {.batch = 2});
  GenerateOptions o = greedy(3);
  o.sampling.logit_bias[11] = -INFINITY;
  std::vector<std::size_t> given;
  EXPECT_THROW(generator.generate_each({{1, 2}, {3, 4}, {5}, {11}, {6}}, o,
                                       [&](std::size_t index, Generated&&) { given.push_back(index); }),
               FileError);
  EXPECT_EQ(given, (std::vector<std::size_t>{0, 1}));
  EXPECT_EQ(generator.generate(Ids{1, 2}, o).tokens.size(), 3u);
}

TEST(GenerateEach, KeepsNothingOfWhatItGave) {
  Generator generator(small_model(), {.batch = 64});
  const std::vector<Ids> prompts(10000, numbers(1, 3));
  std::size_t given = 0, early = 0, late = 0;
  generator.generate_each(prompts, greedy(8), [&](std::size_t, Generated&&) {
    ++given;
    if (given == 200) early = mallinfo2().uordblks;
    if (given == 9800) late = mallinfo2().uordblks;  // as far into a step; the last steps are of fewer and plan anew
  });
  EXPECT_EQ(given, prompts.size());
  EXPECT_LE(late, early + (std::size_t{64} << 10));
}

TEST(Generator, AdaptersComeAndGo) {
  const Model& model = small_model();
  Generator generator(model);
  const Generated base = generator.generate(numbers(30), greedy(8));
  nn::Weights adapted = model.weights();
  adapted.adapt("model.layers.0.self_attn.q_proj",
                {randn({3, 24}, {.key = Key(1)}).eval(), randn({24, 3}, {.key = Key(2)}).eval(), 0.5});
  adapted.adapt("lm_head", {randn({2, 24}, {.key = Key(3)}).eval(), randn({131, 2}, {.key = Key(4)}).eval(), 0.3});
  generator.use(adapted);
  const Generated changed = generator.generate(numbers(30), greedy(8));
  EXPECT_NE(changed.logprobs, base.logprobs);
  Ids ids = numbers(30);
  const auto want = plain_logprobs(model, adapted, ids, 29);
  EXPECT_EQ(changed.tokens[0], largest(want));
  EXPECT_NEAR(generator.score(ids)[4], plain_logprobs(model, adapted, ids, 4)[static_cast<std::size_t>(ids[5])], 1e-5);
  generator.use(model.weights());
  const Counters before = counters();
  expect_same(generator.generate(numbers(30), greedy(8)), base);
  EXPECT_EQ(counters().plans_compiled, before.plans_compiled);
}

std::string complaint(const std::function<void()>& act) {
  try {
    act();
  } catch (const UserError& e) {
    return e.what();
  }
  return "accepted";
}

TEST(Generator, RefusesWhatMakesNoSense) {
  Generator generator(small_model());
  const auto prompt = [&](const Ids& ids) { return complaint([&] { generator.generate(ids, greedy(2)); }); };
  EXPECT_THAT(prompt(numbers(601)), HasSubstr("601 tokens, the context 600"));
  EXPECT_THAT(prompt({}), HasSubstr("empty"));
  EXPECT_THAT(prompt({3, 131}), HasSubstr("131"));
  EXPECT_THAT(prompt({-1}), HasSubstr("-1"));
  EXPECT_THAT(complaint([&] { generator.score(numbers(601)); }), HasSubstr("600"));
  const auto option = [&](auto change) {
    GenerateOptions o = greedy(2);
    change(o);
    return complaint([&] { generator.generate(numbers(3), o); });
  };
  EXPECT_THAT(option([](auto& o) { o.sampling.temperature = -1; }), HasSubstr("temperature"));
  EXPECT_THAT(option([](auto& o) { o.sampling.temperature = NAN; }), HasSubstr("temperature"));
  EXPECT_THAT(option([](auto& o) { o.sampling.top_k = -2; }), HasSubstr("top_k"));
  EXPECT_THAT(option([](auto& o) { o.sampling.top_p = -0.1; }), HasSubstr("top_p"));
  const std::int64_t all = generator.model().config().vocabulary;
  EXPECT_THAT(option([&](auto& o) {
                for (std::int32_t i = 0; i < all; ++i) o.sampling.logit_bias[i] = -INFINITY;
              }),
              HasSubstr("logit_bias"));
  EXPECT_THAT(option([](auto& o) { o.sampling.min_p = 2; }), HasSubstr("min_p"));
  EXPECT_THAT(option([](auto& o) { o.sampling.repetition_penalty = 0; }), HasSubstr("repetition_penalty"));
  EXPECT_THAT(option([](auto& o) { o.sampling.logit_bias[400] = 1; }), HasSubstr("400"));
  EXPECT_THAT(option([](auto& o) { o.max_tokens = -1; }), HasSubstr("max_tokens"));
  EXPECT_THAT(complaint([] { Generator(small_model(), {.batch = 0}); }), HasSubstr("batch"));
  EXPECT_TRUE(generator.generate_batch({}, greedy(1)).empty());
}

TEST(Generator, SaysWhenTheModelIsBroken) {
  ParamTree weights = tiny_weights(ModelConfig::from_json(tiny_case("llama").config));
  weights["model.norm.weight"] = Tensor::full({24}, NAN);
  Generator generator(Model(ModelConfig::from_json(tiny_case("llama").config), weights));
  EXPECT_THROW(generator.generate(Ids{1, 2}, greedy(2)), Error);
}

}  // namespace
}  // namespace metal_candle::test
