#include "suite/bare_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "backend/cpu/gemm/gemm.h"
#include "base/pool.h"
#include "base/thread_pool.h"

namespace bench {
namespace {

using namespace metal_candle::cpu;
using mc::LazyTensor;

constexpr std::int64_t kRank = LoraLayer::kRank;
constexpr float kScale = LoraLayer::kScale;

/// Rounds of products; a thread's next job of a product finds what the last one copied.
class Schedule {
 public:
  ~Schedule() {
    for (void* p : scratch_) mc::base::pool_free(p, scratch_bytes_);
  }
  struct Product {
    GemmArgs args;
    GemmTiling tiling;
  };
  void round(std::vector<Product> products) {
    std::uint32_t tasks = 0;
    for (Product& p : products) {
      p.tiling = plan_gemm(p.args);
      tasks += static_cast<std::uint32_t>(p.tiling.jobs);
      scratch_bytes_ = std::max(scratch_bytes_, p.tiling.scratch_bytes);
    }
    // Long jobs first, so that a round does not end with one thread at work.
    const auto length = [](const Product& p) {
      return p.args.m * p.args.n * (p.args.segments[0].k + p.args.segments[1].k) / p.tiling.jobs;
    };
    std::stable_sort(products.begin(), products.end(), [&](auto& a, auto& b) { return length(a) > length(b); });
    rounds_.push_back(std::move(products));
    tasks_.push_back(tasks);
  }
  void run() {
    const int threads = mc::base::threads();
    while (static_cast<int>(scratch_.size()) < threads) scratch_.push_back(mc::base::pool_allocate(scratch_bytes_));
    last_.assign(static_cast<std::size_t>(threads), {});
    const auto task = [](void* self, int thread, int round, std::uint32_t index) {
      static_cast<Schedule*>(self)->task(static_cast<std::size_t>(thread), static_cast<std::size_t>(round), index);
    };
    mc::base::run_rounds({tasks_.data(), static_cast<int>(tasks_.size()), task, this}, threads);
  }

 private:
  void task(std::size_t thread, std::size_t round, std::int64_t index) {
    const Product* p = rounds_[round].data();
    for (; index >= p->tiling.jobs; ++p) index -= p->tiling.jobs;
    Last& last = last_[thread];
    const std::int64_t before = last.product == p ? last.job : -1;
    last = {p, index};
    run_gemm_job(p->args, p->tiling, index, scratch_[thread], before);
  }

