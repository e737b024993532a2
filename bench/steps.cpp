// What the engine costs around a model's steps: a LoRA training step and a decoded token of SmolLM2-135M's structure
// (30 layers), at widths too small to matter.
//
//   bench_steps [train|decode] [--explain]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "metal_candle/autograd.hpp"
#include "metal_candle/lora.hpp"
#include "metal_candle/metal_candle.hpp"
#include "metal_candle/optimizer.hpp"

namespace mc = metal_candle;

namespace {

double now_us() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

mc::ModelConfig tiny() {
  mc::ModelConfig c;
  c.family = "llama";
  c.vocabulary = 256, c.hidden = 36, c.intermediate = 96, c.layers = 30;
  c.heads = 9, c.key_heads = 3, c.head_width = 4;
  c.max_positions = 2048;
  c.tied_embeddings = true;
  return c;
}

/// A program that steps: `record` gives what to evaluate and what to donate, `take_over` makes the results its state.
struct Program {
  virtual ~Program() = default;
  virtual mc::EvalOptions record() = 0;
  virtual void take_over() = 0;
};

struct Train : Program {
  mc::Model model = mc::Model::random(tiny(), mc::Key{1});
  mc::LoRAAdapter adapter = mc::LoRAAdapter::create(model, {.rank = 4, .alpha = 8}, mc::Key{2});
  mc::ParamTree parameters = adapter.trainable();
  mc::AdamWState state = mc::adamw_state(parameters);
  mc::AdamWStep next;
  mc::Tensor ids = mc::Tensor::zeros({32}, mc::DType::i32), targets = mc::Tensor::ones({32}, mc::DType::i32);
  mc::Tensor positions = mc::Tensor::arange(0, 32, 1, mc::DType::i32);
  bool checkpoint = false;

  mc::EvalOptions record() override {
    mc::nn::Weights w = model.weights();
    adapter.with(parameters).apply(w);
    const auto h = model.hidden(w, {.ids = ids, .positions = positions}, {.checkpoint_layers = checkpoint});
    const auto loss = mc::linear_cross_entropy(h, mc::transpose(model.head(w)), targets);
    const auto grads = mc::grad(loss, parameters);
    const auto clipped = mc::clip_by_global_norm(grads, 1.0);
    next = mc::adamw(parameters, clipped.gradients, state, {.learning_rate = 1e-4});
    return {.roots = next.roots({loss, clipped.norm}), .donate = state.tensors_with(parameters)};
  }
  void take_over() override { parameters = next.parameters, state = next.state; }
};

struct Decode : Program {
  static constexpr std::int64_t kCapacity = 64;
  mc::Model model = mc::Model::random(tiny(), mc::Key{1});
  mc::nn::KeyValues cache;
  std::vector<mc::LazyTensor> old;
  mc::LazyTensor token = mc::Tensor::ones({1}, mc::DType::i32);
  mc::LazyTensor next;
  int position = 0;

  Decode() {
    for (int i = 0; i < 30; ++i)
      for (auto* list : {&cache.keys, &cache.values}) list->emplace_back(mc::Tensor::zeros({kCapacity, 3, 4}));
    cache.key_offsets = mc::Tensor::from<std::int32_t>({0, kCapacity}, {2});
  }
  mc::EvalOptions record() override {
    const auto at = mc::Tensor::from<std::int32_t>({position++ % static_cast<std::int32_t>(kCapacity)}, {1});
    cache.rows = at;
    cache.key_lengths = at + 1;
    old = cache.keys;
    old.insert(old.end(), cache.values.begin(), cache.values.end());
    const auto offsets = mc::Tensor::from<std::int32_t>({0, 1}, {2});
    const auto h = model.hidden(model.weights(), {.ids = token, .positions = at, .offsets = offsets}, cache);
    next = mc::argmax(model.logits(model.weights(), h), -1);
    std::vector<mc::LazyTensor> roots = {next};
    roots.insert(roots.end(), cache.keys.begin(), cache.keys.end());
    roots.insert(roots.end(), cache.values.begin(), cache.values.end());
    return {.roots = std::move(roots), .donate = std::move(old)};
  }
  void take_over() override { token = next; }
};

std::string line_with(const std::string& text, const std::string& word) {
  const auto at = text.find(word);
  if (at == std::string::npos) return {};
  const auto begin = text.rfind('\n', at) + 1;
  return text.substr(begin, text.find('\n', at) - begin);
}

void measure(const std::string& name, Program& program, bool explain) {
  mc::EvalOptions options = program.record();
  const auto graph = mc::ComputationGraph::capture(options.roots);
  std::vector<double> record, replay;
  double first = 0;
  std::uint64_t requests = 0;
  std::string plan;
  for (int step = 0; step < 40; ++step) {
    const double begin = now_us();
    if (step > 0) options = program.record();
    const double recorded = now_us();
    const std::uint64_t before = mc::counters().memory_requests;
    const mc::AsyncRun run = mc::eval_async(std::move(options));
    run.wait();
    const double done = now_us();
    program.take_over();
    if (step == 0) first = done - recorded;
    if (step < 2) continue;
    requests += mc::counters().memory_requests - before;
    record.push_back(recorded - begin);
    replay.push_back(done - recorded);
    plan = run.explain();
  }
  std::size_t copies = 0;
  for (auto at = plan.find("\ncopy:"); at != std::string::npos; at = plan.find("\ncopy:", at + 1)) ++copies;
  fmt::print("{}: {} nodes, {} leaves\n  {}\n  {}\n", name, graph.nodes.size(), graph.leaves.size(),
             line_with(plan, "plan:"), line_with(plan, "passes"));
  fmt::print("  first evaluation {:.1f} ms; recorded in {:.0f} us, replayed in {:.0f} us ({:.0f} ns a node)\n",
             first / 1e3, median(record), median(replay),
             median(replay) * 1e3 / static_cast<double>(graph.nodes.size()));
  fmt::print("  memory requests after step 2: {}; donations copied: {}\n", requests, copies);
  fmt::print(
      "{{\"bench\":\"steps\",\"case\":\"{}\",\"nodes\":{},\"first_ms\":{:.2f},\"record_us\":{:.1f},"
      "\"replay_us\":{:.1f},\"requests\":{},\"copies\":{}}}\n",
      name, graph.nodes.size(), first / 1e3, median(record), median(replay), requests, copies);
  if (explain) fmt::print("{}\n", plan);
}

}  // namespace

int main(int count, char** values) {
  std::string which;
  bool explain = false;
  for (int i = 1; i < count; ++i) {
    if (std::string(values[i]) == "--explain") explain = true;
    else which = values[i];
  }
  if (which.empty() || which == "train") {
    Train train;
    measure("train", train, explain);
    Train checkpointed;
    checkpointed.checkpoint = true;
    measure("train, checkpointed", checkpointed, explain);
  }
  if (which.empty() || which == "decode") {
    Decode decode;
    measure("decode", decode, explain);
  }
}
