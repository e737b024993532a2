// Attention kernels, called directly. The oracle is a direct transcription of the definition, written here; gradients
// are checked in f64 against finite differences of that, and the f32 and 16-bit kernels against the f64 one. Memory
// that a kernel gets starts as NaN, tasks run in several orders, and results must be the same bytes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "attention_problem.h"
#include "backend/cpu/gemm/gemm.h"

namespace metal_candle::cpu::test {
namespace {

void expect_close(const Values& got, const Values& want, double tolerance, const char* what) {
  ASSERT_EQ(got.size(), want.size());
  double largest = 0;
  for (double x : want)
    if (std::isfinite(x)) largest = std::max(largest, std::abs(x));
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (got[i] == want[i]) continue;
    ASSERT_NEAR(got[i], want[i], tolerance * std::max(1.0, largest)) << what << " at " << i;
  }
}

double tolerance(DType t) { return t == DType::f64 ? 1e-12 : t == DType::f32 ? 3e-6 : t == DType::f16 ? 1e-3 : 8e-3; }

/// bf16 twice: with products over pairs, where this machine has them, and without.
struct Variant {
  DType dtype;
  bool dots = true;
  std::string str() const { return std::string(name(dtype)) + (dots ? "" : " without dot products"); }
};
template <class F>
void for_each_variant(F f) {
  for (const Variant v : {Variant{DType::f64}, {DType::f32}, {DType::bf16}, {DType::bf16, false}, {DType::f16}}) {
    set_gemm_isa(GemmIsa::best, v.dots);
    f(v);
  }
  set_gemm_isa(GemmIsa::best);
}

TEST(Attention, MatchesTheDefinition) {
  for_each_variant([](const Variant& variant) {
    const DType dtype = variant.dtype;
    for (Case c : cases()) {
      SCOPED_TRACE("case " + std::to_string(c.seed) + " " + variant.str());
      c.dtype = dtype;
      Problem p(c);
      const auto got = p.forward();
      const auto [out, lse] = p.expected(p.input_values());
      expect_close(got[0].values(), out, tolerance(dtype), "out");
      expect_close(got[1].values(), lse, dtype == DType::f64 ? 1e-12 : 3e-6, "lse");
      const auto again = p.forward(true);
      EXPECT_TRUE(got[0].same_bits(again[0]) && got[1].same_bits(again[1]));
      if (::testing::Test::HasFailure()) return;
    }
  });
}

/// A query's bits depend on its keys alone: not on the other queries of the call, or on other sequences.
TEST(Attention, ChunksGiveTheSameBits) {
  for (const std::int64_t window : {0, 50})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const std::int64_t t = 200;
      Case whole{.parts = {{t, t, t}}, .heads = 6, .key_heads = 2, .d = 32, .dv = 32, .window = window, .dtype = dtype};
      Problem p(whole);
      const auto want = p.forward();
      const auto token = static_cast<std::int64_t>(size_of(dtype)) * 6 * 32;
      for (const std::int64_t chunk : {1, 7, 64, 150})
        for (std::int64_t begin = 0; begin < t; begin += chunk) {
          const std::int64_t n = std::min(chunk, t - begin), seen = begin + n;
          // A neighbour in front, and a cache with room behind the keys in use.
          Case piece = whole;
          piece.parts = {{3, 5, 5}, {n, t + 20, seen}};
          piece.lengths = true;
          Problem part(piece);
          const auto copy = [&](int which, std::int64_t from, std::int64_t to, std::int64_t rows, std::int64_t width) {
            for (std::int64_t i = 0; i < rows * width; ++i)
              part.inputs[static_cast<std::size_t>(which)].set(
                  to * width + i, p.inputs[static_cast<std::size_t>(which)].get(from * width + i));
          };
          copy(0, begin, 3, n, 6 * 32);
          copy(1, 0, 5, t, 2 * 32);
          copy(2, 0, 5, t, 2 * 32);
          for (std::int64_t i = (5 + seen) * 64; i < (5 + t + 20) * 64; ++i)
            for (std::size_t which : {1u, 2u}) part.inputs[which].set(i, std::nan(""));
          const auto got = part.forward();
          ASSERT_EQ(0, std::memcmp(reinterpret_cast<const char*>(got[0].memory.data()) + 3 * token,
                                   reinterpret_cast<const char*>(want[0].memory.data()) + begin * token,
                                   static_cast<std::size_t>(n * token)))
              << "chunk " << chunk << " at " << begin;
        }
    }
}

