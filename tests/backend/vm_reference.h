// A kernel program computed the slow way: one element at a time, in double, with the C++ library's functions. Results
// of f32 values are rounded to f32 after every op, so that rounding ops see what the kernels see.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "compiler/kernel_program.h"
#include "metal_candle/elementwise.hpp"

namespace metal_candle::reference {

struct Array {
  DType dtype = DType::f32;
  std::vector<unsigned char> bytes;
  Array() = default;
  Array(DType d, std::int64_t n) : dtype(d), bytes(static_cast<std::size_t>(n) * size_of(d)) {}
  std::int64_t size() const { return static_cast<std::int64_t>(bytes.size() / size_of(dtype)); }
  template <class T>
  T raw(std::int64_t i) const {
    T x;
    std::memcpy(&x, bytes.data() + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
    return x;
  }
  template <class T>
  void put(std::int64_t i, T x) {
    std::memcpy(bytes.data() + static_cast<std::size_t>(i) * sizeof(T), &x, sizeof(T));
  }
  double get(std::int64_t i) const {
    switch (dtype) {
      case DType::f32: return raw<float>(i);
      case DType::f64: return raw<double>(i);
      case DType::f16: return static_cast<float>(raw<f16>(i));
      case DType::bf16: return static_cast<float>(raw<bf16>(i));
      case DType::i8: return raw<std::int8_t>(i);
      case DType::u8:
      case DType::boolean: return raw<std::uint8_t>(i);
      case DType::i32: return raw<std::int32_t>(i);
      case DType::i64: return static_cast<double>(raw<std::int64_t>(i));
    }
    return 0;
  }
  void set(std::int64_t i, double x) {
    const auto whole = std::isfinite(x) ? static_cast<std::int64_t>(x) : 0;
    switch (dtype) {
      case DType::f32: return put(i, static_cast<float>(x));
      case DType::f64: return put(i, x);
      case DType::f16: return put(i, f16(static_cast<float>(x)));
      case DType::bf16: return put(i, bf16(static_cast<float>(x)));
      case DType::i8: return put(i, static_cast<std::int8_t>(whole));
      case DType::u8: return put(i, static_cast<std::uint8_t>(whole));
      case DType::boolean: return put(i, static_cast<std::uint8_t>(x != 0));
      case DType::i32: return put(i, static_cast<std::int32_t>(whole));
      case DType::i64: return put(i, whole);
    }
  }
};

// The functions that op bodies call, on double.
namespace body {
inline double select(bool m, double a, double b) { return m ? a : b; }
inline double max(double a, double b) { return std::isnan(a) || std::isnan(b) ? a + b : a > b ? a : b; }
inline double min(double a, double b) { return std::isnan(a) || std::isnan(b) ? a + b : a < b ? a : b; }
inline double abs(double x) { return std::fabs(x); }
inline double round(double x) { return std::nearbyint(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline double sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }
inline double silu_grad(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }
inline double gelu_tanh_grad(double x) {
  const double c0 = 1.5957691216057308, c1 = 0.07135481627260025, s = sigmoid(x * (c0 + c1 * x * x));
  return s + x * s * (1 - s) * (c0 + 3 * c1 * x * x);
}
using std::ceil, std::cos, std::erf, std::exp, std::expm1, std::floor, std::fma, std::log, std::log1p, std::pow,
    std::sin, std::sqrt, std::tanh;

inline double apply(Elementwise op, double x, double z) {
  using T = double;
  switch (op) {
    // clang-format off
#define MC_UNARY(name, domain, cost, body, ...) case Elementwise::name: return body;
#define MC_BINARY(name, domain, cost, body, ...) case Elementwise::name: return body;
#define MC_COMPARE(name, body) case Elementwise::name: return body;
#define MC_LOGIC(name, body) \
  case Elementwise::name: return [](int x, int z) { return static_cast<double>(body); }(static_cast<int>(x), static_cast<int>(z));
#include "metal_candle/elementwise.def"
    // clang-format on
    case Elementwise::kCount: break;
  }
  return 0;
}
}  // namespace body

inline double rounded(RegType type, double x) { return type == RegType::f32 ? static_cast<float>(x) : x; }

inline double narrowed(DType to, double x) {
  Array one(to, 1);
  if (!is_float(to) && to != DType::boolean) x = std::trunc(x);
  one.set(0, x);
  return one.get(0);
}

class Interpreter {
 public:
  Interpreter(const KernelProgram& p, std::vector<Array>& buffers, const std::vector<double>& slots)
      : p_(p), buffers_(buffers), slots_(slots), values_(p.values.size()) {}

  void run() {
    for (const KValue& v : p_.values) {
      if (v.op < KOp::col_sum) continue;
      const std::int64_t n = p_.batch * p_.col_chunks * p_.stages[v.stage].cols;
      for (std::int64_t i = 0; i < n; ++i) out(v).set(p_.accesses[v.access].offset + i, identity(v.op));
      sums_.emplace_back(n, identity(v.op));
    }
    for (row_ = 0; row_ < p_.rows; ++row_) {
      for (const KStage& stage : p_.stages) {
        for (int v = stage.begin; v < stage.end; ++v) evaluate(v, stage.cols);
      }
    }
    int k = 0;
    for (const KValue& v : p_.values) {
      if (v.op < KOp::col_sum) continue;
      for (std::size_t i = 0; i < sums_[k].size(); ++i) out(v).set(p_.accesses[v.access].offset + i, sums_[k][i]);
      ++k;
    }
  }
  bool index_error() const { return error_; }

