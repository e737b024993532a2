#include "suite/bare_block.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <stdexcept>

#include "backend/cpu/gemm/gemm.h"
#include "backend/cpu/gemm/kernels.h"
#include "backend/cpu/intrinsics.h"
#include "backend/cpu/kernels/attention.h"
#include "base/pool.h"
#include "base/thread_pool.h"
#include "ops/attention.h"
#include "suite/suite.h"

#if defined(__x86_64__)

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")  // GCC's pragma or clang's
namespace bench {
namespace {

using mc::cpu::GemmArgs;
using mc::cpu::GemmSegment;
using mc::cpu::GemmTile;
using mc::cpu::GemmTiling;
using mc::cpu::MatrixRef;

#include "suite/bare_lanes.h"

constexpr float kScale = 2, kEpsilon = 1e-5f;  // of the adapters and the norms, as in transformer.cpp
constexpr std::int64_t kRowsOfTask = 32;

struct Work {
  std::int64_t tasks;
  std::function<void(std::int64_t task, void* scratch)> run;
};

enum Part { kProducts, kAttention, kLoops, kParts };

/// Rounds of work; what is in one is independent of each other.
class Schedule {
 public:
  void round(Part part, std::vector<Work> works) {
    parts_.push_back(part);
    std::int64_t tasks = 0;
    for (const Work& w : works) tasks += w.tasks;
    tasks_.push_back(static_cast<std::uint32_t>(tasks));
    rounds_.push_back(std::move(works));
  }
  void scratch(std::size_t bytes) { bytes_ = std::max(bytes_, bytes); }
  void run() {
    while (scratch_.size() < static_cast<std::size_t>(mc::threads()))
      scratch_.push_back(mc::base::pool_allocate(bytes_));
    const auto task = [](void* self, int thread, int round, std::uint32_t index) {
      static_cast<Schedule*>(self)->task(thread, round, index);
    };
    began_.resize(tasks_.size() + 1);
    mc::base::run_rounds({tasks_.data(), static_cast<int>(tasks_.size()), task, this}, mc::threads());
    began_.back() = now();
  }
  std::string parts() const {
    double took[kParts] = {};
    for (std::size_t r = 0; r < parts_.size(); ++r) took[parts_[r]] += began_[r + 1] - began_[r];
    return fmt::format("bare kernels: products {:.2f} ms, attention {:.2f} ms, loops {:.2f} ms", took[kProducts] * 1e3,
                       took[kAttention] * 1e3, took[kLoops] * 1e3);
  }

 private:
  void task(int thread, int round, std::int64_t index) {
    if (index == 0) began_[static_cast<std::size_t>(round)] = now();
    for (const Work& w : rounds_[static_cast<std::size_t>(round)]) {
      if (index < w.tasks) return w.run(index, scratch_[static_cast<std::size_t>(thread)]);
      index -= w.tasks;
    }
  }
  std::vector<std::vector<Work>> rounds_;
  std::vector<std::uint32_t> tasks_;
  std::vector<Part> parts_;
  std::vector<double> began_;
  std::vector<void*> scratch_;
  std::size_t bytes_ = 64;
};

template <class L>
class BareBlock {
  using T = typename L::T;
  using Sink = std::function<void(const GemmTile&)>;

  /// A projection: weights [in, out] packed for both directions, and what its passes make.
  struct Linear {
    std::int64_t in, out;
    const void *forward, *backward;  // packed
    const T *a, *b;
    T *u, *du;   // s·x·A, s·dy·Bᵀ
    T *da, *db;  // the adapter's gradients
  };

 public:
  BareBlock(BlockStep& step, const BlockShape& s) : s_(s), rows_(s.sequences * s.tokens), step_(step) {
    for (const LoraWeights* w : step.block().projections()) linears_.push_back(linear(*w));
    x_ = static_cast<const T*>(step.x().raw_data());
    dy_ = static_cast<const T*>(step.dy().raw_data());
    norm_weight_ = memory(s.hidden);
    for (std::int64_t i = 0; i < s.hidden; ++i) norm_weight_[i] = T(1.0f);
    make_tables();
    forward();
    backward();
  }
  void run() { schedule_.run(); }
  std::string parts() const { return schedule_.parts(); }

