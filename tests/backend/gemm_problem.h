// Problems for the GEMM, run job by job as threads might, and checked element for element: matrices of any type and
// strides whose gaps hold what must not matter, and a plain f64 product.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "backend/cpu/gemm/gemm.h"

namespace metal_candle::cpu::gemm_test {

using std::int64_t;

inline std::size_t bytes_of(GemmType t) { return t == GemmType::f64 ? 8 : t == GemmType::f32 ? 4 : 2; }

// Independent conversions, by arithmetic rather than by bits.
inline double read_element(GemmType t, const void* p) {
  if (t == GemmType::f64) {
    double d;
    std::memcpy(&d, p, 8);
    return d;
  }
  if (t == GemmType::f32) {
    float f;
    std::memcpy(&f, p, 4);
    return f;
  }
  std::uint16_t u;
  std::memcpy(&u, p, 2);
  if (t == GemmType::bf16) return std::bit_cast<float>(static_cast<std::uint32_t>(u) << 16);
  const int e = (u >> 10) & 31, f = u & 1023;
  const double v = e == 0 ? std::ldexp(f, -24) : e == 31 ? (f ? NAN : INFINITY) : std::ldexp(1024 + f, e - 25);
  return u & 0x8000 ? -v : v;
}

/// Rounds to nearest even by trying: scale to integers of the type's last bit.
inline void write_element(GemmType t, double x, void* p) {
  if (t == GemmType::f64) {
    std::memcpy(p, &x, 8);
    return;
  }
  const auto f = static_cast<float>(x);
  if (t == GemmType::f32) {
    std::memcpy(p, &f, 4);
    return;
  }
  int e;
  std::frexp(f, &e);
  const int digits = t == GemmType::bf16 ? 8 : 11, least = t == GemmType::bf16 ? -133 : -24;
  const int last = std::max(e - digits, least);
  const double r = std::ldexp(std::nearbyint(std::ldexp(static_cast<double>(f), -last)), last);
  std::uint16_t u;
  if (t == GemmType::bf16) {
    u = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(r)) >> 16);
  } else if (std::abs(r) < std::ldexp(1, -14)) {
    u = static_cast<std::uint16_t>(std::ldexp(std::abs(r), 24));
  } else if (std::abs(r) > 65504) {
    u = 0x7c00;
  } else {
    const int exponent = std::ilogb(r);
    u = static_cast<std::uint16_t>(((exponent + 15) << 10) + static_cast<int>(std::ldexp(std::abs(r), 10 - exponent)) -
                                   1024);
  }
  if (t == GemmType::f16 && std::signbit(r)) u |= 0x8000;
  std::memcpy(p, &u, 2);
}

inline std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

struct Matrix {
  GemmType type;
  int64_t rows, cols, row_stride, col_stride, batch, batch_stride;
  int64_t first = 0;  // where element 0, 0 lies
  std::vector<char> bytes;

