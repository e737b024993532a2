// Sums run over a text's tokens in their order, so that they do not depend on what lies beside it.
#include "embeddings/pooling.h"

#include <algorithm>
#include <limits>

#include "metal_candle/error.hpp"
#include "metal_candle/ops.hpp"

namespace metal_candle::embeddings {
namespace {

constexpr double kLeastCount = 1e-9, kLeastLength = 1e-12;

class Pool {
 public:
  Pool(const LazyTensor& hidden, const Packed& packed) : hidden_(hidden), p_(packed) {
    std::vector<float> any, counts, places;
    for (const float n : p_.count) {
      any.push_back(n > 0 ? 1.0f : 0.0f);
      counts.push_back(std::max(n, static_cast<float>(kLeastCount)));
    }
    for (const float n : p_.places) places.push_back(std::max(n, static_cast<float>(kLeastCount)));
    any_ = column(any), counts_ = column(counts), places_ = column(places);
  }

  LazyTensor operator()(PoolingMode mode) {
    switch (mode) {
      case PoolingMode::cls: return rows(hidden_, p_.first);
      case PoolingMode::last: return rows(hidden_, p_.last);
      case PoolingMode::max: return rows(running_max(), p_.last);
      case PoolingMode::mean: return total() / counts_;
      case PoolingMode::mean_sqrt: return total() / sqrt(counts_);
      case PoolingMode::weighted_mean: return sum_of(in_f32() * column(p_.place)) / places_;
    }
    throw InternalError("a pooling mode without a function");
  }

 private:
  static LazyTensor column(const std::vector<float>& values) {
    return Tensor::from(values, {static_cast<std::int64_t>(values.size()), 1});
  }
  static LazyTensor index(const std::vector<std::int32_t>& values) {
    return Tensor::from(values, {static_cast<std::int64_t>(values.size())});
  }
  LazyTensor in_f32() const { return cast(hidden_, DType::f32); }

  LazyTensor rows(const LazyTensor& of, const std::vector<std::int32_t>& which) const {
    return cast(take(of, index(which)), DType::f32) * any_;
  }
  LazyTensor total() {
    if (!total_.defined()) total_ = sum_of(in_f32());
    return total_;
  }
  LazyTensor sum_of(const LazyTensor& x) const {
    return slice(scatter_add(zeros({p_.slots + 1, x.dim(1)}), index(p_.text), x), 0, 0, p_.slots);
  }

  /// At every token the largest of its text up to there: of two, then of four tokens, and so on.
  LazyTensor running_max() const {
    LazyTensor x = hidden_;
    for (std::int64_t step = 1; step < p_.longest; step *= 2) {
      std::vector<std::int32_t> other(p_.text.size());
      for (std::size_t i = 0; i < other.size(); ++i) {
        const std::size_t before = i - std::min(i, static_cast<std::size_t>(step));
        other[i] = static_cast<std::int32_t>(p_.text[before] == p_.text[i] ? before : i);
      }
      x = maximum(x, take(x, index(other)));
    }
    return x;
  }

  LazyTensor hidden_, any_, counts_, places_, total_;
  const Packed& p_;
};

LazyTensor activated(DenseActivation activation, const LazyTensor& x) {
  switch (activation) {
    case DenseActivation::identity: return x;
    case DenseActivation::tanh: return tanh(x);
    case DenseActivation::relu: return relu(x);
    case DenseActivation::gelu: return gelu(x);
    case DenseActivation::sigmoid: return sigmoid(x);
    case DenseActivation::silu: return silu(x);
  }
  throw InternalError("an activation without a function");
}

LazyTensor run(const Dense& d, const LazyTensor& x) {
  LazyTensor y = matmul(x, transpose(d.weight));
  if (d.bias.defined()) y = y + d.bias;
  y = activated(d.activation, y);
  if (d.add_input) y = y + (d.residual.defined() ? matmul(x, transpose(d.residual)) : x);
  return y;
}

}  // namespace

LazyTensor pool(const Pooling& pooling, const LazyTensor& hidden, const Packed& packed) {
  Pool one(hidden, packed);
  std::vector<LazyTensor> parts;
  for (const PoolingMode mode : pooling.modes) parts.push_back(one(mode));
  return parts.size() == 1 ? parts[0] : concat(parts, 1);
}

std::int64_t final_width(const Pipeline& pipeline, std::int64_t backbone_width) {
  const auto fail = [](const std::string& file, const std::string& field, std::int64_t expected, std::int64_t got) {
    throw FileError(FileFault::bad, file, field, std::to_string(expected) + ", the width of what comes in",
                    std::to_string(got));
  };
  const Pooling& pooling = *pipeline.pooling;
  if (pooling.width > 0 && pooling.width != backbone_width)
    fail(pooling.file, pooling.field, backbone_width, pooling.width);
  std::int64_t width = backbone_width * static_cast<std::int64_t>(pooling.modes.size());
  for (const Step& step : pipeline.steps)
    if (const auto* dense = std::get_if<Dense>(&step)) {
      if (dense->weight.dim(1) != width) fail(dense->file, "in_features", width, dense->weight.dim(1));
      width = dense->weight.dim(0);
    }
  return width;
}

LazyTensor apply(const Step& step, const LazyTensor& x) {
  const auto* dense = std::get_if<Dense>(&step);
  return dense ? run(*dense, x) : unit_length(x);
}

LazyTensor unit_length(const LazyTensor& x) { return x / maximum(sqrt(sum(x * x, {-1}, true)), kLeastLength); }

}  // namespace metal_candle::embeddings