  void check() {
    run();
    const std::vector<mc::LazyTensor> results = step_.record();
    mc::eval(results);
    compare("y", results.back(), y_);
    compare("dx", results[0], dx_);
    for (std::size_t i = 0; i < linears_.size(); ++i) {
      compare("dA", results[1 + 2 * i], linears_[i].da);
      compare("dB", results[2 + 2 * i], linears_[i].db);
    }
  }

 private:
  // --- memory ---

  T* memory(std::int64_t elements) {
    auto* p = static_cast<T*>(mc::base::pool_allocate(static_cast<std::size_t>(elements) * sizeof(T) + 64));
    std::fill(p, p + elements, T(0.0f));
    return p;
  }
  T* tokens(std::int64_t width) { return memory(rows_ * width); }

  Linear linear(const LoraWeights& w) {
    const std::int64_t in = w.w.shape()[0], out = w.w.shape()[1];
    held_.push_back(mc::LazyTensor(w.a).eval());
    held_.push_back(mc::LazyTensor(w.b).eval());
    const auto* b = static_cast<const T*>(held_.back().raw_data());
    const auto* a = static_cast<const T*>(held_[held_.size() - 2].raw_data());
    return {in,
            out,
            packed(w.w.raw_data(), out, in, {out, 1}),
            packed(w.w.raw_data(), in, out, {1, out}),
            a,
            b,
            tokens(s_.rank),
            tokens(s_.rank),
            memory(in * s_.rank),
            memory(s_.rank * out)};
  }
  struct Strides {
    std::int64_t row, col;
  };
  const void* packed(const void* w, std::int64_t n, std::int64_t k, Strides s) {
    const mc::cpu::GemmShape shape{rows_, n, k, L::kGemm};
    void* to = mc::base::pool_allocate(packed_b_bytes(shape));
    pack_b(shape, {w, s.row, s.col}, to, 0, packed_b_panels(shape));
    return to;
  }

  // --- products ---

  static GemmSegment segment(std::int64_t k, MatrixRef a, MatrixRef b, bool is_packed = false) {
    GemmSegment s;
    s.k = k, s.a = a, s.b = b, s.b_packed = is_packed;
    return s;
  }
  struct Product {
    GemmArgs args;
    GemmTiling tiling;
    Sink sink;
  };
  Work product(std::int64_t m, std::int64_t n, GemmSegment first, GemmSegment second, T* c, Sink sink = {}) {
    products_.push_back({});
    Product& p = products_.back();
    p.args.m = m, p.args.n = n, p.args.type = p.args.c_type = L::kGemm;
    p.args.segments[0] = first, p.args.segments[1] = second;
    p.args.c = c, p.args.c_row_stride = n;
    if (sink) {
      p.sink = std::move(sink);
      p.args.c = nullptr;
      p.args.user = &p.sink;
      p.args.sink = [](void* user, const GemmTile& t) { (*static_cast<Sink*>(user))(t); };
    }
    p.tiling = plan_gemm(p.args);
    schedule_.scratch(p.tiling.scratch_bytes);
    return {p.tiling.jobs, [&p](std::int64_t task, void* scratch) { run_gemm_job(p.args, p.tiling, task, scratch); }};
  }

  /// f(tile's vector, row, column) for all of a tile; columns come in whole vectors here.
  template <class F>
  static void each(const GemmTile& t, F f) {
    const auto* data = static_cast<const float*>(t.data);
    for (std::int64_t r = 0; r < t.rows; ++r)
      for (std::int64_t c = 0; c < t.cols; c += 16) f(_mm512_loadu_ps(data + r * t.ld + c), t.row0 + r, t.col0 + c);
  }
  Sink scaled(T* c, std::int64_t n) {
    return [=](const GemmTile& t) {
      each(t, [=](__m512 v, std::int64_t r, std::int64_t col) {
        L::store(_mm512_mul_ps(v, lanes(kScale)), c + r * n + col);
      });
    };
  }
  Sink added(const T* to, T* c, std::int64_t n) {
    return [=](const GemmTile& t) {
      each(t, [=](__m512 v, std::int64_t r, std::int64_t col) {
        L::store(_mm512_add_ps(v, L::load(to + r * n + col)), c + r * n + col);
      });
    };
  }