  struct alignas(128) Last {
    const Product* product = nullptr;
    std::int64_t job = -1;
  };
  std::vector<std::vector<Product>> rounds_;
  std::vector<std::uint32_t> tasks_;
  std::vector<void*> scratch_;
  std::size_t scratch_bytes_ = 0;
  std::vector<Last> last_;
};

float scaled(float sum) { return sum * kScale; }
std::uint16_t rounded(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// Writes s times a finished piece of a narrow product.
template <bool kHalf>
void scale(void* to, const GemmTile& t) {
  for (std::int64_t r = 0; r < t.rows; ++r) {
    const float* from = static_cast<const float*>(t.data) + r * t.ld;
    const std::int64_t at = (t.row0 + r) * kRank + t.col0;
    for (std::int64_t i = 0; i < t.cols; ++i) {
      if constexpr (kHalf) static_cast<std::uint16_t*>(to)[at + i] = rounded(scaled(from[i]));
      else static_cast<float*>(to)[at + i] = scaled(from[i]);
    }
  }
}

class BareLayer {
 public:
  explicit BareLayer(const LoraLayer& l)
      : layer_(l),
        rows_(l.x.shape()[0]),
        k_(l.x.shape()[1]),
        n_(l.dy.shape()[1]),
        half_(l.x.dtype() == mc::DType::bf16) {
    const void *x = l.x.raw_data(), *dy = l.dy.raw_data(), *a = l.a.raw_data(), *b = l.b.raw_data();
    y_ = memory(rows_ * n_), dx_ = memory(rows_ * k_), u_ = memory(rows_ * kRank), du_ = memory(rows_ * kRank);
    da_ = memory(k_ * kRank), db_ = memory(kRank * n_);
    const GemmSegment forward = packed(n_, k_, {x, k_, 1}, {l.w.raw_data(), 1, k_});
    const GemmSegment backward = packed(k_, n_, {dy, n_, 1}, {l.w.raw_data(), k_, 1});
    frozen_.round({product(rows_, n_, y_, forward), product(rows_, k_, dx_, backward)});

    Schedule::Product u = product(rows_, kRank, u_, segment(k_, {x, k_, 1}, {a, kRank, 1}));
    Schedule::Product du = product(rows_, kRank, du_, segment(n_, {dy, n_, 1}, {b, 1, n_}));
    u.args.sink = du.args.sink = half_ ? scale<true> : scale<false>;
    u.args.user = u_, du.args.user = du_;
    adapted_.round({u, du});
    adapted_.round({product(rows_, n_, y_, forward, segment(kRank, {u_, kRank, 1}, {b, n_, 1})),
                    product(rows_, k_, dx_, backward, segment(kRank, {du_, kRank, 1}, {a, 1, kRank})),
                    product(k_, kRank, da_, segment(rows_, {x, 1, k_}, {du_, kRank, 1})),
                    product(kRank, n_, db_, segment(rows_, {u_, 1, kRank}, {dy, n_, 1}))});
    check(false);
    check(true);
  }

  ~BareLayer() {
    for (const auto& [memory, size] : held_) mc::base::pool_free(memory, size);
  }
  BareLayer(const BareLayer&) = delete;

  void run(bool adapted) { (adapted ? adapted_ : frozen_).run(); }

 private:
  void check(bool adapted) {
    run(adapted);
    const std::vector<LazyTensor> results = layer_.step(adapted);
    compare("y", results.back(), y_);
    compare("dx", results[0], dx_);
    if (adapted) compare("dA", results[1], da_), compare("dB", results[2], db_);
  }

  std::size_t bytes(std::int64_t elements) const { return static_cast<std::size_t>(elements) * (half_ ? 2 : 4); }
  void* memory(std::int64_t elements) { return allocate(bytes(elements)); }
  void* allocate(std::size_t size) {
    held_.emplace_back(mc::base::pool_allocate(size), size);
    return held_.back().first;
  }
  GemmType type() const { return half_ ? GemmType::bf16 : GemmType::f32; }

  static GemmSegment segment(std::int64_t k, MatrixRef a, MatrixRef b) {
    GemmSegment s;
    s.k = k, s.a = a, s.b = b;
    return s;
  }
  GemmSegment packed(std::int64_t n, std::int64_t k, MatrixRef a, MatrixRef b) {
    const GemmShape shape{rows_, n, k, type()};
    void* const to = allocate(packed_b_bytes(shape));
    pack_b(shape, b, to, 0, packed_b_panels(shape));
    GemmSegment s = segment(k, a, {to, 0, 0});
    s.b_packed = true;
    return s;
  }
  Schedule::Product product(std::int64_t m, std::int64_t n, void* c, GemmSegment first, GemmSegment second = {}) const {
    Schedule::Product p;
    p.args.m = m, p.args.n = n;
    p.args.type = p.args.c_type = type();
    p.args.segments[0] = first, p.args.segments[1] = second;
    p.args.c = c;
    p.args.c_row_stride = n;
    return p;
  }
  void compare(const char* name, const LazyTensor& ours, const void* bare) const {
    const mc::Tensor t = ours.eval();
    if (std::memcmp(t.raw_data(), bare, bytes(t.shape().numel())) != 0)
      throw std::runtime_error(fmt::format("{} differs from the library's", name));
  }

  const LoraLayer layer_;
  const std::int64_t rows_, k_, n_;
  const bool half_;
  std::vector<std::pair<void*, std::size_t>> held_;
  void *y_, *dx_, *u_, *du_, *da_, *db_;
  Schedule frozen_, adapted_;
};

}  // namespace

std::vector<LazyTensor> LoraLayer::step(bool adapted) const {
  LazyTensor y = mc::matmul(x, mc::transpose(w));
  if (adapted) y = y + mc::lora_fused(x, a, b, kScale);
  std::vector<LazyTensor> roots =
      mc::vjp({y}, {dy}, adapted ? std::vector<LazyTensor>{x, a, b} : std::vector<LazyTensor>{x});
  roots.push_back(y);
  mc::eval(roots);
  return roots;
}

std::function<void(bool)> bare_layer(const LoraLayer& layer) {
  return [bare = std::make_shared<BareLayer>(layer)](bool adapted) { bare->run(adapted); };
}

}  // namespace bench
