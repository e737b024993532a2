// The matrix products of the linear layers of a LoRA training step (SmolLM2-135M's widths, 2 x 512 tokens, rank 16), and
// nothing else: no norms, activations, attention, loss or optimizer. The same kernels, cut as a training step cuts them,
// run twice: each product over and over on the same operands, as a bare matrix product is timed, and one after the other
// with the weights and kept activations of 30 layers, as a step meets them (gradients of activations share their memory
// across layers, as in an arena). The difference is what memory costs, whatever is around the products.
//
//   bench_step_products [f32|bf16]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/gemm/gemm.h"
#include "base/pool.h"
#include "base/thread_pool.h"

namespace {

using namespace metal_candle;
using namespace metal_candle::cpu;

constexpr std::int64_t kTokens = 1024, kRank = 16;
constexpr int kLayers = 30, kRounds = 5;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Linear {
  std::int64_t in, out;
  int reads;  // which of the layer's activations
};
constexpr Linear kLinears[] = {{576, 576, 0},  {576, 192, 0},  {576, 192, 0}, {576, 576, 1},
                               {576, 1536, 2}, {576, 1536, 2}, {1536, 576, 3}};
constexpr std::int64_t kActivations[] = {576, 576, 576, 1536};

/// Memory that lives to the end; small numbers, so that nothing is subnormal.
char* buffer(std::int64_t elements, GemmType type) {
  const std::int64_t bytes = elements * (type == GemmType::f32 ? 4 : 2);
  auto* data = static_cast<std::uint16_t*>(base::pool_allocate(static_cast<std::size_t>(bytes)));
  for (std::int64_t i = 0; i < bytes / 2; ++i) data[i] = static_cast<std::uint16_t>(0x3c00 + i % 64);
  return reinterpret_cast<char*>(data);
}

struct Product {
  GemmArgs args;
  GemmTiling tiling;
};

class Step {
 public:
  explicit Step(GemmType type) : type_(type) {
    for (const Linear& l : kLinears) {
      dy_.push_back(buffer(kTokens * l.out, type));
      dx_.push_back(buffer(kTokens * l.in, type));
    }
    std::vector<std::vector<Product>> backward;
    for (int layer = 0; layer < kLayers; ++layer) {
      std::vector<Product> behind;
      std::vector<const char*> x;
      for (const std::int64_t width : kActivations) x.push_back(buffer(kTokens * width, type));
      for (std::size_t i = 0; i < std::size(kLinears); ++i) add(i, x, behind);
      backward.push_back(std::move(behind));
    }
    for (auto it = backward.rbegin(); it != backward.rend(); ++it)
      products_.insert(products_.end(), it->rbegin(), it->rend());
    std::size_t most = 0;
    for (const Product& p : products_) most = std::max(most, p.tiling.scratch_bytes);
    for (int i = 0; i < base::threads(); ++i) scratch_.push_back(base::pool_allocate(most));
  }

  /// Best time of products [first, last) in order.
  double seconds(std::size_t first, std::size_t last) {
    std::vector<std::uint32_t> tasks;
    for (std::size_t i = first; i < last; ++i) tasks.push_back(static_cast<std::uint32_t>(products_[i].tiling.jobs));
    first_ = first;
    const auto run = [](void* user, int thread, int round, std::uint32_t task) {
      const Step& s = *static_cast<Step*>(user);
      const Product& p = s.products_[s.first_ + static_cast<std::size_t>(round)];
      run_gemm_job(p.args, p.tiling, task, s.scratch_[static_cast<std::size_t>(thread)]);
    };
    double best = 1e9;
    for (int i = 0; i < kRounds; ++i) {
      const double begin = now();
      base::run_rounds({tasks.data(), static_cast<int>(tasks.size()), run, this}, base::threads());
      best = std::min(best, now() - begin);
    }
    return best;
  }
  /// Each product by itself; those of the same shape follow one another a layer apart, so one layer's are enough.
  double warm() {
    double sum = 0;
    const std::size_t layer = products_.size() / kLayers, forward = std::size(kLinears) * 2;
    for (std::size_t i = 0; i < layer; ++i) {
      const std::size_t at = i < forward ? i : products_.size() - layer + i;
      sum += seconds(at, at + 1) * kLayers;
    }
    return sum;
  }
  double flops() const {
    double sum = 0;
    for (const Product& p : products_)
      sum += 2.0 * static_cast<double>(p.args.m * p.args.n * (p.args.segments[0].k + p.args.segments[1].k));
    return sum;
  }
  std::size_t count() const { return products_.size(); }