  Work low(const Linear& l, const T* x) {  // u = s·x·A
    return product(rows_, s_.rank, segment(l.in, {x, l.in, 1}, {l.a, s_.rank, 1}), {}, nullptr, scaled(l.u, s_.rank));
  }
  Work full(const Linear& l, const T* x, T* y, Sink sink = {}) {  // y = x·W + u·B
    return product(rows_, l.out, segment(l.in, {x, l.in, 1}, {l.forward, 0, 0}, true),
                   segment(s_.rank, {l.u, s_.rank, 1}, {l.b, l.out, 1}), y, std::move(sink));
  }
  Work low_back(const Linear& l, const T* dy) {  // du = s·dy·Bᵀ
    return product(rows_, s_.rank, segment(l.out, {dy, l.out, 1}, {l.b, 1, l.out}), {}, nullptr, scaled(l.du, s_.rank));
  }
  Work full_back(const Linear& l, const T* dy, T* dx, Sink sink = {}) {  // dx = dy·Wᵀ + du·Aᵀ
    return product(rows_, l.in, segment(l.out, {dy, l.out, 1}, {l.backward, 0, 0}, true),
                   segment(s_.rank, {l.du, s_.rank, 1}, {l.a, 1, s_.rank}), dx, std::move(sink));
  }
  Work grad_a(const Linear& l, const T* x) {  // dA = xᵀ·du
    return product(l.in, s_.rank, segment(rows_, {x, 1, l.in}, {l.du, s_.rank, 1}), {}, l.da);
  }
  Work grad_b(const Linear& l, const T* dy) {  // dB = uᵀ·dy
    return product(s_.rank, l.out, segment(rows_, {l.u, 1, s_.rank}, {dy, l.out, 1}), {}, l.db);
  }

  // --- loops over rows ---

  /// f(row) for all tokens, a few of them a task.
  Work by_rows(std::function<void(std::int64_t begin, std::int64_t end)> f) {
    return {(rows_ + kRowsOfTask - 1) / kRowsOfTask, [f = std::move(f), n = rows_](std::int64_t task, void*) {
              f(task * kRowsOfTask, std::min(n, (task + 1) * kRowsOfTask));
            }};
  }

  Work norm(const T* x, T* y, float* scale) {
    return by_rows([=, this](std::int64_t begin, std::int64_t end) {
      const std::int64_t n = s_.hidden;
      for (std::int64_t r = begin; r < end; ++r) {
        const T* row = x + r * n;
        __m512 sum[2] = {lanes(0), lanes(0)};
        for (std::int64_t c = 0; c < n; c += 32)
          for (int i = 0; i < 2; ++i) {
            const __m512 v = L::load(row + c + 16 * i);
            sum[i] = _mm512_fmadd_ps(v, v, sum[i]);
          }
        const float total = _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
        scale[r] = 1 / std::sqrt(total / static_cast<float>(n) + kEpsilon);
        for (std::int64_t c = 0; c < n; c += 16)
          L::store(_mm512_mul_ps(_mm512_mul_ps(L::load(row + c), lanes(scale[r])), L::load(norm_weight_ + c)),
                   y + r * n + c);
      }
    });
  }