 private:
  Array& out(const KValue& v) { return buffers_[p_.accesses[v.access].buffer]; }
  double at(int v, std::int64_t c) const { return values_[v].size() == 1 ? values_[v][0] : values_[v][c]; }

  std::int64_t address(const KAccess& a, std::int64_t c) {
    std::int64_t at_ = a.offset + c * a.col_stride, row = row_;
    for (int d = static_cast<int>(p_.row_dims.size()) - 1; d >= 0; --d) {
      at_ += row % p_.row_dims[d] * a.row_strides[d];
      row /= p_.row_dims[d];
    }
    if (a.gather < 0) return at_;
    auto index = static_cast<std::int64_t>(at(a.gather, c));
    if (index < 0) index += a.gather_extent;
    if (index < 0 || index >= a.gather_extent) error_ = true, index = 0;
    return at_ + index * a.gather_stride;
  }

  static double identity(KOp op) {
    const double inf = std::numeric_limits<double>::infinity();
    switch (op) {
      case KOp::reduce_max:
      case KOp::col_max: return -inf;
      case KOp::reduce_min:
      case KOp::col_min: return inf;
      case KOp::reduce_prod:
      case KOp::col_prod: return 1;
      default: return 0;
    }
  }
  static double join(KOp op, double a, double b) {
    switch (op) {
      case KOp::reduce_max:
      case KOp::col_max: return body::max(a, b);
      case KOp::reduce_min:
      case KOp::col_min: return body::min(a, b);
      case KOp::reduce_prod:
      case KOp::col_prod: return a * b;
      default: return a + b;
    }
  }

  void evaluate(int i, std::int64_t cols) {
    const KValue& v = p_.values[i];
    if (v.op >= KOp::reduce_sum && v.op <= KOp::reduce_argmin) return reduce(i, cols);
    if (v.op >= KOp::col_sum) return accumulate(v, cols);
    const std::int64_t n = v.op == KOp::store ? (p_.values[v.a].full ? cols : 1) : v.full ? cols : 1;
    if (v.op != KOp::store) values_[i].assign(n, 0);
    for (std::int64_t c = 0; c < n; ++c) {
      if (v.op == KOp::store) out(v).set(address(p_.accesses[v.access], c), at(v.a, c));
      else values_[i][c] = rounded(v.type, element(v, c));
    }
  }

  double element(const KValue& v, std::int64_t c) {
    switch (v.op) {
      case KOp::load: return out(v).get(address(p_.accesses[v.access], c));
      case KOp::literal: return v.type <= RegType::f64 ? v.literal : static_cast<double>(v.literal_int);
      case KOp::slot: return slots_[v.slot];
      case KOp::map: return body::apply(static_cast<Elementwise>(v.code), at(v.a, c), v.b < 0 ? 0 : at(v.b, c));
      case KOp::select: return at(v.a, c) != 0 ? at(v.b, c) : at(v.c, c);
      case KOp::logical_not: return at(v.a, c) == 0;
      case KOp::cast: return narrowed(v.to, at(v.a, c));
      case KOp::row_index: return static_cast<double>(row_ / v.imm0 % v.imm1);
      case KOp::col_index: return static_cast<double>(c);
      default: return std::nan("");
    }
  }

  void reduce(int i, std::int64_t cols) {
    const KValue& v = p_.values[i];
    if (v.op < KOp::reduce_argmax) {
      double total = identity(v.op);
      for (std::int64_t c = 0; c < cols; ++c) total = join(v.op, total, at(v.a, c));
      values_[i] = {rounded(v.type, total)};
      return;
    }
    std::int64_t best = 0;
    for (std::int64_t c = 1; c < cols; ++c) {
      const double x = at(v.a, c), y = at(v.a, best);
      const bool better = v.op == KOp::reduce_argmax ? x > y : x < y;
      if (!std::isnan(y) && (better || std::isnan(x))) best = c;
    }
    values_[i] = {static_cast<double>(best)};
  }

  void accumulate(const KValue& v, std::int64_t cols) {
    int k = 0;
    for (const KValue* w = p_.values.data(); w != &v; ++w) k += w->op >= KOp::col_sum;
    const std::int64_t n = p_.rows / p_.batch, entry = row_ / n, chunk = row_ % n * p_.col_chunks / n;
    for (std::int64_t c = 0; c < cols; ++c) {
      double& sum = sums_[k][(entry * p_.col_chunks + chunk) * cols + c];
      sum = join(v.op, sum, at(v.a, c));
    }
  }

  const KernelProgram& p_;
  std::vector<Array>& buffers_;
  const std::vector<double>& slots_;
  std::vector<std::vector<double>> values_, sums_;
  std::int64_t row_ = 0;
  bool error_ = false;
};

}  // namespace metal_candle::reference
