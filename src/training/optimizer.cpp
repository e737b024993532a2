// AdamW and clipping as lazy graphs.
#include "metal_candle/optimizer.hpp"

#include <cmath>

#include "metal_candle/error.hpp"
#include "metal_candle/op_def.hpp"
#include "metal_candle/ops.hpp"

namespace metal_candle {
namespace {

DType moment_type(const LazyTensor& parameter) { return parameter.dtype() == DType::f64 ? DType::f64 : DType::f32; }

LazyTensor as_type(const LazyTensor& x, DType dtype) { return x.dtype() == dtype ? x : cast(x, dtype); }

void require(bool holds, const std::string& why) {
  if (!holds) throw UserError(ErrorKind::argument, "adamw: " + why);
}

void check(const AdamWOptions& o) {
  require(std::isfinite(o.learning_rate) && o.learning_rate >= 0, "the learning rate must be a number >= 0");
  require(o.beta1 >= 0 && o.beta1 < 1 && o.beta2 >= 0 && o.beta2 < 1, "betas must lie in [0, 1)");
  require(o.epsilon >= 0, "epsilon must be >= 0");
  require(o.weight_decay >= 0, "weight decay must be >= 0");
}

void check_floats(const ParamTree& tree, const char* what) {
  for (const auto& [path, t] : tree)
    require(is_float(t.dtype()), std::string(what) + " of type " + std::string(name(t.dtype())) + ": \"" + path + "\"");
}

void check_same_paths(const ParamTree& parameters, const ParamTree& other, const char* what) {
  require(parameters.size() == other.size(),
          std::to_string(other.size()) + " " + what + " for " + std::to_string(parameters.size()) + " parameters");
  auto it = other.begin();
  for (const auto& [path, p] : parameters) {
    require(it->first == path,
            std::string(what) + " have \"" + it->first + "\" where parameters have \"" + path + "\"");
    require(it->second.shape() == p.shape(), std::string(what) + " of \"" + path + "\" have shape " +
                                                 it->second.shape().str() + ", the parameter " + p.shape().str());
    ++it;
  }
}

/// The numbers of one update. One slot each, shared by all parameters.
struct Numbers {
  LazyTensor keep1, take1, keep2, take2, rate, root, epsilon, shrink, apply;

  Numbers(const AdamWOptions& o, std::int64_t update, LazyTensor applied)
      : keep1(scalar(o.beta1)),
        take1(scalar(1 - o.beta1)),
        keep2(scalar(o.beta2)),
        take2(scalar(1 - o.beta2)),
        rate(scalar(o.learning_rate / (1 - std::pow(o.beta1, static_cast<double>(update))))),
        root(scalar(1 / std::sqrt(1 - std::pow(o.beta2, static_cast<double>(update))))),
        epsilon(scalar(o.epsilon)),
        shrink(scalar(1 - o.learning_rate * o.weight_decay)),
        apply(std::move(applied)) {}

  LazyTensor chosen(const LazyTensor& now, const LazyTensor& before) const {
    return apply.defined() ? where(apply, now, before) : now;
  }
};

}  // namespace

std::vector<LazyTensor> AdamWState::tensors_with(const ParamTree& parameters) const {
  std::vector<LazyTensor> all;
  all.reserve(first.size() * 3);
  for (const ParamTree* tree : {&first, &second, &parameters})
    for (const auto& [path, tensor] : *tree) all.push_back(tensor);
  return all;
}

AdamWState adamw_state(const ParamTree& parameters) {
  check_floats(parameters, "a parameter");
  std::vector<LazyTensor> first, second;
  for (const auto& [path, p] : parameters) {
    first.push_back(Tensor::zeros(p.shape(), moment_type(p)));
    second.push_back(Tensor::zeros(p.shape(), moment_type(p)));
  }
  return {parameters.with(std::move(first)), parameters.with(std::move(second)), 0};
}

std::vector<LazyTensor> AdamWStep::roots(std::vector<LazyTensor> others) const {
  // One parameter after the other: what is made from the same gradient is one step then, and reads it once.
  others.reserve(others.size() + 3 * parameters.size());
  auto first = state.first.begin(), second = state.second.begin();
  for (const auto& [path, p] : parameters) {
    others.push_back((first++)->second);
    others.push_back((second++)->second);
    others.push_back(p);
  }
  return others;
}

AdamWStep adamw(const ParamTree& parameters, const ParamTree& gradients, const AdamWState& state,
                const AdamWOptions& options, const LazyTensor& apply) {
  check(options);
  check_floats(parameters, "a parameter");
  check_floats(gradients, "a gradient");
  require(!apply.defined() || (apply.dtype() == DType::boolean && apply.rank() == 0), "apply must be one bool");
  check_same_paths(parameters, gradients, "gradients");
  check_same_paths(parameters, state.first, "first moments");
  check_same_paths(parameters, state.second, "second moments");
  const Numbers n(options, state.updates + 1, apply);
  std::vector<LazyTensor> p_out, m_out, v_out;
  auto grad = gradients.begin();
  auto first = state.first.begin(), second = state.second.begin();
  for (const auto& [path, parameter] : parameters) {
    const DType dtype = moment_type(parameter);
    const LazyTensor p = as_type(parameter, dtype), g = as_type((grad++)->second, dtype);
    const LazyTensor &m = (first++)->second, &v = (second++)->second;
    const LazyTensor m2 = m * n.keep1 + g * n.take1, v2 = v * n.keep2 + square(g) * n.take2;
    const LazyTensor p2 = p * n.shrink - n.rate * (m2 / (sqrt(v2) * n.root + n.epsilon));
    m_out.push_back(n.chosen(m2, m));
    v_out.push_back(n.chosen(v2, v));
    p_out.push_back(n.chosen(as_type(p2, parameter.dtype()), parameter));
  }
  return {parameters.with(std::move(p_out)),
          {state.first.with(std::move(m_out)), state.second.with(std::move(v_out)), state.updates + 1}};
}

LazyTensor global_norm(const ParamTree& gradients) {
  LazyTensor total;
  for (const auto& [path, g] : gradients) {
    const LazyTensor part = sum(square(as_type(g, DType::f32)));
    total = total.defined() ? total + part : part;
  }
  return total.defined() ? sqrt(total) : zeros({});
}

Clipped clip_by_global_norm(const ParamTree& gradients, double max_norm) {
  if (std::isnan(max_norm)) throw UserError(ErrorKind::argument, "clip_by_global_norm: the norm is not a number");
  const LazyTensor norm = global_norm(gradients);
  if (max_norm <= 0) return {gradients, norm};
  const LazyTensor factor = minimum(scalar(max_norm) / (norm + 1e-6), 1.0);
  std::vector<LazyTensor> clipped;
  for (const auto& [path, g] : gradients) clipped.push_back(as_type(g, DType::f32) * factor);
  return {gradients.with(std::move(clipped)), norm};
}

}  // namespace metal_candle