  /// dx = scale·g - x·scale³·mean(g·x) + rest with g = (Σ dy)·weight.
  template <std::size_t kCount>
  Work norm_back(std::array<const T*, kCount> dy, const T* x, const float* scale, const T* rest, T* dx) {
    return by_rows([=, this](std::int64_t begin, std::int64_t end) {
      const std::int64_t n = s_.hidden;
      alignas(64) float g[1024];
      for (std::int64_t at = begin * n; at < end * n; at += n) {
        __m512 sum = lanes(0);
        for (std::int64_t c = 0; c < n; c += 16) {
          __m512 v = L::load(dy[0] + at + c);
          for (std::size_t i = 1; i < kCount; ++i) v = _mm512_add_ps(v, L::load(dy[i] + at + c));
          v = _mm512_mul_ps(v, L::load(norm_weight_ + c));
          sum = _mm512_fmadd_ps(v, L::load(x + at + c), sum);
          _mm512_store_ps(g + c, v);
        }
        const float s = scale[at / n], mean = _mm512_reduce_add_ps(sum) / static_cast<float>(n);
        const __m512 less = lanes(-mean * s * s * s);
        for (std::int64_t c = 0; c < n; c += 16) {
          const __m512 v = _mm512_fmadd_ps(_mm512_load_ps(g + c), lanes(s), L::load(rest + at + c));
          L::store(_mm512_fmadd_ps(L::load(x + at + c), less, v), dx + at + c);
        }
      }
    });
  }

  void make_tables() {
    const std::int64_t half = s_.head / 2;
    for (std::int64_t t = 0; t < s_.tokens; ++t)
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(t) * std::pow(1e5, -static_cast<double>(i) / static_cast<double>(half));
        cosine_.push_back(static_cast<float>(std::cos(angle)));
        sine_.push_back(static_cast<float>(std::sin(angle)));
      }
  }
  /// Rotates in place; `sign` -1 turns back.
  Work rope(T* x, std::int64_t heads, float sign) {
    return by_rows([=, this](std::int64_t begin, std::int64_t end) {
      const std::int64_t half = s_.head / 2;
      for (std::int64_t r = begin; r < end; ++r) {
        const float *cosine = cosine_.data() + r % s_.tokens * half, *sine = sine_.data() + r % s_.tokens * half;
        T* row = x + r * heads * s_.head;
        for (std::int64_t h = 0; h < heads; ++h, row += s_.head)
          for (std::int64_t c = 0; c < half; c += 16) {
            const __m512 a = L::load(row + c), b = L::load(row + half + c), cos = _mm512_loadu_ps(cosine + c);
            const __m512 sin = _mm512_mul_ps(lanes(sign), _mm512_loadu_ps(sine + c));
            L::store(_mm512_fmsub_ps(a, cos, _mm512_mul_ps(b, sin)), row + c);
            L::store(_mm512_fmadd_ps(a, sin, _mm512_mul_ps(b, cos)), row + half + c);
          }
      }
    });
  }

  // --- attention ---

  void attention_rounds(const mc::CpuKernel& kernel, std::vector<mc::KernelTensor> in,
                        std::vector<mc::KernelTensor> out) {
    calls_.push_back({std::move(in), std::move(out), rule_.attrs(), nullptr});
    Call& c = calls_.back();
    const auto call = [&c](void* scratch) {
      return mc::KernelCall{c.in, c.out, c.attrs, scratch, c.shared, [](const char*) {}};
    };
    if (kernel.shared) c.shared = mc::base::pool_allocate(kernel.shared(call(nullptr)));
    schedule_.scratch(kernel.scratch(call(nullptr)));
    for (int pass = 0; pass < kernel.passes; ++pass)
      schedule_.round(kAttention,
                      {{kernel.tasks(call(nullptr), pass), [&kernel, call, pass](std::int64_t task, void* scratch) {
                          kernel.run(call(scratch), pass, task);
                        }}});
  }
  mc::KernelTensor heads(T* data, std::int64_t count) const {
    const mc::Shape shape{s_.sequences, s_.tokens, count, s_.head};
    const std::int64_t row = count * s_.head;
    return {data, L::kDtype, shape, mc::Shape{s_.tokens * row, row, s_.head, 1}};
  }

  // --- the block ---

  enum { kQ, kK, kV, kO, kGate, kUp, kDown };
  const Linear& of(int which) const { return linears_[static_cast<std::size_t>(which)]; }