TEST(Attention, StridedInputsAndUnreadOutputs) {
  Case c{.parts = {{70, 70, 70}, {70, 70, 70}}, .batched = true, .heads = 4, .key_heads = 2, .d = 16, .dv = 16};
  Problem p(c);
  const auto want = p.forward();
  const Array dout = p.random_dout();
  const auto want_grads = p.backward(dout, nullptr);
  for (std::size_t i = 0; i < 3; ++i) {  // as [b, h, t, d] in memory, then with the components apart
    Array& a = p.inputs[i];
    const Values v = a.values();
    const Shape s = a.shape;
    const std::int64_t step = i == 2 ? 2 : 1;
    a = Array(a.dtype, Shape{s.numel() * step + 1});
    a.offset = 1;
    a.shape = s;
    a.strides = Shape{s[1] * s[2] * s[3] * step, s[3] * step, s[1] * s[3] * step, step};
    for (std::int64_t b = 0, at = 0; b < s[0]; ++b)
      for (std::int64_t t = 0; t < s[1]; ++t)
        for (std::int64_t h = 0; h < s[2]; ++h)
          for (std::int64_t e = 0; e < s[3]; ++e, ++at)
            a.set(1 + b * a.strides[0] + t * a.strides[1] + h * a.strides[2] + e * step,
                  v[static_cast<std::size_t>(at)]);
  }
  const auto got = p.forward();
  EXPECT_TRUE(got[0].same_bits(want[0]) && got[1].same_bits(want[1]));
  const auto grads = p.backward(dout, nullptr);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(grads[i].same_bits(want_grads[i])) << i;
  for (unsigned skip = 1; skip < 8; ++skip) {
    const auto some = p.backward(dout, nullptr, false, skip);
    for (std::size_t i = 0; i < 3; ++i) {
      if (skip >> i & 1) continue;
      EXPECT_TRUE(some[i].same_bits(want_grads[i])) << skip << " " << i;
    }
  }
}

TEST(Attention, GradientsMatchFiniteDifferences) {
  for (Case c : cases()) {
    if (c.heads > 100 || c.d > 32) continue;
    SCOPED_TRACE("case " + std::to_string(c.seed));
    for (Part& p : c.parts) {  // smaller, of the same kind
      const std::int64_t cut = std::max<std::int64_t>(0, p.slots - 24);
      p = {std::min<std::int64_t>(p.queries, 12), p.slots - cut, std::max<std::int64_t>(0, p.used - cut)};
    }
    c.dtype = DType::f64;
    Problem p(c);
    const Array dout = p.random_dout(), dlse = p.random_dlse();
    const auto grads = p.backward(dout, &dlse);
    auto in = p.input_values();
    const Values g = dout.values(), gl = dlse.values();
    const auto loss = [&] {
      const auto [out, lse] = p.expected(in);
      double sum = std::inner_product(out.begin(), out.end(), g.begin(), 0.0);
      for (std::size_t i = 0; i < lse.size(); ++i)
        if (lse[i] > -kInf) sum += lse[i] * gl[i];
      return sum;
    };
    for (std::size_t which = 0; which < 3; ++which)
      for (std::size_t i = 0; i < in[which].size(); i += 1 + in[which].size() / 40) {
        const double x = in[which][i], h = 1e-5;
        in[which][i] = x + h;
        const double up = loss();
        in[which][i] = x - h;
        const double down = loss();
        in[which][i] = x;
        ASSERT_NEAR(grads[which].get(static_cast<std::int64_t>(i)), (up - down) / (2 * h), 2e-8)
            << which << " at " << i;
      }
    if (!c.bias_heads) continue;
    Values summed(in.back().size(), 0.0);  // over the heads and the batch that share a bias
    for (std::int64_t i = 0; i < grads[3].shape.numel(); ++i) {
      const std::int64_t plane = p.inputs.back().shape.numel() / c.bias_heads;
      const std::int64_t head = i / plane % c.heads;
      summed[static_cast<std::size_t>((c.bias_heads == 1 ? 0 : head) * plane + i % plane)] += grads[3].get(i);
    }
    for (std::size_t i = 0; i < summed.size(); i += 1 + summed.size() / 60) {
      const double x = in.back()[i], h = 1e-5;
      if (x == -kInf) continue;
      in.back()[i] = x + h;
      const double up = loss();
      in.back()[i] = x - h;
      const double down = loss();
      in.back()[i] = x;
      ASSERT_NEAR(summed[i], (up - down) / (2 * h), 2e-8) << "bias at " << i;
    }
  }
}

