#include "suite/transformer.h"

namespace bench {
namespace {

LoraWeights projection(std::int64_t in, std::int64_t out, std::int64_t rank, mc::DType dtype) {
  return {frozen_weight(in, out, dtype), random_tensor({in, rank}, dtype, 1 / std::sqrt(static_cast<double>(in))),
          random_tensor({rank, out}, dtype, 0.25)};
}

mc::Tensor ones(std::int64_t n, mc::DType dtype) {
  mc::Tensor t = mc::Tensor::ones({n}, dtype);
  t.freeze();
  return t;
}

}  // namespace

Block::Block(const BlockShape& s, mc::DType dtype)
    : shape_(s),
      q_(projection(s.hidden, s.heads * s.head, s.rank, dtype)),
      k_(projection(s.hidden, s.kv(), s.rank, dtype)),
      v_(projection(s.hidden, s.kv(), s.rank, dtype)),
      o_(projection(s.heads * s.head, s.hidden, s.rank, dtype)),
      gate_(projection(s.hidden, s.inner, s.rank, dtype)),
      up_(projection(s.hidden, s.inner, s.rank, dtype)),
      down_(projection(s.inner, s.hidden, s.rank, dtype)),
      norm_before_(ones(s.hidden, dtype)),
      norm_after_(ones(s.hidden, dtype)),
      positions_(mc::Tensor::arange(0, s.tokens, 1, mc::DType::i32)) {}

mc::LazyTensor Block::project(const LoraWeights& l, const mc::LazyTensor& x) const {
  return mc::matmul(x, mc::transpose(l.w)) + mc::lora_fused(x, l.a, l.b, 2.0);
}

mc::LazyTensor Block::forward(const mc::LazyTensor& x) const {
  const auto& s = shape_;
  const auto heads = [&](const mc::LazyTensor& t, std::int64_t count) {
    return mc::reshape(t, {s.sequences, s.tokens, count, s.head});
  };
  const mc::LazyTensor n = mc::rms_norm(x, norm_before_, 1e-5);
  const mc::LazyTensor q = mc::rope(heads(project(q_, n), s.heads), positions_, 1e5);
  const mc::LazyTensor k = mc::rope(heads(project(k_, n), s.kv_heads), positions_, 1e5);
  const mc::LazyTensor seen = mc::attention(q, k, heads(project(v_, n), s.kv_heads));
  const mc::LazyTensor h = x + project(o_, mc::reshape(seen, {s.sequences, s.tokens, s.heads * s.head}));
  const mc::LazyTensor m = mc::rms_norm(h, norm_after_, 1e-5);
  return h + project(down_, mc::silu(project(gate_, m)) * project(up_, m));
}

std::vector<mc::LazyTensor*> Block::parameters() {
  std::vector<mc::LazyTensor*> all;
  for (LoraWeights* l : {&q_, &k_, &v_, &o_, &gate_, &up_, &down_}) {
    all.push_back(&l->a);
    all.push_back(&l->b);
  }
  return all;
}

BlockStep::BlockStep(const BlockShape& s, mc::DType dtype)
    : block_(s, dtype),
      x_(random_tensor({s.sequences, s.tokens, s.hidden}, dtype)),
      dy_(random_tensor({s.sequences, s.tokens, s.hidden}, dtype)) {}

std::vector<mc::LazyTensor> BlockStep::record() {
  std::vector<mc::LazyTensor> inputs = {x_};
  for (const mc::LazyTensor* p : block_.parameters()) inputs.push_back(*p);
  const mc::LazyTensor y = block_.forward(x_);
  std::vector<mc::LazyTensor> roots = mc::vjp({y}, {dy_}, inputs);
  roots.push_back(y);
  return roots;
}

}  // namespace bench