  void forward() {
    const std::int64_t hidden = s_.hidden;
    scale1_.resize(static_cast<std::size_t>(rows_)), scale2_.resize(static_cast<std::size_t>(rows_));
    lse_.resize(static_cast<std::size_t>(rows_ * s_.heads));
    n1_ = tokens(hidden), n2_ = tokens(hidden), h_ = tokens(hidden), seen_ = tokens(hidden), y_ = tokens(hidden);
    q_ = tokens(hidden), k_ = tokens(s_.kv()), v_ = tokens(s_.kv()), gate_ = tokens(s_.inner), up_ = tokens(s_.inner);
    schedule_.round(kProducts, {low_back(of(kDown), dy_), norm(x_, n1_, scale1_.data())});
    schedule_.round(kProducts, {low(of(kQ), n1_), low(of(kK), n1_), low(of(kV), n1_)});
    schedule_.round(kProducts, {full(of(kQ), n1_, q_), full(of(kK), n1_, k_), full(of(kV), n1_, v_)});
    schedule_.round(kLoops, {rope(q_, s_.heads, 1), rope(k_, s_.kv_heads, 1)});
    attention_rounds(mc::cpu::attention_kernel, {heads(q_, s_.heads), heads(k_, s_.kv_heads), heads(v_, s_.kv_heads)},
                     {heads(seen_, s_.heads), lse()});
    schedule_.round(kProducts, {low(of(kO), seen_)});
    schedule_.round(kProducts, {full(of(kO), seen_, nullptr, added(x_, h_, hidden))});
    schedule_.round(kLoops, {norm(h_, n2_, scale2_.data())});
    schedule_.round(kProducts, {low(of(kGate), n2_), low(of(kUp), n2_)});
    schedule_.round(kProducts, {full(of(kGate), n2_, gate_), full(of(kUp), n2_, up_)});
  }
  mc::KernelTensor lse() { return {lse_.data(), mc::DType::f32, mc::Shape{s_.heads, rows_}, mc::Shape{rows_, 1}}; }

  /// With dh = dy·Wᵀ of `down` in the tile: the activation h, and the gradients of gate and up.
  Sink activation(T* h, T* dgate, T* dup) {
    return [=, this](const GemmTile& t) {
      each(t, [=, this](__m512 dh, std::int64_t r, std::int64_t col) {
        const std::int64_t at = r * s_.inner + col;
        const __m512 g = L::load(gate_ + at), u = L::load(up_ + at), s = sigmoid(g), silu = _mm512_mul_ps(g, s);
        L::store(_mm512_mul_ps(silu, u), h + at);
        L::store(_mm512_mul_ps(dh, silu), dup + at);
        const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(g, _mm512_sub_ps(lanes(1), s), lanes(1)));
        L::store(_mm512_mul_ps(_mm512_mul_ps(dh, u), slope), dgate + at);
      });
    };
  }

