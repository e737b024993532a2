#include "tests/autograd/gradcheck.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "metal_candle/autograd.hpp"
#include "ops/table.h"
#include "tests/support/reference.h"
#include "tests/support/samples.h"

namespace metal_candle::test {
namespace {

using Values = std::vector<std::vector<double>>;

Tensors floats(const Tensors& outputs) {
  Tensors result;
  for (const LazyTensor& y : outputs)
    if (y.dtype() == DType::f64) result.push_back(y);
  return result;
}

Values values_of(const Tensors& tensors) {
  Values values;
  for (const LazyTensor& t : tensors) values.push_back(reference(t));
  return values;
}

struct Difference {
  double slope = 0, noise = 0;  // and how much of it rounding can be
};
Difference difference(const Values& high, const Values& low, const Values& weights, double step) {
  Difference d;
  for (std::size_t k = 0; k < high.size(); ++k) {
    for (std::size_t i = 0; i < high[k].size(); ++i) {
      if (high[k][i] == low[k][i]) continue;  // also where both are infinite
      const double change = high[k][i] - low[k][i];
      d.slope += weights[k][i] * change / step;
      d.noise += std::abs(weights[k][i]) * (std::abs(high[k][i]) + 1e-3) * 1e-15 / step;
    }
  }
  return d;
}

// Inputs may have been recorded from one another; what is varied must stand alone.
Tensors as_data(const Tensors& inputs) {
  Tensors result;
  for (const LazyTensor& x : inputs)
    result.push_back(x.is_evaluated() || x.op_name() == "scalar" ? x : tensor_of(reference(x), x.shape(), x.dtype()));
  return result;
}

bool varies(const LazyTensor& x) { return x.dtype() == DType::f64 && x.op_name() != "scalar"; }

Tensors weights_for(const Tensors& outputs) {
  Samples random(DType::f64, 7);
  Tensors weights;
  for (const LazyTensor& y : outputs) weights.push_back(random.uniform(y.shape(), 0.5, 1.5));
  return weights;
}

}  // namespace

std::vector<const OpDef*> differentiable() {
  std::vector<const OpDef*> result;
  for (const OpDef* op : ops::all())
    if (!op->vjp.none() && op->samples && op != &ops::identity_def) result.push_back(op);
  return result;
}

Function call_of(const OpDef& op, const Attrs& attrs) {
  return [&op, attrs](const Tensors& inputs) {
    Tensors outputs = record_all(op, inputs, attrs);
    // Infinite in ignored rows, where no difference can be taken; its derivative is part of the gradient's.
    if (&op == &ops::linear_cross_entropy_def) outputs.erase(outputs.begin() + 1);
    return outputs;
  };
}

Function gradient_of(const Function& f) {
  return [f](const Tensors& inputs) {
    const Tensors outputs = floats(f(inputs));
    Tensors varied;
    std::copy_if(inputs.begin(), inputs.end(), std::back_inserter(varied), varies);
    return vjp(outputs, weights_for(outputs), varied);
  };
}

void check_gradients(const Function& f, const Tensors& given, const std::string& what) {
  const Tensors inputs = as_data(given);
  const Tensors outputs = floats(f(inputs));
  if (outputs.empty()) return;
  const Tensors weights = weights_for(outputs);
  Tensors varied;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!varies(inputs[i])) continue;
    varied.push_back(inputs[i]);
    places.push_back(i);
  }
  if (varied.empty()) return;
  const Values w = values_of(weights), gradients = values_of(vjp(outputs, weights, varied));

  for (std::size_t v = 0; v < varied.size(); ++v) {
    const std::vector<double> x = values_of({varied[v]})[0];
    ASSERT_EQ(gradients[v].size(), x.size()) << what;
    const std::size_t stride = x.size() / 24 + 1;  // of a large input, some
    for (std::size_t j = 0; j < x.size(); j += stride) {
      if (!std::isfinite(x[j])) continue;
      const double step = 1e-5 * std::max(std::abs(x[j]), 1e-2);
      const auto at = [&](double value) {
        std::vector<double> moved = x;
        moved[j] = value;
        Tensors all = inputs;
        all[places[v]] = tensor_of(moved, varied[v].shape(), DType::f64);
        return values_of(floats(f(all)));
      };
      const double high = x[j] + step, low = x[j] - step;
      const Difference d = difference(at(high), at(low), w, high - low);
      const double tolerance = 1e-5 * std::max(std::abs(d.slope), std::abs(gradients[v][j])) + 8 * d.noise + 1e-10;
      ASSERT_NEAR(gradients[v][j], d.slope, tolerance)
          << what << ": input " << places[v] << " of shape " << varied[v].shape().str() << ", element " << j << " at "
          << x[j];
    }
  }
}

}  // namespace metal_candle::test
