// Runs a kernel program with every instruction set this machine has and compares it with the reference interpreter.
// Buffers end at a page that may not be touched, so reading or writing past an array is a crash.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <limits>
#include <random>

#include "backend/cpu/bad_index.h"
#include "backend/cpu/vm/vm.h"
#include "vm_builder.h"
#include "vm_reference.h"

namespace metal_candle::test {

using reference::Array;

constexpr double kInf = std::numeric_limits<double>::infinity(), kNan = std::numeric_limits<double>::quiet_NaN();

class GuardedCopy {
 public:
  explicit GuardedCopy(const Array& from) : bytes_(from.bytes.size()) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    mapped_ = (bytes_ + page - 1) / page * page + page;
    base_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(base_ + mapped_ - page, page, PROT_NONE);
    data_ = base_ + mapped_ - page - bytes_;
    before_ = data_ - base_ > 64 ? 64 : static_cast<int>(data_ - base_);
    std::memset(data_ - before_, 0x5a, before_);
    if (bytes_ > 0) std::memcpy(data_, from.bytes.data(), bytes_);
  }
  ~GuardedCopy() { munmap(base_, mapped_); }
  GuardedCopy(const GuardedCopy&) = delete;
  void* data() { return data_; }
  bool intact() const {
    for (int i = 1; i <= before_; ++i) {
      if (data_[-i] != 0x5a) return false;
    }
    return true;
  }

 private:
  std::size_t bytes_, mapped_;
  char *base_, *data_;
  int before_;
};

struct Case {
  KernelProgram program;
  std::vector<Array> buffers;
  std::vector<double> slots;
  double relative = 3e-6, absolute = 1e-6;  // against f64; f32 registers
};

inline std::vector<std::uint64_t> slot_block(const Case& c) {
  std::vector<std::uint64_t> slots(c.slots.size());
  for (const KValue& v : c.program.values) {
    if (v.op != KOp::slot) continue;
    const bool real = v.type == RegType::f32 || v.type == RegType::f64;
    slots[v.slot] = real ? std::bit_cast<std::uint64_t>(c.slots[v.slot])
                         : static_cast<std::uint64_t>(static_cast<std::int64_t>(c.slots[v.slot]));
  }
  return slots;
}

/// Runs all tasks, last one first, in scratch memory full of garbage. Returns the buffers and the index error.
inline std::vector<Array> execute(const Case& c, bool* error = nullptr) {
  const auto program = cpu::RowProgram::lower(c.program);
  std::vector<std::unique_ptr<GuardedCopy>> copies;
  std::vector<void*> pointers;
  for (const Array& a : c.buffers) {
    copies.push_back(std::make_unique<GuardedCopy>(a));
    pointers.push_back(copies.back()->data());
  }
  const auto slots = slot_block(c);
  std::vector<unsigned char> scratch(program->scratch_bytes());
  cpu::BadIndex bad_index;
  for (std::int64_t t = program->tasks() - 1; t >= 0; --t) {
    std::fill(scratch.begin(), scratch.end(), 0xff);
    program->run(pointers.data(), slots.data(), t, scratch.data(), &bad_index);
  }
  std::vector<Array> out = c.buffers;
  for (std::size_t i = 0; i < out.size(); ++i) {
    EXPECT_TRUE(copies[i]->intact()) << "buffer " << i << " written before its start";
    if (!out[i].bytes.empty()) std::memcpy(out[i].bytes.data(), copies[i]->data(), out[i].bytes.size());
  }
  if (error) *error = bad_index.extent >= 0;
  return out;
}

inline double step_of(DType d) { return d == DType::bf16 ? 1.0 / 128 : d == DType::f16 ? 1.0 / 1024 : 0; }

inline ::testing::AssertionResult same(const Array& got, const Array& want, double relative, double absolute) {
  const double rel = got.dtype == DType::f64 ? 1e-12 : is_float(got.dtype) ? relative + step_of(got.dtype) : 0;
  const double abs = got.dtype == DType::f64 ? 1e-14 : is_float(got.dtype) ? absolute : 0;
  for (std::int64_t i = 0; i < got.size(); ++i) {
    const double g = got.get(i), w = want.get(i);
    if (std::isnan(g) && std::isnan(w)) continue;
    if (g == w) continue;
    if (std::isfinite(g) && std::isfinite(w) && std::fabs(g - w) <= abs + rel * std::fabs(w)) continue;
    return ::testing::AssertionFailure() << "element " << i << " is " << g << ", want " << w;
  }
  return ::testing::AssertionSuccess();
}

template <class Fn>
void for_each_isa(Fn fn) {
  for (int isa = 0; const char* name = cpu::set_isa_for_test(isa); ++isa) {
    SCOPED_TRACE(name);
    fn();
    if (::testing::Test::HasFailure()) break;
  }
  cpu::set_isa_for_test(-1);
}

inline void check(const Case& c) {
  std::vector<Array> want = c.buffers;
  reference::Interpreter interpreter(c.program, want, c.slots);
  interpreter.run();
  for_each_isa([&] {
    bool error = false;
    const std::vector<Array> got = execute(c, &error);
    EXPECT_EQ(error, interpreter.index_error());
    for (std::size_t b = 0; b < got.size(); ++b) {
      ASSERT_TRUE(same(got[b], want[b], c.relative, c.absolute)) << "buffer " << b << "\n" << c.program.str();
    }
  });
}

inline Array random_array(DType dtype, std::int64_t n, double low, double high, unsigned seed = 1) {
  Array a(dtype, n);
  std::mt19937 rng(seed);
  std::uniform_real_distribution<double> draw(low, high);
  for (std::int64_t i = 0; i < n; ++i) a.set(i, is_float(dtype) ? draw(rng) : std::floor(draw(rng)));
  return a;
}

}  // namespace metal_candle::test