 private:
  Product make(std::int64_t m, std::int64_t n, GemmSegment first, GemmSegment second = {}, char* c = nullptr) {
    Product p;
    p.args.m = m, p.args.n = n;
    p.args.type = p.args.c_type = type_;
    p.args.segments[0] = first, p.args.segments[1] = second;
    p.args.c = c != nullptr ? c : buffer(m * n, type_);
    p.args.c_row_stride = n;
    p.tiling = plan_gemm(p.args);
    return p;
  }
  static GemmSegment segment(std::int64_t k, MatrixRef a, MatrixRef b) {
    GemmSegment s;
    s.k = k, s.a = a, s.b = b;
    return s;
  }

  /// y = x·Wᵀ + u·B with u = x·A goes to the end; what the backward pass does, last product first, to `behind`.
  void add(std::size_t index, const std::vector<const char*>& activations, std::vector<Product>& behind) {
    const Linear& l = kLinears[index];
    const char *x = activations[static_cast<std::size_t>(l.reads)], *dy = dy_[index];
    const char *w = buffer(l.in * l.out, type_), *a = buffer(l.in * kRank, type_), *b = buffer(l.out * kRank, type_);
    const Product u = make(kTokens, kRank, segment(l.in, {x, l.in, 1}, {a, kRank, 1}));
    GemmSegment base = segment(l.in, {x, l.in, 1}, {w, 1, l.in});
    if (type_ == GemmType::bf16) keep_packed(base, l.out);
    const GemmSegment low = segment(kRank, {u.args.c, kRank, 1}, {b, l.out, 1});
    products_.push_back(u);
    products_.push_back(make(kTokens, l.out, base, low));

    const Product du = make(kTokens, kRank, segment(l.out, {dy, l.out, 1}, {b, 1, l.out}));
    behind.push_back(make(l.in, kRank, segment(kTokens, {x, 1, l.in}, {du.args.c, kRank, 1})));
    behind.push_back(make(kRank, l.out, segment(kTokens, {u.args.c, 1, kRank}, {dy, l.out, 1})));
    behind.push_back(make(kTokens, l.in, segment(l.out, {dy, l.out, 1}, {w, l.in, 1}),
                          segment(kRank, {du.args.c, kRank, 1}, {a, 1, kRank}), dx_[index]));
    behind.push_back(du);
  }
  void keep_packed(GemmSegment& s, std::int64_t n) {
    const GemmShape shape{kTokens, n, s.k, type_};
    void* packed = base::pool_allocate(packed_b_bytes(shape));
    pack_b(shape, s.b, packed, 0, packed_b_panels(shape));
    s.b = {packed, 0, 0};
    s.b_packed = true;
  }

  GemmType type_;
  std::vector<char*> dy_, dx_;  // per linear layer of a block
  std::vector<Product> products_;
  std::vector<void*> scratch_;
  std::size_t first_ = 0;
};

void measure(GemmType type, const char* name) {
  Step step(type);
  const double warm = step.warm(), in_order = step.seconds(0, step.count()), flops = step.flops() * 1e-9;
  fmt::print(
      "{}: {} products, {:.1f} GFLOP; each by itself {:.1f} ms ({:.0f} GFLOP/s), in a step's order {:.1f} ms "
      "({:.0f} GFLOP/s): {:.3f}\n",
      name, step.count(), flops, warm * 1e3, flops / warm, in_order * 1e3, flops / in_order, in_order / warm);
}

}  // namespace

int main(int count, char** values) {
  const std::string only = count > 1 ? values[1] : "";
  if (only != "bf16") measure(GemmType::f32, "f32");
  if (only != "f32") measure(GemmType::bf16, "bf16");
}
