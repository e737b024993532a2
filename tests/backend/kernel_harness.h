// What the tests of kernels share: arrays of any type and layout, and a kernel run directly, with its tasks in either
// order and its memory full of rubbish (NaN, read as floats).
#pragma once

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/kernels/types.h"

namespace metal_candle::cpu::test {

using Values = std::vector<double>;

constexpr double kInf = std::numeric_limits<double>::infinity(), kNan = std::numeric_limits<double>::quiet_NaN();

template <class T>
T from_double(double v) {
  if constexpr (is_half<T>) return T(static_cast<float>(v));
  else return static_cast<T>(v);
}
template <class T>
double to_double(T v) {
  if constexpr (is_half<T>) return static_cast<float>(v);
  else return static_cast<double>(v);
}

constexpr std::uint64_t kRubbish = ~std::uint64_t{0};

struct Array {
  DType dtype;
  Shape shape, strides;
  std::int64_t offset = 0;
  std::vector<std::uint64_t> memory;  // 64-bit words: aligned for every type

  Array() : Array(DType::f32, Shape{0}) {}
  Array(DType type, const Shape& s) : dtype(type), shape(s), strides(contiguous_strides(s)) {
    memory.assign(static_cast<std::size_t>(s.numel()) * size_of(type) / 8 + 1, kRubbish);
  }
  Array(DType type, const Shape& s, const Values& values) : Array(type, s) {
    for (std::size_t i = 0; i < values.size(); ++i) set(static_cast<std::int64_t>(i), values[i]);
  }

  /// The element at a place in memory, whatever the layout.
  void set(std::int64_t place, double value) {
    visit(dtype, [&]<class T>() { reinterpret_cast<T*>(memory.data())[place] = from_double<T>(value); });
  }
  double get(std::int64_t place) const {
    return visit(dtype, [&]<class T>() { return to_double(reinterpret_cast<const T*>(memory.data())[place]); });
  }
  /// The element at an index.
  double at(const std::vector<std::int64_t>& index) const {
    std::int64_t place = offset;
    for (std::size_t i = 0; i < index.size(); ++i) place += index[i] * strides[static_cast<int>(i)];
    return get(place);
  }
  /// All elements in row-major order.
  Values values() const;

  KernelTensor view() {
    return {reinterpret_cast<char*>(memory.data()) + offset * static_cast<std::int64_t>(size_of(dtype)), dtype, shape,
            strides};
  }
  bool same_bits(const Array& other) const { return shape == other.shape && memory == other.memory; }
};

/// Calls f with every index of the shape, in row-major order.
template <class F>
void each(const Shape& shape, F f) {
  std::vector<std::int64_t> index(static_cast<std::size_t>(shape.rank()));
  for (std::int64_t i = 0, n = shape.numel(); i < n; ++i) {
    std::int64_t rest = i;
    for (int a = shape.rank() - 1; a >= 0; --a) {
      index[static_cast<std::size_t>(a)] = rest % shape[a];
      rest /= shape[a];
    }
    f(index);
  }
}

inline Values Array::values() const {
  Values out;
  out.reserve(static_cast<std::size_t>(shape.numel()));
  each(shape, [&](const auto& index) { out.push_back(at(index)); });
  return out;
}

/// What kernels reported; clear it before.
inline std::vector<std::string> failures;

/// Runs all passes. Shapes are asked for without data, as the executor does.
inline void run_tasks(const CpuKernel& kernel, std::span<const KernelTensor> in, std::span<const KernelTensor> out,
                      const Attrs& attrs, bool backwards) {
  const auto report = [](const char* what) { failures.emplace_back(what); };
  std::vector<KernelTensor> in_shapes(in.begin(), in.end()), out_shapes(out.begin(), out.end());
  for (auto* list : {&in_shapes, &out_shapes})
    for (KernelTensor& t : *list) t.data = nullptr;
  const KernelCall shapes{in_shapes, out_shapes, attrs, nullptr, nullptr, report};
  const auto rubbish = [&](auto size) {
    return std::vector<std::uint64_t>((size ? size(shapes) / 8 : 0) + 16, kRubbish);
  };
  const auto aligned = [](std::vector<std::uint64_t>& v) {
    return reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(v.data()) + 63) & ~std::uintptr_t{63});
  };
  std::vector<std::uint64_t> scratch = rubbish(kernel.scratch), shared = rubbish(kernel.shared);
  const KernelCall call{in, out, attrs, aligned(scratch), aligned(shared), report};
  for (int pass = 0; pass < kernel.passes; ++pass) {
    const std::int64_t n = kernel.tasks(shapes, pass);
    for (std::int64_t i = 0; i < n; ++i) {
      std::fill(scratch.begin(), scratch.end(), kRubbish);
      kernel.run(call, pass, backwards ? n - 1 - i : i);
    }
  }
}

/// The same on arrays; outputs start as rubbish, and those whose bit is set in `skip_outputs` are not asked for.
inline void run_kernel(const CpuKernel& kernel, std::vector<Array>& inputs, std::vector<Array>& outputs,
                       const Attrs& attrs, bool backwards = false, unsigned skip_outputs = 0) {
  std::vector<KernelTensor> in, out;
  for (Array& a : inputs) in.push_back(a.view());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    std::fill(outputs[i].memory.begin(), outputs[i].memory.end(), kRubbish);
    out.push_back(outputs[i].view());
    if (skip_outputs >> i & 1) out.back().data = nullptr;
  }
  run_tasks(kernel, in, out, attrs, backwards);
}

/// Small whole numbers, exact in every type.
inline Array random(DType dtype, const Shape& shape, unsigned seed = 1) {
  std::mt19937 engine(seed);
  Values values(static_cast<std::size_t>(shape.numel()));
  for (double& v : values) v = dtype == DType::boolean ? engine() % 2 : static_cast<double>(engine() % 101);
  return Array(dtype, shape, values);
}

inline Array transposed(Array a, int i, int j) {
  std::swap(a.shape[i], a.shape[j]);
  std::swap(a.strides[i], a.strides[j]);
  return a;
}

/// Runs a kernel twice, with its tasks in opposite orders: the bytes must be the same.
inline std::vector<Array> run(const CpuKernel& kernel, std::vector<Array> in, const std::vector<TensorType>& types,
                              const Attrs& attrs) {
  std::vector<Array> first, second;
  std::vector<KernelTensor> inputs, outputs;
  for (Array& a : in) inputs.push_back(a.view());
  for (auto* list : {&first, &second}) {
    outputs.clear();
    for (const TensorType& t : types) list->emplace_back(t.dtype, t.shape);
    for (Array& a : *list) outputs.push_back(a.view());
    run_tasks(kernel, inputs, outputs, attrs, list == &second);
  }
  for (std::size_t i = 0; i < first.size(); ++i) EXPECT_EQ(first[i].memory, second[i].memory);
  return first;
}

inline void expect_same(const Values& got, const Values& want) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_TRUE(got[i] == want[i] || (got[i] != got[i] && want[i] != want[i]))
        << "element " << i << ": " << got[i] << " instead of " << want[i];
}

inline constexpr DType kAll[] = {DType::f32, DType::f64, DType::f16, DType::bf16,   DType::i8,
                                 DType::u8,  DType::i32, DType::i64, DType::boolean};

}  // namespace metal_candle::cpu::test