TEST(Attention, GradientsMatchThoseInF64) {
  for_each_variant([](const Variant& variant) {
    const DType dtype = variant.dtype;
    if (dtype == DType::f64) return;
    for (Case c : cases()) {
      SCOPED_TRACE("case " + std::to_string(c.seed) + " " + variant.str());
      c.dtype = dtype;
      Problem p(c);
      const Array dout = p.random_dout(), dlse = p.random_dlse();
      c.dtype = DType::f64;
      Problem exact(c);
      for (std::size_t i = 0; i < 3; ++i) exact.inputs[i] = Array(DType::f64, p.inputs[i].shape, p.inputs[i].values());
      const auto got = p.backward(dout, &dlse);
      const Array dlse64{DType::f64, dlse.shape, dlse.values()};
      const auto want = exact.backward({DType::f64, dout.shape, dout.values()}, &dlse64);
      for (std::size_t i = 0; i < got.size(); ++i)
        expect_close(got[i].values(), want[i].values(), 4 * tolerance(dtype),
                     i == 0   ? "dq"
                     : i == 1 ? "dk"
                     : i == 2 ? "dv"
                              : "dbias");
      const auto again = p.backward(dout, &dlse, true);
      for (std::size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(got[i].same_bits(again[i]));
      if (::testing::Test::HasFailure()) return;
    }
  });
}

/// Neither do gradients depend on the other sequences, although their number decides how the work is cut.
void compare_with_neighbours(DType dtype, std::int64_t heads) {
  Case one{
      .parts = {{130, 190, 190}}, .heads = heads, .key_heads = 1, .d = 16, .dv = 16, .window = 150, .dtype = dtype};
  Problem alone(one);
  one.parts.insert(one.parts.end(), {{3, 3, 3}, {600, 600, 600}, {1, 1, 1}});
  Problem many(one);
  for (std::size_t i = 0; i < 3; ++i)
    for (std::int64_t j = 0; j < alone.inputs[i].shape.numel(); ++j) many.inputs[i].set(j, alone.inputs[i].get(j));
  const Array dout = many.random_dout();
  Array first(dtype, alone.shape(130, heads, 16));
  for (std::int64_t j = 0; j < first.shape.numel(); ++j) first.set(j, dout.get(j));
  const auto want = alone.backward(first, nullptr), got = many.backward(dout, nullptr);
  for (std::size_t i = 0; i < 3; ++i)
    ASSERT_EQ(0, std::memcmp(got[i].memory.data(), want[i].memory.data(),
                             static_cast<std::size_t>(want[i].shape.numel()) * size_of(dtype)))
        << i;
}

TEST(Attention, GradientsDoNotDependOnNeighbours) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t heads : {3, 5, 130}) {
      SCOPED_TRACE(std::string(name(dtype)) + ", heads " + std::to_string(heads));
      compare_with_neighbours(dtype, heads);
    }
}

TEST(Attention, ReportsBadOffsets) {
  Problem p({.parts = {{5, 5, 5}, {3, 4, 4}}});
  p.inputs[4].set(1, 40);
  failures.clear();
  p.forward();
  EXPECT_FALSE(failures.empty());
}

TEST(Attention, ReportsPositionsThatItCannotTellApart) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    Problem p({.query_positions = true, .key_positions = true, .dtype = dtype});
    for (const double first : {-0x1p31, 0x1p31 - 5}) {
      p.inputs[4] = Array(DType::i64, Shape{5}, {first, first + 1, first + 2, first + 3, first + 4});
      failures.clear();
      p.forward();
      EXPECT_FALSE(failures.empty()) << first;
    }
    p.inputs[4] = Array(DType::i64, Shape{5}, {0x1p31 - 6, 0x1p31 - 5, 0x1p31 - 4, 0x1p31 - 3, 0x1p31 - 2});
    failures.clear();
    p.forward();
    EXPECT_TRUE(failures.empty());
  }
}

}  // namespace
}  // namespace metal_candle::cpu::test