  /// same_row, same_col, same_all: what `expand` makes, one row, column or element that is read again and again.
  /// overlapping: rows that begin one after the other, as windows do. backwards: negative strides.
  enum Order { by_rows, by_cols, scattered, same_row, same_col, same_all, overlapping, backwards };
  Matrix(GemmType t, int64_t r, int64_t c, std::uint64_t seed, Order order = by_rows, int64_t pad = 0,
         int64_t batches = 1)
      : type(t), rows(r), cols(c), batch(batches) {
    row_stride = order == by_rows ? c + pad : order == by_cols ? 1 : 3 * (c + pad);
    col_stride = order == by_rows ? 1 : order == by_cols ? r + pad : 3;
    batch_stride = (order == by_cols ? (r + pad) * c : order == by_rows ? (c + pad) * r : 3 * (c + pad) * r) + 5;
    if (order >= same_row) set_unusual_strides(order, pad);
    bytes.resize(static_cast<std::size_t>(batch_stride * batches + 1) * bytes_of(t));
    // What lies between the elements must never matter.
    std::memset(bytes.data(), 0xff, bytes.size());
    for (int64_t b = 0; b < batches; ++b)
      for (int64_t i = 0; i < r; ++i)
        for (int64_t j = 0; j < c; ++j) {
          const double u =
              static_cast<double>(mix(seed * 1000003 + static_cast<std::uint64_t>((b * 4099 + i) * 8191 + j)) >> 11) *
              0x1p-53;
          write_element(t, 2 * u - 1, at(b, i, j));
        }
  }
  void set_unusual_strides(Order order, int64_t pad) {
    row_stride = order == same_col ? 1 + pad : order == overlapping ? 1 : order == backwards ? -(cols + pad) : 0;
    col_stride = order == same_row ? 1 + pad : order == overlapping ? 1 : order == backwards ? -1 : 0;
    batch_stride = rows * std::abs(row_stride) + cols * std::abs(col_stride) + 5;
    if (order == backwards) first = batch_stride - 5;
  }
  char* at(int64_t b, int64_t i, int64_t j) {
    return bytes.data() +
           static_cast<std::size_t>(first + b * batch_stride + i * row_stride + j * col_stride) * bytes_of(type);
  }
  double value(int64_t b, int64_t i, int64_t j) { return read_element(type, at(b, i, j)); }
  MatrixRef ref() const {
    return {bytes.data() + static_cast<std::size_t>(first) * bytes_of(type), row_stride, col_stride};
  }
};

inline std::vector<char> packed(const Matrix& b) {
  const GemmShape shape{0, b.cols, b.rows, b.type};
  std::vector<char> out(packed_b_bytes(shape) + 64, char(0x7f));
  for (int64_t p = 0; p < packed_b_panels(shape); ++p) pack_b(shape, b.ref(), out.data(), p, p + 1);
  return out;
}

inline void run_all(const GemmArgs& args) {
  const GemmTiling t = plan_gemm(args);
  std::vector<char> scratch(t.scratch_bytes + 64, char(0xff));
  char* const base = scratch.data() + 3;  // no alignment promised
  std::memset(base + t.scratch_bytes, 0x5a, 8);
  // One scratch for all jobs, in an order that leaves some copies to the next job and some not.
  int64_t before = -1;
  for (int64_t half : {1, 0})
    for (int64_t job = t.jobs; job-- > 0;) {
      if (job % 3 / 2 != half) continue;
      run_gemm_job(args, t, job, base, before);
      before = job;
    }
  for (int i = 0; i < 8; ++i) ASSERT_EQ(base[t.scratch_bytes + static_cast<std::size_t>(i)], 0x5a) << "scratch overrun";
}

struct Case {
  int64_t m, n, k, k2 = 0, batch = 1;
  Matrix::Order a_order = Matrix::by_rows, b_order = Matrix::by_rows;
  bool pack = false, pack2 = false, shared_b = false, shared_a = false, sink = false;
  int64_t pad = 0;
  GemmType c_type = GemmType::f32;
};

struct Collected {
  std::vector<double> c;
  std::vector<int> visits;
  int64_t m, n;
  bool is_double;
  std::vector<char> asked = std::vector<char>(visits.size());  // by the fetch
};

inline void ask(void* user, const GemmTile& t) {
  auto& to = *static_cast<Collected*>(user);
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t c = 0; c < t.cols; ++c)
      to.asked.at(static_cast<std::size_t>((t.batch * to.m + t.row0 + r) * to.n + t.col0 + c)) = 1;
}

inline void collect(void* user, const GemmTile& t) {
  auto& to = *static_cast<Collected*>(user);
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t c = 0; c < t.cols; ++c) {
      const auto at = static_cast<std::size_t>((t.batch * to.m + t.row0 + r) * to.n + t.col0 + c);
      const int64_t i = r * t.ld + c;
      to.c[at] = to.is_double ? static_cast<const double*>(t.data)[i] : static_cast<const float*>(t.data)[i];
      to.visits[at] += to.asked[at] ? 1 : 100;  // announced before
    }
}

