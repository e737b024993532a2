// Bare matrix products, the ceilings of everything that multiplies: oneDNN's and our own GEMM, nothing around them.
#pragma once

#include <cstdint>
#include <functional>
#include <metal_candle/dtype.hpp>
#include <string>

namespace bench {

/// C[m,n] = A[m,k]·B[k,n], `batch` times.
struct Product {
  std::int64_t m = 0, n = 0, k = 0;
  metal_candle::DType dtype = metal_candle::DType::f32;  // of A, B and C; of i8, C is i32
  bool constant = false;                                 // B is packed beforehand, in whatever form is best
  bool a_transposed = false, b_transposed = false;       // as they lie in memory
  std::int64_t batch = 1;

  double flops() const { return 2.0 * static_cast<double>(m * n * k * batch); }
  std::string str() const;
};

/// Functions that compute the product once on all threads; they own their operands. oneDNN's is empty where this
/// build has no oneDNN.
std::function<void()> onednn_product(const Product& product);
std::function<void()> own_product(const Product& product);

/// The shape at which oneDNN reaches the highest rate, of several, tried once for each type.
const Product& best_onednn_shape(metal_candle::DType dtype);

}  // namespace bench
