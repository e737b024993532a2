// Attention kernels, called directly. The oracle is a direct transcription of the definition, written here; gradients
// are checked in f64 against finite differences of that, and the f32 and 16-bit kernels against the f64 one. Memory
// that a kernel gets starts as NaN, tasks run in several orders, and results must be the same bytes.
#include "backend/cpu/kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "backend/cpu/gemm/gemm.h"
#include "backend/cpu/kernels/types.h"
#include "ops/attention.h"

namespace metal_candle::cpu {
namespace {

using ops::AttentionRule;
using Values = std::vector<double>;
constexpr double kInf = std::numeric_limits<double>::infinity();

struct Array {
  DType dtype;
  Shape shape, strides;
  std::int64_t offset = 0;
  std::vector<std::uint64_t> memory;

  Array() : Array(DType::f32, Shape{0}) {}
  Array(DType type, const Shape& s) : dtype(type), shape(s), strides(contiguous_strides(s)) {
    memory.assign(static_cast<std::size_t>(s.numel()) * size_of(type) / 8 + 1, ~0ull);
  }
  Array(DType type, const Shape& s, const Values& values) : Array(type, s) {
    for (std::size_t i = 0; i < values.size(); ++i) set(static_cast<std::int64_t>(i), values[i]);
  }
  void set(std::int64_t i, double value) {
    visit(dtype, [&]<class T>() {
      if constexpr (is_half<T>) reinterpret_cast<T*>(memory.data())[i] = T(static_cast<float>(value));
      else reinterpret_cast<T*>(memory.data())[i] = static_cast<T>(value);
    });
  }
  double get(std::int64_t i) const {
    return visit(dtype, [&]<class T>() {
      const T v = reinterpret_cast<const T*>(memory.data())[i];
      if constexpr (is_half<T>) return static_cast<double>(static_cast<float>(v));
      else return static_cast<double>(v);
    });
  }
  KernelTensor view() {
    return {reinterpret_cast<char*>(memory.data()) + offset * static_cast<std::int64_t>(size_of(dtype)), dtype, shape,
            strides};
  }
  Values values() const {
    Values v(static_cast<std::size_t>(shape.numel()));
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = get(static_cast<std::int64_t>(i));
    return v;
  }
  bool same_bits(const Array& other) const { return shape == other.shape && memory == other.memory; }
};

int failures = 0;
void count_failure(const char*) { ++failures; }

/// Runs all passes, tasks forwards or backwards, on memory full of NaN.
void run_kernel(const CpuKernel& kernel, std::vector<Array>& inputs, std::vector<Array>& outputs, const Attrs& attrs,
                bool backwards = false, unsigned skip_outputs = 0) {
  std::vector<KernelTensor> in, out, in_shapes, out_shapes;
  for (Array& a : inputs) in.push_back(a.view());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    std::fill(outputs[i].memory.begin(), outputs[i].memory.end(), ~0ull);
    out.push_back(outputs[i].view());
    if (skip_outputs >> i & 1) out.back().data = nullptr;
  }
  in_shapes = in;
  out_shapes = out;
  for (auto* list : {&in_shapes, &out_shapes})
    for (KernelTensor& t : *list) t.data = nullptr;
  const KernelCall shapes{in_shapes, out_shapes, attrs, nullptr, nullptr, count_failure};
  const auto rubbish = [](std::size_t bytes) { return std::vector<std::uint64_t>(bytes / 8 + 16, ~0ull); };
  auto scratch = rubbish(kernel.scratch ? kernel.scratch(shapes) : 0);
  auto shared = rubbish(kernel.shared ? kernel.shared(shapes) : 0);
  const auto aligned = [](std::vector<std::uint64_t>& v) {
    return reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(v.data()) + 63) & ~std::uintptr_t{63});
  };
  const KernelCall call{in, out, attrs, aligned(scratch), aligned(shared), count_failure};
  for (int pass = 0; pass < kernel.passes; ++pass) {
    const std::int64_t n = kernel.tasks(shapes, pass);
    for (std::int64_t t = 0; t < n; ++t) kernel.run(call, pass, backwards ? n - 1 - t : t);
  }
}

struct Part {
  std::int64_t queries, slots, used;
};

