// What the engine costs around a model's steps: a LoRA training step and a decoded token of SmolLM2-135M's structure
// (30 layers), at widths too small to matter; or, with --full, at its own widths (2 sequences of 512 tokens, rank 16).
//
//   bench_steps [train|checkpoint|decode] [--full] [--bf16] [--steps N] [--explain] [--profile]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
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

struct Options {
  std::string which;
  bool full = false, explain = false, profile = false;
  int steps = 0;
  mc::DType dtype = mc::DType::f32;
};

mc::ModelConfig shape(const Options& o) {
  mc::ModelConfig c;
  c.family = "llama";
  c.layers = 30, c.heads = 9, c.key_heads = 3;
  c.vocabulary = o.full ? 49152 : 256;
  c.head_width = o.full ? 64 : 16;
  c.hidden = c.heads * c.head_width;
  c.intermediate = c.hidden / 3 * 8;
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
  mc::Model model;
  mc::LoRAAdapter adapter;
  mc::ParamTree parameters = adapter.trainable();
  mc::AdamWState state = mc::adamw_state(parameters);
  mc::AdamWStep next;
  mc::Tensor ids, targets, positions, offsets;
  bool checkpoint;

  Train(const Options& o, bool checkpoint_layers)
      : model(mc::Model::random(shape(o), mc::Key{1}, o.dtype)),
        adapter(mc::LoRAAdapter::create(model, {.rank = o.full ? 16 : 32, .alpha = 32}, mc::Key{2})),
        checkpoint(checkpoint_layers) {
    const std::int32_t tokens = o.full ? 512 : 16;
    std::vector<std::int32_t> places;
    for (std::int32_t i = 0; i < 2 * tokens; ++i) places.push_back(i % tokens);
    positions = mc::Tensor::from<std::int32_t>(places, {2 * tokens});
    offsets = mc::Tensor::from<std::int32_t>({0, tokens, 2 * tokens}, {3});
    ids = targets = positions;
  }

  mc::EvalOptions record() override {
    mc::nn::Weights w = model.weights();
    adapter.with(parameters).apply(w);
    const auto h =
        model.hidden(w, {.ids = ids, .positions = positions, .offsets = offsets}, {.checkpoint_layers = checkpoint});
    const auto loss = model.cross_entropy(w, h, targets);
    const auto grads = mc::grad(loss, parameters);
    const auto clipped = mc::clip_by_global_norm(grads, 1.0);
    next = mc::adamw(parameters, clipped.gradients, state, {.learning_rate = 1e-4});
    return {.roots = next.roots({loss, clipped.norm}), .donate = state.tensors_with(parameters)};
  }
  void take_over() override { parameters = next.parameters, state = next.state; }
};

struct Decode : Program {
  static constexpr std::int64_t kCapacity = 64;
  mc::Model model;
  mc::nn::KeyValues cache;
  std::vector<mc::LazyTensor> old;
  mc::LazyTensor token = mc::Tensor::ones({1}, mc::DType::i32);
  mc::LazyTensor next;
  int position = 0;

  explicit Decode(const Options& o) : model(mc::Model::random(shape(o), mc::Key{1}, o.dtype)) {
    const mc::ModelConfig& c = model.config();
    for (int i = 0; i < 30; ++i)
      for (auto* list : {&cache.keys, &cache.values})
        list->emplace_back(mc::Tensor::zeros({kCapacity, c.key_heads, c.head_width}, o.dtype));
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

void measure(const std::string& name, Program& program, const Options& o) {
  mc::EvalOptions options = program.record();
  const auto graph = mc::ComputationGraph::capture(options.roots);
  std::vector<double> record, replay;
  double first = 0;
  std::uint64_t requests = 0;
  std::string plan;
  for (int step = 0; step < o.steps; ++step) {
    const double begin = now_us();
    if (step > 0) options = program.record();
    const double recorded = now_us();
    const std::uint64_t before = mc::counters().memory_requests;
    const mc::AsyncRun run = mc::eval_async(std::exchange(options, {}));
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
  if (o.explain) fmt::print("{}\n", plan);
  if (!o.profile) return;
  const mc::Trace trace;
  mc::eval_async(program.record()).wait();
  fmt::print("{}\n", trace.profile());
}

}  // namespace

int main(int count, char** values) {
  Options o;
  for (int i = 1; i < count; ++i) {
    const std::string word = values[i];
    if (word == "--full") o.full = true;
    else if (word == "--bf16") o.dtype = mc::DType::bf16;
    else if (word == "--explain") o.explain = true;
    else if (word == "--profile") o.profile = true;
    else if (word == "--steps" && i + 1 < count) o.steps = std::stoi(values[++i]);
    else o.which = word;
  }
  if (o.steps < 3) o.steps = o.full ? 6 : 40;
  const auto wanted = [&](const char* name) { return o.which.empty() || o.which == name; };
  if (wanted("train")) {
    Train program(o, false);
    measure("train", program, o);
  }
  if (wanted("checkpoint")) {
    Train program(o, true);
    measure("train, checkpointed", program, o);
  }
  if (wanted("decode")) {
    Decode program(o);
    measure("decode", program, o);
  }
}
