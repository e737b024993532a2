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
#include "suite/bare_parts.h"

template <class L>
class BareBlock : BareParts<L> {
  using Parts = BareParts<L>;
  using typename Parts::Layer;
  using typename Parts::T;

 public:
  BareBlock(BlockStep& step, const BlockShape& s) : Parts(s), step_(step) {
    for (const LoraWeights* w : step.block().projections()) layer_.linears.push_back(linear(*w));
    layer_.x = static_cast<const T*>(step.x().raw_data());
    const auto* dy = static_cast<const T*>(step.dy().raw_data());
    T* const ones = this->memory(s.hidden);
    std::fill(ones, ones + s.hidden, T(1.0f));
    layer_.norm1 = layer_.norm2 = ones;
    this->make_room(layer_);
    this->make_room(passing_);
    y_ = this->tokens(s.hidden), dx_ = this->tokens(s.hidden);
    const Layer& l = layer_;
    auto& rounds = this->schedule_;
    rounds.round(kProducts, {this->low_back(l.of(Parts::kDown), dy), this->norm(l.x, l.norm1, l.n1, l.scale1)});
    this->attend(l);
    rounds.round(kProducts, {this->full(l.of(Parts::kGate), l.n2, l.gate), this->full(l.of(Parts::kUp), l.n2, l.up)});
    this->go_back(l, passing_, dy, dx_, y_);
  }
  void run() { this->schedule_.run(); }
  std::string parts() const { return this->schedule_.parts(); }

  void check() {
    run();
    const std::vector<mc::LazyTensor> results = step_.record();
    mc::eval(results);
    this->compare("y", results.back(), y_);
    this->compare("dx", results[0], dx_);
    for (std::size_t i = 0; i < layer_.linears.size(); ++i) {
      this->compare("dA", results[1 + 2 * i], layer_.linears[i].da);
      this->compare("dB", results[2 + 2 * i], layer_.linears[i].db);
    }
  }

 private:
  typename Parts::Linear linear(const LoraWeights& w) {
    const std::int64_t in = w.w.shape()[1], out = w.w.shape()[0], rank = this->s_.rank;
    for (const mc::LazyTensor& side : {w.a, w.b}) held_.push_back(side.eval());
    const auto* b = static_cast<const T*>(held_.back().raw_data());
    const auto* a = static_cast<const T*>(held_[held_.size() - 2].raw_data());
    return {in,
            out,
            this->packed(w.w.raw_data(), out, in, {1, in}),
            this->packed(w.w.raw_data(), in, out, {in, 1}),
            a,
            b,
            this->tokens(rank),
            this->tokens(rank),
            this->memory(in * rank),
            this->memory(rank * out)};
  }

  BlockStep& step_;
  std::vector<mc::Tensor> held_;
  Layer layer_;
  typename Parts::Passing passing_;
  T *y_, *dx_;
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