struct Case {
  std::vector<Part> parts{{5, 5, 5}};
  bool batched = false;  // [b, t, h, d]; parts must be equal but for `used`
  std::int64_t heads = 2, key_heads = 1, d = 8, dv = 8;
  bool causal = true;
  std::int64_t window = 0;
  double softcap = 0, scale = 0.4;
  bool lengths = false, query_positions = false, key_positions = false;  // positions: a ring buffer's
  int bias_heads = 0;
  std::int64_t spare = 0;  // tokens behind the last sequence
  DType dtype = DType::f32;
  bool lse_grad = false;
  unsigned seed = 1;
};

/// A case's inputs, and what must come out.
struct Problem {
  Case c;
  std::vector<Array> inputs;  // q, k, v, optional
  AttentionRule rule{Attrs{0, 0, 0, 0, 0}};
  std::int64_t tq, tk;
  std::vector<std::int64_t> q0, k0;
  std::mt19937 random;

  Values normal(std::int64_t n) {
    std::normal_distribution<double> dist;
    Values v(static_cast<std::size_t>(n));
    for (double& x : v) x = dist(random);
    return v;
  }
  bool ragged() const { return !c.batched && (c.parts.size() > 1 || c.spare > 0); }
  Shape shape(std::int64_t tokens, std::int64_t h, std::int64_t d) const {
    if (!c.batched) return {tokens, h, d};
    const auto b = static_cast<std::int64_t>(c.parts.size());
    return {b, tokens / b, h, d};
  }

  explicit Problem(const Case& test) : c(test), random(test.seed) {
    q0 = k0 = {0};
    for (const Part& p : c.parts) {
      q0.push_back(q0.back() + p.queries);
      k0.push_back(k0.back() + p.slots);
    }
    tq = q0.back() + c.spare;
    tk = k0.back() + c.spare;
    inputs.emplace_back(c.dtype, shape(tq, c.heads, c.d), normal(tq * c.heads * c.d));
    inputs.emplace_back(c.dtype, shape(tk, c.key_heads, c.d), normal(tk * c.key_heads * c.d));
    inputs.emplace_back(c.dtype, shape(tk, c.key_heads, c.dv), normal(tk * c.key_heads * c.dv));
    std::int64_t mask = 0;
    const auto sequences = static_cast<std::int64_t>(c.parts.size());
    if (ragged()) {
      mask |= ops::kQueryOffsets | ops::kKeyOffsets;
      inputs.emplace_back(DType::i32, Shape{sequences + 1}, Values(q0.begin(), q0.end()));
      inputs.emplace_back(DType::i32, Shape{sequences + 1}, Values(k0.begin(), k0.end()));
    }
    if (c.lengths) {
      mask |= ops::kKeyLengths;
      Values used;
      for (const Part& p : c.parts) used.push_back(static_cast<double>(p.used));
      inputs.emplace_back(DType::i32, Shape{sequences}, used);
    }
    add_positions(mask);
    if (c.bias_heads) {
      mask |= ops::kBias;
      Shape s = c.batched ? Shape{1, c.bias_heads, tq / sequences, tk / sequences} : Shape{c.bias_heads, tq, tk};
      Values values = normal(s.numel());
      for (double& x : values)
        if (x > 1.3) x = -kInf;
      inputs.emplace_back(c.dtype == DType::f64 ? DType::f64 : DType::f32, s, values);
    }
    Attrs a{mask, c.causal, c.window};
    a.push(c.scale);
    a.push(c.softcap);
    rule = AttentionRule(a);
  }

  void add_positions(std::int64_t& mask) {
    const auto b = static_cast<std::int64_t>(c.parts.size());
    const auto add = [&](ops::AttentionInput bit, const Values& v) {
      mask |= bit;
      const auto n = static_cast<std::int64_t>(v.size());
      inputs.emplace_back(DType::i32, c.batched ? Shape{b, n / b} : Shape{n}, v);
    };
    Values q(static_cast<std::size_t>(tq), 7), k(static_cast<std::size_t>(tk), 7);
    for (std::size_t i = 0; i < c.parts.size(); ++i) {
      const Part& p = c.parts[i];
      for (std::int64_t j = 0; j < p.slots; ++j)  // written round and round: the newest are in the middle
        k[static_cast<std::size_t>(k0[i] + j)] =
            static_cast<double>(100 + (j + p.slots / 3) % std::max<std::int64_t>(1, p.slots));
      for (std::int64_t j = 0; j < p.queries; ++j)
        q[static_cast<std::size_t>(q0[i] + j)] =
            static_cast<double>(c.key_positions ? 100 + p.slots - p.queries + j : 3 * j);
    }
    if (c.query_positions) add(ops::kQueryPositions, q);
    if (c.key_positions) add(ops::kKeyPositions, k);
  }