inline void check(GemmType type, const Case& q) {
  const std::string what = std::string(gemm_isa_name()) + " type " + std::to_string(static_cast<int>(type)) + " m" +
                           std::to_string(q.m) + " n" + std::to_string(q.n) + " k" + std::to_string(q.k) + "+" +
                           std::to_string(q.k2) + " batch " + std::to_string(q.batch) + " orders " +
                           std::to_string(q.a_order) + std::to_string(q.b_order) + (q.pack ? " packed" : "") +
                           (q.sink ? " sink" : "") + " c " + std::to_string(static_cast<int>(q.c_type));
  Matrix a(type, q.m, q.k, 1, q.a_order, q.pad, q.shared_a ? 1 : q.batch);
  Matrix b(type, q.k, q.n, 2, q.b_order, q.pad, q.shared_b || q.pack ? 1 : q.batch);
  Matrix a2(type, q.m, q.k2, 3, q.a_order, q.pad), b2(type, q.k2, q.n, 4, q.b_order, q.pad);
  const std::vector<char> b_pack = q.pack ? packed(b) : std::vector<char>{};
  const std::vector<char> b2_pack = q.pack2 ? packed(b2) : std::vector<char>{};
  GemmArgs g;
  g.m = q.m, g.n = q.n, g.type = type, g.batch = q.batch;
  g.segments[0] = {a.ref(), b.ref(), q.pack, q.k, a.batch > 1 ? a.batch_stride : 0, b.batch > 1 ? b.batch_stride : 0};
  g.segments[1] = {a2.ref(), b2.ref(), q.pack2, q.k2, 0, 0};
  if (q.pack) g.segments[0].b = {b_pack.data(), 0, 0};
  if (q.pack2) g.segments[1].b = {b2_pack.data(), 0, 0};
  const GemmType c_type = type == GemmType::f64 && q.c_type == GemmType::f32 ? GemmType::f64 : q.c_type;
  Matrix c(c_type, q.m, q.n, 5, Matrix::by_rows, q.pad, q.batch);
  const std::vector<char> before = c.bytes;
  g.c = c.bytes.data(), g.c_type = c_type, g.c_row_stride = c.row_stride, g.c_batch = c.batch_stride;
  const auto count = static_cast<std::size_t>(q.batch * q.m * q.n);
  Collected got{std::vector<double>(count), std::vector<int>(count), q.m, q.n, type == GemmType::f64};
  if (q.sink) g.sink = &collect, g.fetch = &ask, g.user = &got;
  run_all(g);

  const double step = type == GemmType::f64 ? 0x1p-52 : 0x1p-23;
  const double store = q.sink || bytes_of(c_type) >= 4 ? 0 : c_type == GemmType::bf16 ? 0x1p-8 : 0x1p-11;
  std::vector<char> expected = before;
  for (int64_t e = 0; e < q.batch; ++e)
    for (int64_t i = 0; i < q.m; ++i)
      for (int64_t j = 0; j < q.n; ++j) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < q.k; ++k) {
          const double p = a.value(a.batch > 1 ? e : 0, i, k) * b.value(b.batch > 1 ? e : 0, k, j);
          sum += p, size += std::abs(p);
        }
        for (int64_t k = 0; k < q.k2; ++k) {
          const double p = a2.value(0, i, k) * b2.value(0, k, j);
          sum += p, size += std::abs(p);
        }
        const auto at = static_cast<std::size_t>((e * q.m + i) * q.n + j);
        const double y = q.sink ? got.c[at] : c.value(e, i, j);
        // Roundings of products that are all the same do not cancel.
        const double links = static_cast<double>(q.k + q.k2) + 4;
        const double chain = std::max(q.a_order, q.b_order) >= Matrix::same_row ? links / 2 : std::sqrt(links);
        ASSERT_NEAR(y, sum, step * size * chain + store * std::abs(sum) + (store > 0 ? 1e-7 : 0))
            << what << " at " << e << "," << i << "," << j;
        if (q.sink) ASSERT_EQ(got.visits[at], 1) << what;
        else std::memcpy(expected.data() + (c.at(e, i, j) - c.bytes.data()), c.at(e, i, j), bytes_of(c_type));
      }
  ASSERT_EQ(std::memcmp(expected.data(), c.bytes.data(), expected.size()), 0) << what << ": wrote outside of C";
}

}  // namespace metal_candle::cpu::gemm_test
