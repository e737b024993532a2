// Small helpers over the public API that the sections share.
#pragma once

#include <cmath>
#include <memory>
#include <metal_candle/metal_candle.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace bench {

namespace mc = metal_candle;

/// Random values of about the given size, evaluated; the same in every run.
inline mc::Tensor random_tensor(const mc::Shape& shape, mc::DType dtype = mc::DType::f32, double scale = 1) {
  static std::uint32_t seed = 1;
  std::minstd_rand random(++seed);
  std::vector<float> values(static_cast<std::size_t>(shape.numel()));
  for (float& v : values) {
    // The sum of three uniform numbers is close enough to a normal one.
    double sum = 0;
    for (int i = 0; i < 3; ++i) sum += static_cast<double>(random()) / 1073741824.0 - 1.0;
    v = static_cast<float>(sum * scale);
  }
  const mc::Tensor exact = mc::Tensor::from(values, shape);
  return dtype == mc::DType::f32 ? exact : mc::cast(exact, dtype).eval();
}

/// A weight that stays as it is, [out, in] as files of models have it: y = x·wᵀ.
inline mc::Tensor frozen_weight(std::int64_t in, std::int64_t out, mc::DType dtype) {
  mc::Tensor w = random_tensor({out, in}, dtype, 1 / std::sqrt(static_cast<double>(in)));
  w.freeze();
  return w;
}

inline std::string dtype_name(mc::DType dtype) { return std::string(mc::name(dtype)); }

/// The kernels that ran in `work`, each once, in order.
template <class Work>
std::string kernels_of(const Work& work) {
  const mc::Trace trace;
  work();
  std::string out;
  std::set<std::string> seen;
  for (const mc::Trace::Event& e : trace.events())
    if ((e.bytes > 0 || e.flops > 0) && seen.insert(e.name).second) out += (out.empty() ? "" : ", ") + e.name;
  return out;
}

}  // namespace bench