  /// Score of a pair of a part, all conventions spelt out; -inf where not seen.
  double score(const std::vector<Values>& in, std::size_t part, std::int64_t h, std::int64_t i, std::int64_t j) const {
    const Part& p = c.parts[part];
    const std::int64_t used = c.lengths ? p.used : p.slots, row = q0[part] + i, key = k0[part] + j;
    if (j >= used) return -kInf;
    const auto b = static_cast<std::int64_t>(c.parts.size());
    std::int64_t qp = used - p.queries + i, kp = j;
    if (c.query_positions)
      qp = static_cast<std::int64_t>(inputs[static_cast<std::size_t>(rule.place(ops::kQueryPositions, 3))].get(row));
    if (c.key_positions)
      kp = static_cast<std::int64_t>(inputs[static_cast<std::size_t>(rule.place(ops::kKeyPositions, 3))].get(key));
    if (c.causal && kp > qp) return -kInf;
    if (c.window > 0 && (qp - kp >= c.window || kp - qp >= c.window)) return -kInf;
    double x = 0;
    for (std::int64_t e = 0; e < c.d; ++e)
      x += in[0][static_cast<std::size_t>((row * c.heads + h) * c.d + e)] *
           in[1][static_cast<std::size_t>((key * c.key_heads + h / (c.heads / c.key_heads)) * c.d + e)];
    x *= c.scale;
    if (c.softcap > 0) x = c.softcap * std::tanh(x / c.softcap);
    if (c.bias_heads) {
      const std::int64_t bh = c.bias_heads == 1 ? 0 : h;
      const std::int64_t at = c.batched ? (bh * (tq / b) + i) * (tk / b) + j : (bh * tq + row) * tk + key;
      x += in.back()[static_cast<std::size_t>(at)];
    }
    return x;
  }

  std::vector<Values> input_values() const {
    std::vector<Values> v;
    for (const Array& a : inputs) v.push_back(a.values());
    return v;
  }

  /// out [tq, h, dv] and lse [h, tq] by the definition.
  std::pair<Values, Values> expected(const std::vector<Values>& in) const {
    Values out(static_cast<std::size_t>(tq * c.heads * c.dv), 0.0), lse(static_cast<std::size_t>(c.heads * tq), -kInf);
    for (std::size_t part = 0; part < c.parts.size(); ++part)
      for (std::int64_t h = 0; h < c.heads; ++h)
        for (std::int64_t i = 0; i < c.parts[part].queries; ++i) {
          double top = -kInf, sum = 0;
          Values s;
          for (std::int64_t j = 0; j < c.parts[part].slots; ++j) s.push_back(score(in, part, h, i, j));
          for (double x : s) top = std::max(top, x);
          if (top == -kInf) continue;
          for (double& x : s) sum += x = std::exp(x - top);
          const std::int64_t row = q0[part] + i;
          lse[static_cast<std::size_t>(h * tq + row)] = top + std::log(sum);
          for (std::int64_t j = 0; j < c.parts[part].slots; ++j)
            for (std::int64_t e = 0; e < c.dv; ++e)
              out[static_cast<std::size_t>((row * c.heads + h) * c.dv + e)] +=
                  s[static_cast<std::size_t>(j)] / sum *
                  in[2]
                    [static_cast<std::size_t>(((k0[part] + j) * c.key_heads + h / (c.heads / c.key_heads)) * c.dv + e)];
        }
    return {out, lse};
  }

  std::vector<Array> forward(bool backwards = false) {
    std::vector<Array> out;
    out.emplace_back(c.dtype, shape(tq, c.heads, c.dv));
    out.emplace_back(c.dtype == DType::f64 ? DType::f64 : DType::f32, Shape{c.heads, tq});
    run_kernel(attention_kernel, inputs, out, rule.attrs(), backwards);
    return out;
  }

