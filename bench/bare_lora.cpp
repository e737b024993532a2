// The products of a frozen linear layer with and without a LoRA adapter, forward and backward, bare: the library's GEMM on
// its threads, in the fewest rounds, nothing recorded, looked up or allocated, the weight packed beforehand for both
// directions. In turns with the library's own evaluation of the same layer, whose bits it must have. What `bench_suite`'s
// section `lora` asks of the library is asked of these products here.
//
//   bench_bare_lora [seconds a shape]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend/cpu/gemm/gemm.h"
#include "base/pool.h"
#include "base/thread_pool.h"
#include "suite/ours.h"

namespace {

using namespace bench;
using namespace metal_candle::cpu;
using mc::LazyTensor;

constexpr std::int64_t kRows = 1024, kRank = 16;
constexpr float kScale = 2;
constexpr double kTurn = 0.02;  // seconds

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

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

class Layer {
 public:
  Layer(std::int64_t k, std::int64_t n, mc::DType dtype)
      : k_(k),
        n_(n),
        half_(dtype == mc::DType::bf16),
        w_(frozen_weight(k, n, dtype)),
        x_(random_tensor({kRows, k}, dtype)),
        dy_(random_tensor({kRows, n}, dtype)),
        a_(random_tensor({k, kRank}, dtype, 0.02)),
        b_(random_tensor({kRank, n}, dtype, 0.2)) {
    const void *x = x_.raw_data(), *dy = dy_.raw_data(), *a = a_.raw_data(), *b = b_.raw_data();
    y_ = memory(kRows * n), dx_ = memory(kRows * k), u_ = memory(kRows * kRank), du_ = memory(kRows * kRank);
    da_ = memory(k * kRank), db_ = memory(kRank * n);
    const GemmSegment forward = packed(n, k, {x, k, 1}, {w_.raw_data(), n, 1});
    const GemmSegment backward = packed(k, n, {dy, n, 1}, {w_.raw_data(), 1, n});
    frozen_.round({product(kRows, n, y_, forward), product(kRows, k, dx_, backward)});

    Schedule::Product u = product(kRows, kRank, u_, segment(k, {x, k, 1}, {a, kRank, 1}));
    Schedule::Product du = product(kRows, kRank, du_, segment(n, {dy, n, 1}, {b, 1, n}));
    u.args.sink = du.args.sink = half_ ? scale<true> : scale<false>;
    u.args.user = u_, du.args.user = du_;
    adapted_.round({u, du});
    adapted_.round({product(kRows, n, y_, forward, segment(kRank, {u_, kRank, 1}, {b, n, 1})),
                    product(kRows, k, dx_, backward, segment(kRank, {du_, kRank, 1}, {a, 1, kRank})),
                    product(k, kRank, da_, segment(kRows, {x, 1, k}, {du_, kRank, 1})),
                    product(kRank, n, db_, segment(kRows, {u_, 1, kRank}, {dy, n, 1}))});
  }

  void bare(bool adapted) { (adapted ? adapted_ : frozen_).run(); }
  std::vector<LazyTensor> library(bool adapted) const {
    LazyTensor y = mc::matmul(x_, w_);
    if (adapted) y = y + mc::lora_fused(x_, a_, b_, kScale);
    std::vector<LazyTensor> roots =
        mc::vjp({y}, {dy_}, adapted ? std::vector<LazyTensor>{x_, a_, b_} : std::vector<LazyTensor>{x_});
    roots.push_back(y);
    mc::eval(roots);
    return roots;
  }
  void check(bool adapted) {
    bare(adapted);
    const std::vector<LazyTensor> results = library(adapted);
    compare("y", results.back(), y_);
    compare("dx", results[0], dx_);
    if (adapted) compare("dA", results[1], da_), compare("dB", results[2], db_);
  }

 private:
  std::size_t bytes(std::int64_t elements) const { return static_cast<std::size_t>(elements) * (half_ ? 2 : 4); }
  void* memory(std::int64_t elements) const { return mc::base::pool_allocate(bytes(elements)); }  // to the end
  GemmType type() const { return half_ ? GemmType::bf16 : GemmType::f32; }

  static GemmSegment segment(std::int64_t k, MatrixRef a, MatrixRef b) {
    GemmSegment s;
    s.k = k, s.a = a, s.b = b;
    return s;
  }
  GemmSegment packed(std::int64_t n, std::int64_t k, MatrixRef a, MatrixRef b) const {
    const GemmShape shape{kRows, n, k, type()};
    void* const to = mc::base::pool_allocate(packed_b_bytes(shape));
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

  const std::int64_t k_, n_;
  const bool half_;
  const mc::Tensor w_, x_, dy_, a_, b_;
  void *y_, *dx_, *u_, *du_, *da_, *db_;
  Schedule frozen_, adapted_;
};

template <class Work>
double turn(const Work& work) {
  work();
  std::vector<double> times;
  for (double begin = now(), at = begin, end; at < begin + kTurn; at = end) {
    work();
    times.push_back((end = now()) - at);
  }
  return median(times);
}

void measure(std::int64_t k, std::int64_t n, mc::DType dtype, double seconds) {
  Layer layer(k, n, dtype);
  layer.check(false);
  layer.check(true);
  std::vector<double> times[4], bare_ratio, ratio, to_frozen, to_bare;
  for (const double end = now() + seconds; now() < end;) {
    double t[4];
    for (int i = 0; i < 4; ++i) {
      t[i] = i < 2 ? turn([&] { layer.bare(i == 1); }) : turn([&] { layer.library(i == 3); });
      times[i].push_back(t[i] * 1e6);
    }
    bare_ratio.push_back(t[1] / t[0]), ratio.push_back(t[3] / t[2]);
    to_frozen.push_back(t[1] / t[2]), to_bare.push_back(t[3] / t[1]);
  }
  std::sort(bare_ratio.begin(), bare_ratio.end());
  fmt::print(
      "{}->{} {}: bare frozen {:.1f} us, lora {:.1f} us, lora / frozen {:.4f} (tenths {:.3f} to {:.3f}); library "
      "{:.1f} and {:.1f} us, {:.4f}; bare lora / the library's frozen {:.4f}; library / bare, lora {:.4f}\n",
      k, n, dtype_name(dtype), median(times[0]), median(times[1]), median(bare_ratio),
      bare_ratio[bare_ratio.size() / 10], bare_ratio[bare_ratio.size() - 1 - bare_ratio.size() / 10], median(times[2]),
      median(times[3]), median(ratio), median(to_frozen), median(to_bare));
}

}  // namespace

int main(int count, char** values) {
  const double seconds = count > 1 ? std::atof(values[1]) : 10;
  for (const auto dtype : {mc::DType::f32, mc::DType::bf16})
    for (const auto& [k, n] : {std::pair<std::int64_t, std::int64_t>{576, 576}, {576, 192}, {2048, 2048}})
      measure(k, n, dtype, seconds);
}
