#include "suite/bare_step.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <metal_candle/optimizer.hpp>
#include <stdexcept>

#include "backend/cpu/gemm/gemm.h"
#include "backend/cpu/gemm/kernels.h"
#include "backend/cpu/intrinsics.h"
#include "backend/cpu/kernels/attention.h"
#include "backend/cpu/kernels/linear_cross_entropy.h"
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
#include "suite/bare_parts.h"

BlockShape shape_of(const StepProblem& p) {
  const mc::ModelConfig& c = p.model.config();
  BlockShape s;
  s.hidden = c.hidden, s.heads = c.heads, s.kv_heads = c.key_heads, s.head = c.head_width, s.inner = c.intermediate;
  s.rank = p.rank, s.sequences = p.rows, s.tokens = static_cast<std::int64_t>(p.ids.size()) / p.rows;
  return s;
}

constexpr const char* kModules[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

template <class L>
class BareStep : BareParts<L> {
  using Parts = BareParts<L>;
  using typename Parts::Epilogue;
  using typename Parts::Layer;
  using typename Parts::Linear;
  using typename Parts::T;

 public:
  explicit BareStep(const StepProblem& p) : Parts(shape_of(p)), problem_(p), vocabulary_(p.model.config().vocabulary) {
    if (L::kDtype != mc::DType::f32) this->tolerance_ = 6e-2;  // rounded residuals of 30 layers
    make_parameters();
    this->make_room(passing_);
    for (std::int64_t i = 0; i < p.model.config().layers; ++i) layers_.push_back(layer(i));
    norm_ = weight("model.norm");
    for (T** t : {&last_, &normed_, &u_, &gradient_[0], &gradient_[1]}) *t = this->tokens(this->s_.hidden);
    loss_ = this->numbers(this->rows_), lse_ = this->numbers(this->rows_), scale_ = this->numbers(this->rows_);
    forward();
    head();
    backward();
    this->schedule_.round(kLoops, {optimizer()});
  }
  void run() {
    ++updates_;
    this->schedule_.run();
  }
  std::string parts() const { return this->schedule_.parts(); }

  void check() {
    const std::vector<float> before(parameters_, parameters_ + size_);
    run();
    const auto [loss, gradients] = problem_.gradients();
    std::vector<mc::LazyTensor> wanted{loss};
    for (const auto& [path, g] : gradients) wanted.push_back(g);
    mc::eval(wanted);
    double sum = 0;
    for (std::int64_t r = 0; r < this->rows_; ++r) sum += static_cast<double>(loss_[r]);
    const auto ours = static_cast<float>(sum / active_);
    this->compare("loss", mc::LazyTensor(loss).eval().template to_vector<float>(), [&](std::size_t) { return ours; });
    for (std::size_t i = 0; i < layers_.size(); ++i)
      for (std::size_t k = 0; k < std::size(kModules); ++k) compare_module(i, k, gradients);
    compare_update(before);
  }

 private:
  // --- weights and parameters ---

  mc::Tensor tensor(const std::string& path) {
    held_.push_back(mc::LazyTensor(problem_.model.weights()[path]).eval());
    return held_.back();
  }
  const T* weight(const std::string& module) { return static_cast<const T*>(tensor(module + ".weight").raw_data()); }
  static std::string module_path(std::size_t layer, std::size_t k) {
    return fmt::format("model.layers.{}.{}", layer, kModules[k]);
  }

  /// Parameters, moments and gradients, all adapters one after the other.
  void make_parameters() {
    for (const auto& [path, p] : problem_.parameters) size_ += p.shape().numel();
    parameters_ = this->numbers(size_), first_ = this->numbers(size_), second_ = this->numbers(size_);
    std::fill(first_, first_ + size_, 0.0f);
    std::fill(second_, second_ + size_, 0.0f);
    used_ = this->memory(size_), gradients_ = this->memory(size_);
    active_ = static_cast<double>(
        std::count_if(problem_.targets.begin(), problem_.targets.end(), [](std::int32_t t) { return t >= 0; }));
  }
  /// The next [rows, cols] parameters from a tensor [cols, rows].
  const T* parameter(const std::string& path, std::int64_t rows, std::int64_t cols, T** gradient) {
    const std::vector<float> from = mc::LazyTensor(problem_.parameters[path]).eval().template to_vector<float>();
    T* const used = used_ + taken_;
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < cols; ++c) {
        parameters_[taken_ + r * cols + c] = from[static_cast<std::size_t>(c * rows + r)];
        used[r * cols + c] = T(from[static_cast<std::size_t>(c * rows + r)]);
      }
    *gradient = gradients_ + taken_;
    taken_ += rows * cols;
    return used;
  }

  Linear linear(const std::string& module) {
    const mc::Tensor w = tensor(module + ".weight");
    const std::int64_t out = w.shape()[0], in = w.shape()[1], rank = this->s_.rank;
    Linear l{in,
             out,
             this->packed(w.raw_data(), out, in, {1, in}),
             this->packed(w.raw_data(), in, out, {in, 1}),
             nullptr,
             nullptr,
             this->tokens(rank),
             this->tokens(rank),
             nullptr,
             nullptr};
    l.a = parameter(module + ".lora_A.weight", in, rank, &l.da);
    l.b = parameter(module + ".lora_B.weight", rank, out, &l.db);
    return l;
  }
  Layer layer(std::int64_t index) {
    Layer l;
    for (std::size_t k = 0; k < std::size(kModules); ++k)
      l.linears.push_back(linear(module_path(static_cast<std::size_t>(index), k)));
    l.norm1 = weight(fmt::format("model.layers.{}.input_layernorm", index));
    l.norm2 = weight(fmt::format("model.layers.{}.post_attention_layernorm", index));
    l.x = this->tokens(this->s_.hidden);
    this->make_room(l);
    return l;
  }

  // --- the step ---

  void forward() {
    auto& rounds = this->schedule_;
    const std::int64_t hidden = this->s_.hidden;
    const T* const table = weight("model.embed_tokens");
    T* x = const_cast<T*>(layers_[0].x);
    rounds.round(kLoops, {this->by_rows([=, this](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t r = begin; r < end; ++r)
                     std::memcpy(x + r * hidden, table + problem_.ids[static_cast<std::size_t>(r)] * hidden,
                                 static_cast<std::size_t>(hidden) * sizeof(T));
                 })});
    rounds.round(kLoops, {this->norm(x, layers_[0].norm1, layers_[0].n1, layers_[0].scale1)});
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const Layer& l = layers_[i];
      const bool last = i + 1 == layers_.size();
      T* const next = last ? last_ : const_cast<T*>(layers_[i + 1].x);
      const Linear& down = l.of(Parts::kDown);
      this->attend(l);
      rounds.round(kProducts, {this->full(l.of(Parts::kGate), l.n2, l.gate)});
      rounds.round(kProducts, {this->full(l.of(Parts::kUp), l.n2, nullptr, gated(l))});
      rounds.round(kProducts, {this->low(down, passing_.act)});
      rounds.round(kProducts, {this->full(down, passing_.act, nullptr, this->added(l.h, next, hidden))});
      rounds.round(kLoops, {last ? this->norm(next, norm_, normed_, scale_)
                                 : this->norm(next, layers_[i + 1].norm1, layers_[i + 1].n1, layers_[i + 1].scale1)});
    }
  }
  /// With `up` in the tile: up itself and silu(gate)·up.
  Epilogue gated(const Layer& l) {
    T *const gate = l.gate, *const up = l.up, *const act = passing_.act;
    const std::int64_t n = this->s_.inner;
    return {[=](const GemmTile& t) {
              Parts::each(t, [=](__m512 u, std::int64_t r, std::int64_t col) {
                const std::int64_t at = r * n + col;
                const __m512 g = L::load(gate + at);
                L::store(u, up + at);
                L::store(_mm512_mul_ps(_mm512_mul_ps(g, sigmoid(g)), u), act + at);
              });
            },
            {gate, up, act}};
  }

  void head() {
    const std::int64_t n = this->rows_, d = this->s_.hidden, v = vocabulary_;
    mc::Attrs attrs{-100};
    attrs.push(0.0);
    const mc::Shape rows{n}, one{1};
    this->kernel_rounds(kHead, mc::cpu::linear_cross_entropy_kernel, attrs,
                        {{normed_, L::kDtype, mc::Shape{n, d}, mc::Shape{d, 1}},
                         {const_cast<T*>(weight("model.embed_tokens")), L::kDtype, mc::Shape{d, v}, mc::Shape{1, d}},
                         {const_cast<std::int32_t*>(problem_.targets.data()), mc::DType::i32, rows, one}},
                        {{loss_, mc::DType::f32, rows, one},
                         {lse_, mc::DType::f32, rows, one},
                         {u_, L::kDtype, mc::Shape{n, d}, mc::Shape{d, 1}}});
  }

  void backward() {
    T* const none = this->tokens(this->s_.hidden);  // zeros
    int at = 0;
    this->schedule_.round(kLoops, {this->template norm_back<1>({u_}, last_, norm_, scale_, none, gradient_[at],
                                                               static_cast<float>(1 / active_))});
    for (std::size_t i = layers_.size(); i-- > 0; at = 1 - at) {
      this->schedule_.round(kProducts, {this->low_back(layers_[i].of(Parts::kDown), gradient_[at])});
      this->go_back(layers_[i], passing_, gradient_[at], i > 0 ? gradient_[1 - at] : nullptr, nullptr);
    }
  }

  Work optimizer() {
    constexpr std::int64_t kPiece = 1 << 14;
    return {(size_ + kPiece - 1) / kPiece, [this](std::int64_t task, void*) {
              const mc::AdamWOptions o{.learning_rate = kRate};
              const double root = 1 / std::sqrt(1 - std::pow(o.beta2, updates_));
              const __m512 keep1 = lanes(static_cast<float>(o.beta1)), take1 = lanes(static_cast<float>(1 - o.beta1));
              const __m512 keep2 = lanes(static_cast<float>(o.beta2)), take2 = lanes(static_cast<float>(1 - o.beta2));
              const __m512 rate = lanes(static_cast<float>(kRate / (1 - std::pow(o.beta1, updates_))));
              const __m512 shrink = lanes(static_cast<float>(1 - kRate * o.weight_decay));
              for (std::int64_t i = task * kPiece; i < std::min(size_, (task + 1) * kPiece); i += 16) {
                const __m512 g = L::load(gradients_ + i);
                const __m512 m = _mm512_fmadd_ps(_mm512_loadu_ps(first_ + i), keep1, _mm512_mul_ps(g, take1));
                const __m512 v =
                    _mm512_fmadd_ps(_mm512_loadu_ps(second_ + i), keep2, _mm512_mul_ps(_mm512_mul_ps(g, g), take2));
                const __m512 size = _mm512_fmadd_ps(_mm512_sqrt_ps(v), lanes(static_cast<float>(root)),
                                                    lanes(static_cast<float>(o.epsilon)));
                const __m512 p = _mm512_fnmadd_ps(rate, _mm512_div_ps(m, size),
                                                  _mm512_mul_ps(_mm512_loadu_ps(parameters_ + i), shrink));
                _mm512_storeu_ps(first_ + i, m);
                _mm512_storeu_ps(second_ + i, v);
                _mm512_storeu_ps(parameters_ + i, p);
                L::store(p, used_ + i);
              }
            }};
  }

  // --- beside the library ---

  void compare_module(std::size_t layer, std::size_t k, const mc::ParamTree& gradients) {
    const Linear& l = layers_[layer].linears[k];
    const std::string path = module_path(layer, k);
    const auto one = [&](const char* side, const T* ours, std::int64_t rows, std::int64_t cols) {
      const std::string name = path + side;
      this->compare(name, mc::LazyTensor(gradients[name]).eval().template to_vector<float>(), [&](std::size_t i) {
        const auto at = static_cast<std::int64_t>(i);
        return static_cast<float>(ours[at % rows * cols + at / rows]);
      });
    };
    one(".lora_A.weight", l.da, l.in, this->s_.rank);
    one(".lora_B.weight", l.db, this->s_.rank, l.out);
  }
  /// AdamW of the library with the same gradients.
  void compare_update(const std::vector<float>& before) const {
    std::vector<float> g(static_cast<std::size_t>(size_));
    for (std::size_t i = 0; i < g.size(); ++i) g[i] = static_cast<float>(gradients_[i]);
    mc::ParamTree p, dp;
    p.insert("all", mc::Tensor::from(before, {size_}));
    dp.insert("all", mc::Tensor::from(g, {size_}));
    const auto next = mc::adamw(p, dp, mc::adamw_state(p), {.learning_rate = kRate});
    const mc::Tensor right = mc::LazyTensor(next.parameters["all"]).eval();
    const std::vector<float> want = right.template to_vector<float>();
    for (std::size_t i = 0; i < want.size(); ++i)
      if (!(std::abs(want[i] - parameters_[i]) < 1e-6f)) throw std::runtime_error("bare kernels: AdamW differs");
  }

  static constexpr double kRate = 1e-4;
  const StepProblem problem_;
  const std::int64_t vocabulary_;
  std::vector<mc::Tensor> held_;
  std::int64_t size_ = 0, taken_ = 0;
  float *parameters_, *first_, *second_;
  T *used_, *gradients_;  // parameters as the products read them
  std::deque<Layer> layers_;
  typename Parts::Passing passing_;
  const T* norm_;
  T *last_, *normed_, *u_, *gradient_[2];
  float *loss_, *lse_, *scale_;
  double active_ = 0;
  int updates_ = 0;
};

}  // namespace
}  // namespace bench
HWY_POP_ATTRIBUTES

namespace bench {
namespace {
template <class L>
BareWork make(const StepProblem& problem) {
  auto step = std::make_shared<BareStep<L>>(problem);
  step->check();
  return {[step] { step->run(); }, [step] { return step->parts(); }};
}
}  // namespace

BareWork bare_step(const StepProblem& problem, mc::DType dtype) {
  if (mc::cpu::bf16_dot_family().lanes == 0) return {};
  return dtype == mc::DType::f32 ? make<F32Lanes>(problem) : make<Bf16Lanes>(problem);
}
}  // namespace bench

#else

namespace bench {
BareWork bare_step(const StepProblem&, mc::DType) { return {}; }
}  // namespace bench

#endif