  /// dq, dk, dv [, dbias] for the given gradients of out and lse.
  std::vector<Array> backward(const Array& dout, const Array* dlse, bool backwards = false, unsigned skip = 0) {
    std::vector<Array> in(inputs.begin(), inputs.begin() + 3), made = forward(), out;
    in.insert(in.end(), made.begin(), made.end());
    in.push_back(dout);
    in.insert(in.end(), inputs.begin() + 3, inputs.end());
    AttentionRule r = rule;
    if (dlse) {
      r.inputs |= ops::kLseGrad;
      in.push_back(*dlse);
    }
    for (int i = 0; i < 3; ++i) out.emplace_back(c.dtype, inputs[static_cast<std::size_t>(i)].shape);
    if (c.bias_heads) {
      const auto b = static_cast<std::int64_t>(c.parts.size());
      out.emplace_back(in.back().dtype == DType::f64 ? DType::f64 : DType::f32,
                       c.batched ? Shape{b, c.heads, tq / b, tk / b} : Shape{c.heads, tq, tk});
    }
    run_kernel(attention_grad_kernel, in, out, r.attrs(), backwards, skip);
    return out;
  }
  Array random_dout() { return {c.dtype, shape(tq, c.heads, c.dv), normal(tq * c.heads * c.dv)}; }
  Array random_dlse() {
    return {c.dtype == DType::f64 ? DType::f64 : DType::f32, Shape{c.heads, tq}, normal(tq * c.heads)};
  }
};

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

std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](Case c) {
    c.seed = static_cast<unsigned>(all.size() + 1);
    all.push_back(c);
  };
  add({});
  add({.parts = {{1, 1, 1}}, .heads = 1});
  add({.parts = {{7, 7, 7}}, .causal = false});
  add({.parts = {{70, 70, 70}}, .heads = 3, .d = 16, .dv = 16});
  add({.parts = {{130, 130, 130}}, .heads = 6, .key_heads = 2, .d = 20, .dv = 12});
  add({.parts = {{33, 200, 200}}, .heads = 3, .key_heads = 3, .d = 5, .dv = 3});
  add({.parts = {{9, 5, 5}}});  // more queries than keys: the first see nothing
  add({.parts = {{6, 0, 0}}});
  add({.parts = {{0, 6, 6}}});
  add({.parts = {{5, 5, 5}, {0, 3, 3}, {70, 90, 90}, {4, 0, 0}, {1, 129, 129}}, .heads = 4, .key_heads = 2});
  add({.parts = {{5, 9, 6}, {3, 70, 66}, {2, 4, 0}}, .lengths = true, .spare = 3});
  add({.parts = {{40, 100, 77}, {40, 100, 100}, {40, 100, 10}},
       .batched = true,
       .heads = 4,
       .key_heads = 2,
       .lengths = true});
  add({.parts = {{150, 150, 150}}, .window = 20});
  add({.parts = {{150, 150, 150}}, .window = 70, .softcap = 2});
  add({.parts = {{90, 90, 90}}, .causal = false, .window = 9});
  add({.parts = {{80, 80, 80}}, .softcap = 1.5});
  add({.parts = {{80, 80, 80}}, .bias_heads = 1});
  add({.parts = {{20, 80, 80}}, .causal = false, .softcap = 3, .bias_heads = 2});
  add({.parts = {{20, 30, 30}, {20, 30, 30}}, .batched = true, .bias_heads = 2});
  add({.parts = {{20, 30, 30}, {7, 9, 9}}, .bias_heads = 1});
  add({.parts = {{3, 150, 150}, {2, 10, 10}}, .query_positions = true, .key_positions = true});
  add({.parts = {{60, 150, 140}, {60, 150, 90}},
       .batched = true,
       .window = 25,
       .lengths = true,
       .query_positions = true,
       .key_positions = true});
  add({.parts = {{60, 150, 150}}, .query_positions = true});
  add({.parts = {{1, 300, 300}, {1, 65, 65}, {1, 64, 64}}, .heads = 8, .key_heads = 1, .d = 64, .dv = 64});
  add({.parts = {{5, 20, 20}}, .heads = 130, .key_heads = 1});
  return all;
}

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
  failures = 0;
  p.forward();
  EXPECT_GT(failures, 0);
}

}  // namespace
}  // namespace metal_candle::cpu
