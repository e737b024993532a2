// Attention and linear_cross_entropy against the bare matmuls they contain, at the rate of our own GEMM measured in the
// same run, one call after the other.
//
//   attention [seconds a case] [filter]
//
// One thread, timed by its CPU time, which other programs on the machine disturb least; the best of all rounds. Only
// the scores that a causal mask leaves count as work: the ratio to the matmuls says what masking, exponentials and
// transpositions cost. For peers, time scaled_dot_product_attention at the shapes that are printed.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/gemm/gemm.h"
#include "backend/cpu/kernels/attention.h"
#include "backend/cpu/kernels/linear_cross_entropy.h"
#include "backend/cpu/kernels/types.h"
#include "ops/attention.h"

namespace {

using namespace metal_candle;
using namespace metal_candle::cpu;
using std::int64_t;

double now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Memory {
  explicit Memory(std::size_t bytes) : data(::operator new (bytes + 64, std::align_val_t{64})) {}
  ~Memory() { ::operator delete (data, std::align_val_t{64}); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  void* data;
};

struct Array {
  Memory memory;
  KernelTensor tensor;
  Array(DType dtype, const Shape& shape, double scale = 0)
      : memory(static_cast<std::size_t>(shape.numel()) * size_of(dtype)) {
    tensor = {memory.data, dtype, shape, contiguous_strides(shape)};
    std::minstd_rand random(1);
    std::normal_distribution<float> normal;
    visit(dtype, [&]<class T>() {
      for (int64_t i = 0; i < shape.numel(); ++i)
        static_cast<T*>(memory.data)[i] =
            static_cast<T>(scale == 0 ? 0.0f : normal(random) * static_cast<float>(scale));
    });
  }
};

/// All tasks of a kernel call on this thread.
class Call {
 public:
  Call(const CpuKernel& kernel, std::vector<KernelTensor> in, std::vector<KernelTensor> out, const Attrs& attrs)
      : kernel_(kernel),
        in_(std::move(in)),
        out_(std::move(out)),
        attrs_(attrs),
        scratch_(kernel.scratch ? kernel.scratch(call(nullptr, nullptr)) : 0),
        shared_(kernel.shared ? kernel.shared(call(nullptr, nullptr)) : 0) {}
  void run() const {
    const KernelCall c = call(scratch_.data, shared_.data);
    for (int pass = 0; pass < kernel_.passes; ++pass)
      for (int64_t t = 0, n = kernel_.tasks(c, pass); t < n; ++t) kernel_.run(c, pass, t);
  }

 private:
  KernelCall call(void* scratch, void* shared) const {
    return {in_, out_, attrs_, scratch, shared, [](const char* what) { std::fprintf(stderr, "%s\n", what); }};
  }
  const CpuKernel& kernel_;
  std::vector<KernelTensor> in_, out_;
  Attrs attrs_;
  Memory scratch_, shared_;
};

double seconds = 1;
std::string filter;
double ceiling = 0;  // of f32 products, operations a second

template <class F>
double best(F f) {
  double least = std::numeric_limits<double>::infinity();
  f();
  for (const double end = now() + seconds; now() < end;) {
    const double start = now();
    f();
    least = std::min(least, now() - start);
  }
  return least;
}

double gemm_rate() {
  constexpr int64_t n = 768;
  Array a(DType::f32, {n, n}, 1), b(DType::f32, {n, n}, 1), c(DType::f32, {n, n});
  GemmArgs args;
  args.m = args.n = n;
  args.segments[0] = {.a = {a.tensor.data, n, 1}, .b = {b.tensor.data, n, 1}, .k = n};
  args.c = c.tensor.data;
  args.c_row_stride = n;
  const GemmTiling tiling = plan_gemm(args);
  const Memory scratch(tiling.scratch_bytes);
  return 2.0 * n * n * n / best([&] {
           for (int64_t j = 0; j < tiling.jobs; ++j) run_gemm_job(args, tiling, j, scratch.data);
         });
}

void report(const char* what, double time, double work) {
  std::printf("  %-18s %9.3f ms %6.0f GFLOP/s  %5.2f x the matmuls\n", what, time * 1e3, work / time * 1e-9,
              time * ceiling / work);
}

struct Sizes {
  const char* name;
  int64_t b, tq, tk, h, hk, d;
  DType dtype;
  bool causal, backward;
};

void attention_case(const Sizes& s) {
  const Shape q_shape{s.b, s.tq, s.h, s.d}, k_shape{s.b, s.tk, s.hk, s.d};
  Array q(s.dtype, q_shape, 1), k(s.dtype, k_shape, 1), v(s.dtype, k_shape, 1), dout(s.dtype, q_shape, 1);
  Array out(s.dtype, q_shape), lse(DType::f32, {s.h, s.b * s.tq}), dq(s.dtype, q_shape), dk(s.dtype, k_shape),
      dv(s.dtype, k_shape);
  ops::AttentionRule rule(Attrs{0, s.causal, 0, 0, 0});
  rule.scale = 1 / std::sqrt(static_cast<double>(s.d));
  const Call forward(attention_kernel, {q.tensor, k.tensor, v.tensor}, {out.tensor, lse.tensor}, rule.attrs());
  const double tq = static_cast<double>(s.tq),
               pairs = s.causal && s.tq == s.tk ? tq * (tq + 1) / 2 : tq * static_cast<double>(s.tk);
  const double product = 2 * static_cast<double>(s.b * s.h * s.d) * pairs;
  std::printf("%s: b %ld, %ld queries, %ld keys, %ld/%ld heads of %ld, %s\n", s.name, s.b, s.tq, s.tk, s.h, s.hk, s.d,
              std::string(name(s.dtype)).c_str());
  const double f = best([&] { forward.run(); });
  report("forward", f, 2 * product);
  if (s.tq == 1)
    std::printf("  %-18s %9.1f GB/s of keys and values\n", "",
                2e-9 * static_cast<double>(k_shape.numel() * static_cast<int64_t>(size_of(s.dtype))) / f);
  if (!s.backward) return;
  const Call backward(attention_grad_kernel, {q.tensor, k.tensor, v.tensor, out.tensor, lse.tensor, dout.tensor},
                      {dq.tensor, dk.tensor, dv.tensor}, rule.attrs());
  const double g = best([&] { backward.run(); });
  report("backward", g, 5 * product);
  report("both", f + g, 7 * product);
}

void cross_entropy_case(int64_t n, int64_t d, int64_t v, DType dtype) {
  Array x(dtype, {n, d}, 1), w(dtype, {v, d}, 0.05), targets(DType::i64, {n}), loss(DType::f32, {n}),
      lse(DType::f32, {n}), u(dtype, {n, d});
  for (int64_t i = 0; i < n; ++i) targets.tensor.as<int64_t>()[i] = i * 7919 % v;
  KernelTensor embedding = w.tensor;
  embedding.shape = {d, v};
  embedding.strides = {1, d};
  Attrs attrs{-100};
  attrs.push(0.0);
  std::printf("linear_cross_entropy: %ld rows, %ld -> %ld, %s\n", n, d, v, std::string(name(dtype)).c_str());
  const double work = 2 * static_cast<double>(n) * static_cast<double>(d * v);
  for (const bool gradient : {false, true}) {
    KernelTensor u_out = u.tensor;
    if (!gradient) u_out.data = nullptr;
    const Call call(linear_cross_entropy_kernel, {x.tensor, embedding, targets.tensor},
                    {loss.tensor, lse.tensor, u_out}, attrs);
    report(gradient ? "with the gradient" : "loss", best([&] { call.run(); }), (gradient ? 2 : 1) * work);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seconds = std::atof(argv[1]);
  if (argc > 2) filter = argv[2];
  ceiling = gemm_rate();
  std::printf("GEMM on one thread, %s: %.0f GFLOP/s\n", gemm_isa_name(), ceiling * 1e-9);
  const auto f32 = DType::f32, bf16 = DType::bf16;
  const Sizes sizes[] = {
      {"train", 2, 512, 512, 9, 3, 64, f32, true, true},     {"train", 2, 512, 512, 9, 3, 64, bf16, true, true},
      {"train", 1, 2048, 2048, 16, 8, 128, f32, true, true}, {"encode", 8, 128, 128, 12, 12, 32, f32, false, true},
      {"decode", 1, 1, 4096, 9, 3, 64, f32, true, false},    {"decode", 1, 1, 4096, 9, 3, 64, bf16, true, false},
      {"decode", 8, 1, 4096, 16, 8, 128, f32, true, false},  {"decode", 8, 1, 4096, 16, 8, 128, bf16, true, false},
  };
  for (const Sizes& s : sizes)
    if (std::string(s.name).find(filter) != std::string::npos) attention_case(s);
  if (std::string("linear_cross_entropy").find(filter) == std::string::npos) return 0;
  for (const DType dtype : {f32, bf16}) cross_entropy_case(1024, 576, 49152, dtype);
}
