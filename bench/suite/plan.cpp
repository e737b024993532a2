// Planning a training step of 2,000 nodes whose structure is seen for the first time.
#include <fmt/format.h>

#include "suite/suite.h"
#include "suite/transformer.h"

namespace bench {
namespace {

/// Blocks with adapters, a loss, its gradients and AdamW over every adapter. Small extents: the plan is what counts.
class TrainingStep {
 public:
  explicit TrainingStep(int layers) {
    const BlockShape shape{
        .hidden = 64, .heads = 4, .kv_heads = 2, .head = 16, .inner = 128, .rank = 4, .sequences = 1, .tokens = 16};
    for (int i = 0; i < layers; ++i) blocks_.emplace_back(shape, mc::DType::f32);
    for (Block& b : blocks_)
      for (mc::LazyTensor* p : b.parameters()) {
        parameters_.push_back(p);
        m_.push_back(mc::Tensor::zeros(p->shape()));
        v_.push_back(mc::Tensor::zeros(p->shape()));
      }
    x_ = random_tensor({1, 16, 64});
    target_ = random_tensor({1, 16, 64});
  }

  /// The loss and the new adapters and moments.
  std::vector<mc::LazyTensor> record() {
    mc::LazyTensor h = x_;
    for (const Block& b : blocks_) h = b.forward(h);
    const mc::LazyTensor loss = mc::mean(mc::square(h - target_));
    std::vector<mc::LazyTensor> p;
    for (const mc::LazyTensor* parameter : parameters_) p.push_back(*parameter);
    const auto g = mc::grad(loss, p);
    std::vector<mc::LazyTensor> roots = {loss};
    ++time_;
    const double m_scale = 1 / (1 - std::pow(0.9, time_)), v_scale = 1 / (1 - std::pow(0.999, time_));
    for (std::size_t i = 0; i < p.size(); ++i) {
      const mc::LazyTensor m = m_[i] * 0.9 + g[i] * 0.1, v = v_[i] * 0.999 + mc::square(g[i]) * 0.001;
      roots.push_back(p[i] * (1 - 1e-4 * 0.01) - m * m_scale / (mc::sqrt(v * v_scale) + 1e-8) * 1e-4);
      roots.push_back(m);
      roots.push_back(v);
    }
    return roots;
  }

 private:
  std::vector<Block> blocks_;
  std::vector<mc::LazyTensor*> parameters_;
  std::vector<mc::LazyTensor> m_, v_;
  mc::Tensor x_, target_;
  int time_ = 0;
};

}  // namespace

void plan(Suite& suite) {
  int layers = 1;
  const auto nodes_of = [](int n) { return mc::ComputationGraph::capture(TrainingStep(n).record()).nodes.size(); };
  while (nodes_of(layers) < 2000) ++layers;
  TrainingStep step(layers);
  const auto nodes = nodes_of(layers);
  std::vector<double> first, replay, record;
  for (int i = 0; i < (suite.options.full ? 9 : 5); ++i) {
    mc::clear_plan_cache();
    for (const bool seen : {false, true, true, true}) {
      const double begin = stopwatch();
      const auto roots = step.record();
      const double recorded = stopwatch();
      mc::eval(roots);
      (seen ? replay : first).push_back(stopwatch() - recorded);
      record.push_back(recorded - begin);
    }
  }
  Row row{"plan", fmt::format("training step, {} layers, {} nodes", layers, nodes)};
  row.add("record", median(record), "s").add("first evaluation", median(first), "s").add("replay", median(replay), "s");
  const double planning = median(first) - median(replay);
  row.add("planning a node", planning / static_cast<double>(nodes), "s");
  row.at_most("ms to plan", planning * 1e3, 50);
  suite.report.add(std::move(row));
}

}  // namespace bench
