// check_op: an op's samples in every mode, against its decomposition and against central differences.
#include "metal_candle/op_check.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "metal_candle/autograd.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/runtime.hpp"
#include "ops/samples.h"

namespace metal_candle {
namespace {

using Values = std::vector<std::vector<double>>;
using Function = std::function<Tensors(const Tensors&)>;

/// What rounding, and the step of a difference, may make of a result.
struct Precision {
  double eps, step, smallest_step, slope;
};
Precision precision_of(DType dtype) {
  return dtype == DType::f64 ? Precision{0x1p-52, 1e-5, 1e-7, 1e-5} : Precision{0x1p-23, 5e-3, 5e-4, 5e-3};
}

Values values_of(const Tensors& tensors) {
  eval(tensors);
  Values values;
  for (const LazyTensor& t : tensors) values.push_back(Tensor(t).to_f64());
  return values;
}

/// Inputs may have been recorded from one another; what is varied must stand alone.
Tensors as_data(const Tensors& inputs) {
  Tensors data;
  for (const LazyTensor& x : inputs) data.push_back(x.op_name() == "scalar" ? x : LazyTensor(x.eval()));
  return data;
}

/// The place of the first value that is another one; empty where all are the same, to rounding.
std::optional<std::size_t> first_other(const std::vector<double>& got, const std::vector<double>& want, double eps) {
  double norm = 0;
  for (const double v : want)
    if (std::isfinite(v)) norm = std::max(norm, std::abs(v));
  for (std::size_t i = 0; i < want.size(); ++i) {
    const bool same = got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i]));
    if (!same && !(std::abs(got[i] - want[i]) <= 1024 * eps * norm)) return i;
  }
  return {};
}

class Checker {
 public:
  Checker(const OpDef& op, const OpCheck& options)
      : op_(op), dtype_(options.dtype), precision_(precision_of(options.dtype)) {}

  std::string run() {
    const std::vector<ops::Sample> samples = ops::samples_of(op_, dtype_);
    if (samples.empty()) where_ = "", say("there are no samples");
    for (std::size_t i = 0; i < samples.size(); ++i) {
      where_ = ", sample " + std::to_string(i);
      try {
        check(samples[i]);
      } catch (const std::exception& e) {
        say(std::string("throws: ") + e.what());
      }
    }
    return complaints_;
  }

 private:
  void say(const std::string& what) { complaints_ += std::string(op_.name) + where_ + ": " + what + "\n"; }

  void check(const ops::Sample& sample) {
    const Tensors inputs = as_data(sample.inputs);
    const Function call = [&](const Tensors& in) { return record_all(op_, in, sample.attrs); };
    const Values want = values_of(call(inputs));
    const auto compare = [&](const std::string& mode, const Function& f) {
      const Tensors outputs = f(inputs);
      compare_types(mode, outputs, call(inputs));
      compare_values(mode, values_of(outputs), want);
    };
    {
      const EagerMode eager;
      compare("eagerly", call);
    }
    {
      const PassesOff plain;
      compare("with all passes off", call);
    }
    if (op_.decompose)
      compare("decomposed", [&](const Tensors& in) {
        const LiteralScope literal;
        return op_.decompose({op_, in, sample.attrs});
      });
    if (!op_.vjp.none()) check_gradients(call, inputs);
  }

  void compare_types(const std::string& mode, const Tensors& got, const Tensors& want) {
    if (got.size() != want.size()) throw UserError(ErrorKind::argument, mode + ", the number of results is another");
    for (std::size_t k = 0; k < got.size(); ++k)
      if (got[k].dtype() != want[k].dtype() || got[k].shape() != want[k].shape())
        throw UserError(ErrorKind::shape, mode + ", result " + std::to_string(k) + " is " +
                                              std::string(name(got[k].dtype())) + got[k].shape().str() + ", not " +
                                              std::string(name(want[k].dtype())) + want[k].shape().str());
  }

  void compare_values(const std::string& mode, const Values& got, const Values& want) {
    for (std::size_t k = 0; k < want.size(); ++k)
      if (const auto i = first_other(got[k], want[k], precision_.eps))
        say(mode + ", result " + std::to_string(k) + " at " + std::to_string(*i) + " is " + std::to_string(got[k][*i]) +
            ", planned " + std::to_string(want[k][*i]));
  }

  // The gradient of a weighted sum of all results, element by element.
  void check_gradients(const Function& call, const Tensors& inputs) {
    Tensors varied, weights;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i].dtype() == dtype_ && inputs[i].op_name() != "scalar") {
        varied.push_back(inputs[i]);
        places.push_back(i);
      }
    const Tensors outputs = floats(call(inputs));
    if (varied.empty() || outputs.empty()) return;
    ops::Samples random(dtype_, 7);
    for (const LazyTensor& y : outputs) weights.push_back(random.uniform(y.shape(), 0.5, 1.5));
    const Values w = values_of(weights), slopes = values_of(vjp(outputs, weights, varied));
    for (std::size_t v = 0; v < varied.size(); ++v) check_input(call, inputs, places[v], w, slopes[v]);
  }

  void check_input(const Function& call, const Tensors& inputs, std::size_t place, const Values& w,
                   const std::vector<double>& slopes) {
    const std::vector<double> x = Tensor(inputs[place]).to_f64();
    const std::size_t stride = x.size() / 24 + 1;  // of a large input, some
    for (std::size_t j = 0; j < x.size(); j += stride) {
      if (!std::isfinite(x[j])) continue;
      const auto moved = [&](double value) {
        std::vector<double> values = x;
        values[j] = value;
        Tensors all = inputs;
        all[place] = ops::tensor_of(values, inputs[place].shape(), dtype_);
        return std::pair(Tensor(all[place]).to_f64()[j], values_of(floats(call(all))));
      };
      const double step = std::max(precision_.step * std::abs(x[j]), precision_.smallest_step);
      const auto [high_x, high] = moved(x[j] + step);
      const auto [low_x, low] = moved(x[j] - step);
      double slope = 0, noise = 0;
      for (std::size_t k = 0; k < w.size(); ++k)
        for (std::size_t i = 0; i < w[k].size(); ++i) {
          if (high[k][i] == low[k][i]) continue;
          slope += w[k][i] * (high[k][i] - low[k][i]) / (high_x - low_x);
          noise += w[k][i] * (std::abs(high[k][i]) + 1e-3) * 4 * precision_.eps / (high_x - low_x);
        }
      const double allowed = precision_.slope * std::max(std::abs(slope), std::abs(slopes[j])) + 8 * noise + 1e-10;
      if (!(std::abs(slopes[j] - slope) <= allowed))
        return say("the gradient of input " + std::to_string(place) + " at " + std::to_string(j) + " is " +
                   std::to_string(slopes[j]) + ", differences show " + std::to_string(slope));
    }
  }

  Tensors floats(Tensors outputs) const {
    std::erase_if(outputs, [this](const LazyTensor& y) { return y.dtype() != dtype_; });
    return outputs;
  }

  const OpDef& op_;
  const DType dtype_;
  const Precision precision_;
  std::string where_, complaints_;
};

}  // namespace

std::string check_op(const OpDef& op, const OpCheck& options) {
  if (options.dtype != DType::f64 && options.dtype != DType::f32)
    throw UserError(ErrorKind::dtype, "check_op: samples are f64 or f32, not " + std::string(name(options.dtype)));
  return Checker(op, options).run();
}

}  // namespace metal_candle