  void backward() {
    const std::int64_t hidden = s_.hidden;
    T *act = tokens(s_.inner), *dgate = tokens(s_.inner), *dup = tokens(s_.inner);
    T *part[3] = {tokens(hidden), tokens(hidden), tokens(hidden)}, *dh = tokens(hidden), *dseen = tokens(hidden);
    T *dq = tokens(hidden), *dk = tokens(s_.kv()), *dv = tokens(s_.kv());
    dx_ = tokens(hidden);
    schedule_.round(kProducts, {full_back(of(kDown), dy_, nullptr, activation(act, dgate, dup))});
    schedule_.round(kProducts, {low_back(of(kGate), dgate), low_back(of(kUp), dup), low(of(kDown), act)});
    schedule_.round(kProducts, {full_back(of(kGate), dgate, part[0]), full_back(of(kUp), dup, part[1]),
                                full(of(kDown), act, nullptr, added(h_, y_, hidden)), grad_a(of(kDown), act),
                                grad_b(of(kGate), dgate), grad_b(of(kUp), dup), grad_a(of(kGate), n2_),
                                grad_a(of(kUp), n2_), grad_b(of(kDown), dy_)});
    schedule_.round(kLoops, {norm_back<2>({part[0], part[1]}, h_, scale2_.data(), dy_, dh)});
    schedule_.round(kProducts, {low_back(of(kO), dh)});
    schedule_.round(kProducts, {full_back(of(kO), dh, dseen), grad_b(of(kO), dh), grad_a(of(kO), seen_)});
    attention_rounds(mc::cpu::attention_grad_kernel,
                     {heads(q_, s_.heads), heads(k_, s_.kv_heads), heads(v_, s_.kv_heads), heads(seen_, s_.heads),
                      lse(), heads(dseen, s_.heads)},
                     {heads(dq, s_.heads), heads(dk, s_.kv_heads), heads(dv, s_.kv_heads)});
    schedule_.round(kProducts,
                    {rope(dq, s_.heads, -1), rope(dk, s_.kv_heads, -1), low_back(of(kV), dv), grad_b(of(kV), dv)});
    schedule_.round(kProducts, {low_back(of(kQ), dq), low_back(of(kK), dk), grad_b(of(kQ), dq), grad_b(of(kK), dk)});
    schedule_.round(kProducts,
                    {full_back(of(kQ), dq, part[0]), full_back(of(kK), dk, part[1]), full_back(of(kV), dv, part[2]),
                     grad_a(of(kQ), n1_), grad_a(of(kK), n1_), grad_a(of(kV), n1_)});
    schedule_.round(kLoops, {norm_back<3>({part[0], part[1], part[2]}, x_, scale1_.data(), dh, dx_)});
  }

  void compare(const char* name, const mc::LazyTensor& right, const T* ours) const {
    const std::vector<float> want = mc::cast(right, mc::DType::f32).eval().template to_vector<float>();
    double error = 0, size = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double d = static_cast<double>(static_cast<float>(ours[i])) - static_cast<double>(want[i]);
      error += d * d;
      size += static_cast<double>(want[i]) * static_cast<double>(want[i]);
    }
    const double relative = std::sqrt(error / size);
    if (!(relative < (L::kDtype == mc::DType::f32 ? 1e-4 : 3e-2)))
      throw std::runtime_error(fmt::format("bare block: {} differs by {:.3g} of its size", name, relative));
  }

  struct Call {
    std::vector<mc::KernelTensor> in, out;
    mc::Attrs attrs;
    void* shared;
  };
  const BlockShape s_;
  const std::int64_t rows_;
  BlockStep& step_;
  const mc::ops::AttentionRule rule_ = [this] {
    mc::ops::AttentionRule rule(mc::Attrs{0, 1, 0, 0, 0});
    rule.scale = 1 / std::sqrt(static_cast<double>(s_.head)), rule.softcap = 0;
    return rule;
  }();
  Schedule schedule_;
  std::vector<mc::Tensor> held_;
  std::vector<Linear> linears_;
  std::deque<Product> products_;  // stable addresses
  std::deque<Call> calls_;
  const T *x_, *dy_;
  T *norm_weight_, *n1_, *n2_, *h_, *seen_, *y_, *q_, *k_, *v_, *gate_, *up_, *dx_;
  std::vector<float> scale1_, scale2_, lse_, cosine_, sine_;
};

}  // namespace
}  // namespace bench
HWY_POP_ATTRIBUTES

namespace bench {
namespace {
template <class L>
BareWork make(BlockStep& step, const BlockShape& shape) {
  auto block = std::make_shared<BareBlock<L>>(step, shape);
  block->check();
  return {[block] { block->run(); }, [block] { return block->parts(); }};
}
}  // namespace

BareWork bare_block(BlockStep& step, const BlockShape& shape, mc::DType dtype) {
  if (mc::cpu::bf16_dot_family().lanes == 0) return {};
  return dtype == mc::DType::f32 ? make<F32Lanes>(step, shape) : make<Bf16Lanes>(step, shape);
}
}  // namespace bench

#else

namespace bench {
BareWork bare_block(BlockStep&, const BlockShape&, mc::DType) { return {}; }
}  // namespace bench

#endif
