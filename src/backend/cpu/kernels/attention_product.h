// Small products over tiles in cache, on the GEMM's micro kernels (so an element is the same chain of multiply-adds),
// and tiles read from tensors of any float type.
#pragma once

#include <cstdint>

#include "metal_candle/dtype.hpp"

namespace metal_candle::cpu::attention {

/// Whether this machine has products over pairs of bf16, as wide as those over f32.
bool multiplies_pairs();

/// C[m, n] (+)= A[m, k]·B[k, n], summed in f32. A and B are f32, or units of the same size that hold a pair of bf16
/// along k; k and strides count units. n is a multiple of 16; columns of B and C are contiguous.
struct Product {
  const float* a;
  std::int64_t a_row, a_step;
  const float* b;
  std::int64_t b_step;
  float* c;
  std::int64_t c_row;
  std::int64_t m, n, k;
  bool accumulate = false;
  bool pairs = false;
  bool tall = false;              // two vectors of columns and as many rows as registers hold: for long chains
  bool b_in_rows = false;         // with `tall` and `pairs`: B is rows of bf16, two a step, b_step / 2 apart
  const float* next_a = nullptr;  // with `tall`: rows that are read soon, asked for on the way
};
void multiply(const Product& p);
/// Rows that a tall product takes at a time.
std::int64_t tall_rows(bool pairs);

/// n rows of d elements, widened to f32 [n][width], zeros behind d.
struct Rows {
  const char* data;
  DType dtype;
  std::int64_t stride, component;  // elements
  std::int64_t n, d;
};
void load(const Rows& rows, float* target, std::int64_t width);
/// The same without widening: n rows of d bf16 as [n][width] bf16.
void load_halves(const Rows& rows, float* target, std::int64_t width);
/// Asks for rows that will be loaded soon.
void prefetch(const Rows& rows);
/// The same, a few rows at a time between other work.
class Ahead {
 public:
  void clear() { count_ = at_ = 0; }
  void add(const Rows& rows);
  std::int64_t left() const;
  void ask(std::int64_t rows);

 private:
  Rows rows_[4];  // those still to be asked for
  int count_ = 0, at_ = 0;
};
/// n values rounded to `dtype`.
void store(const float* source, std::int64_t n, DType dtype, void* target);

}  // namespace metal_candle::cpu::attention
