// Row programs beside the best non-temporal copy of the same machine: bytes a second of compulsory traffic, on two
// threads (or one: vm_rows 1), measured interleaved with the copy. Small programs on one thread, in microseconds a run.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include "../tests/backend/vm_builder.h"
#include "backend/cpu/vm/vm.h"
#include "hwy/cache_control.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using namespace metal_candle;
using enum Elementwise;

/// On one thread the time that thread was running, so that a busy machine does not show.
bool cpu_time = false;
double now() {
  if (!cpu_time) return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// One helper thread beside the caller, spinning for work.
class Pair {
 public:
  explicit Pair(bool both) {
    if (both) helper_ = std::thread([this] { loop(); });
  }
  ~Pair() {
    stop_ = true;
    if (helper_.joinable()) helper_.join();
  }
  template <class Fn>
  void run(std::int64_t tasks, Fn fn) {
    next_ = 0;
    tasks_ = tasks;
    job_ = [](void* f, std::int64_t t, int thread) { (*static_cast<Fn*>(f))(t, thread); };
    fn_ = &fn;
    done_ = !helper_.joinable();
    generation_.fetch_add(1, std::memory_order_release);
    work(0);
    while (!done_.load(std::memory_order_acquire)) {
    }
  }

 private:
  void work(int thread) {
    for (std::int64_t t; (t = next_.fetch_add(1)) < tasks_;) job_(fn_, t, thread);
  }
  void loop() {
    for (int seen = 0; !stop_;) {
      if (generation_.load(std::memory_order_acquire) == seen) continue;
      seen = generation_;
      work(1);
      done_.store(true, std::memory_order_release);
    }
  }
  std::atomic<int> generation_{0};
  std::atomic<bool> stop_{false}, done_{true};
  std::atomic<std::int64_t> next_{0};
  std::int64_t tasks_ = 0;
  void (*job_)(void*, std::int64_t, int) = nullptr;
  void* fn_ = nullptr;
  std::thread helper_;
};

char* pages(std::size_t bytes) {
  bytes = (bytes + (2u << 20) - 1) >> 21 << 21;
  char* p =
      static_cast<char*>(mmap(nullptr, bytes + (2u << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  p = reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(p) + (2u << 20) - 1) >> 21 << 21);
  madvise(p, bytes, MADV_HUGEPAGE);
  std::memset(p, 0, bytes);
  return p;
}

void fill(char* p, std::size_t floats, float scale) {
  auto* f = reinterpret_cast<float*>(p);
  std::uint32_t x = 12345;
  for (std::size_t i = 0; i < floats; ++i) {
    x = x * 1664525u + 1013904223u;
    f[i] = scale * (static_cast<float>(x >> 8) / 8388608.0f - 1.0f);
  }
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void copy_stream(char* to, const char* from, std::size_t n) {
  for (std::size_t i = 0; i < n; i += 64)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
  _mm_sfence();
}
#else
void copy_stream(char* to, const char* from, std::size_t n) { std::memcpy(to, from, n); }
#endif

struct Shape {
  std::int64_t rows, cols;
  std::string str() const { return fmt::format("[{},{}]", rows, cols); }
};

KernelProgram softmax(Shape s) {
  ProgramBuilder b({s.rows});
  b.stage(s.cols);
  const int x = b.load(b.dense(0)), top = b.reduce(KOp::reduce_max, x);
  b.stage(s.cols);
  const int e = b.map(exp, b.map(sub, x, top));
  b.keep(e);
  const int sum = b.reduce(KOp::reduce_sum, e);
  b.stage(s.cols);
  KAccess out = b.dense(1);
  out.stream = true;
  b.store(b.map(div, e, sum), out);
  return b.done();
}
KernelProgram rms_norm(Shape s) {
  ProgramBuilder b({s.rows});
  b.stage(s.cols);
  const int x = b.load(b.dense(0)), sum = b.reduce(KOp::reduce_sum, b.map(square, x));
  const int scale =
      b.map(rsqrt, b.map(add, b.map(mul, sum, b.literal(1.0 / static_cast<double>(s.cols))), b.literal(1e-5)));
  b.stage(s.cols);
  KAccess out = b.dense(1);
  out.stream = true;
  b.store(b.map(mul, b.map(mul, x, scale), b.load(b.column_weights(2))), out);
  return b.done();
}
KernelProgram silu_mul(Shape s) {
  ProgramBuilder b({s.rows});
  b.stage(s.cols);
  KAccess out = b.dense(1);
  out.stream = true;
  b.store(b.map(mul, b.map(silu, b.load(b.dense(0))), b.load(b.dense(3))), out);
  return b.done();
}
KernelProgram gelu_affine(Shape s) {
  ProgramBuilder b({s.rows});
  b.stage(s.cols);
  KAccess out = b.dense(1);
  out.stream = true;
  const int w = b.load(b.column_weights(2));
  b.store(b.map(gelu_tanh, b.map(add, b.map(mul, b.load(b.dense(0)), w), w)), out);
  return b.done();
}
KernelProgram softmax_backward(Shape s) {
  ProgramBuilder b({s.rows});
  b.stage(s.cols);
  const int y = b.load(b.dense(0)), g = b.load(b.dense(3)), sum = b.reduce(KOp::reduce_sum, b.map(mul, y, g));
  b.stage(s.cols);
  KAccess out = b.dense(1);
  out.stream = true;
  b.store(b.map(mul, y, b.map(sub, g, sum)), out);
  return b.done();
}
/// d loss / d logits = (exp(x - lse) - (column == target)) · scale
KernelProgram cross_entropy(Shape s) {
  ProgramBuilder b({s.rows});
  b.stage(s.cols);
  const int x = b.load(b.dense(0)), top = b.reduce(KOp::reduce_max, x);
  b.stage(s.cols);
  const int sum = b.reduce(KOp::reduce_sum, b.map(exp, b.map(sub, x, top)));
  const int lse = b.map(add, b.map(log, sum), top);
  b.stage(s.cols);
  const int target = b.load(b.per_row(4, DType::i64), false);
  KAccess out = b.dense(1);
  out.stream = true;
  const int hit = b.cast(b.map(equal, b.col_index(), target), DType::f32);
  b.store(b.map(mul, b.map(sub, b.map(exp, b.map(sub, x, lse)), hit), b.literal(0.125)), out);
  return b.done();
}

struct Bench {
  const char* name;
  KernelProgram (*make)(Shape);
  int arrays;  // [rows, cols] arrays of compulsory traffic
};
const Bench kBenches[] = {{"softmax", softmax, 2},
                          {"rms_norm*w", rms_norm, 2},
                          {"silu(x)*z", silu_mul, 3},
                          {"gelu_tanh(x*w+w)", gelu_affine, 2},
                          {"softmax backward", softmax_backward, 3},
                          {"cross entropy grad", cross_entropy, 2}};

void large(Pair& pool, Shape s, int repeats, const std::string& only) {
  const std::size_t n = static_cast<std::size_t>(s.rows) * s.cols, bytes = n * 4;
  char* buffers[] = {pages(bytes), pages(bytes), pages(s.cols * 4), pages(bytes), pages(s.rows * 8)};
  fill(buffers[0], n, 4);
  fill(buffers[2], s.cols, 1);
  fill(buffers[3], n, 1);
  const std::size_t piece = std::min<std::size_t>(bytes, 256 << 10);
  for (const Bench& bench : kBenches) {
    if (std::string(bench.name).find(only) == std::string::npos) continue;
    const auto program = cpu::RowProgram::lower(bench.make(s));
    std::vector<char> scratch[2] = {std::vector<char>(program->scratch_bytes()),
                                    std::vector<char>(program->scratch_bytes())};
    std::vector<double> times, copies;
    for (int i = 0; i < repeats; ++i) {
      double t = now();
      pool.run(static_cast<std::int64_t>((bytes + piece - 1) / piece), [&](std::int64_t task, int) {
        const std::size_t at = task * piece;
        copy_stream(buffers[1] + at, buffers[0] + at, std::min(piece, bytes - at));
      });
      copies.push_back(now() - t);
      t = now();
      pool.run(program->tasks(), [&](std::int64_t task, int thread) {
        program->run(reinterpret_cast<void* const*>(buffers), nullptr, task, scratch[thread].data(), nullptr);
      });
      times.push_back(now() - t);
    }
    std::sort(times.begin(), times.end());
    std::sort(copies.begin(), copies.end());
    const double mb = static_cast<double>(bytes) / 1e9;
    const double best = bench.arrays * mb / times[0], median = bench.arrays * mb / times[repeats / 2],
                 copy = 2 * mb / copies[0];
    std::printf(
        "%-20s %-14s %5lld tasks  best %6.1f  median %6.1f  copy %6.1f (median %6.1f) GB/s  ratio %.2f (medians "
        "%.2f)\n",
        bench.name, s.str().c_str(), static_cast<long long>(program->tasks()), best, median, copy,
        2 * mb / copies[repeats / 2], best / copy, median / (2 * mb / copies[repeats / 2]));
  }
  for (char* b : {buffers[0], buffers[1], buffers[3]}) munmap(b, bytes);
}

template <class Fn>
double microseconds(int runs, Fn fn) {
  double best = 1e9;
  for (int k = 0; k < 20; ++k) {
    const double t = now();
    for (int i = 0; i < runs; ++i) fn();
    best = std::min(best, (now() - t) / runs * 1e6);
  }
  return best;
}

void small() {
  std::vector<float> x(4096, 0.5f), y(4096), z(4096, 0.25f);
  void* buffers[] = {x.data(), y.data(), z.data(), z.data()};
  const auto report = [&](const char* what, const KernelProgram& k) {
    const auto p = cpu::RowProgram::lower(k);
    std::vector<char> scratch(p->scratch_bytes());
    const double us = microseconds(200, [&] {
      for (std::int64_t t = 0; t < p->tasks(); ++t) p->run(buffers, nullptr, t, scratch.data(), nullptr);
    });
    const double lower = microseconds(3, [&] { cpu::RowProgram::lower(k); });
    std::printf("%-34s %8.3f us a run, %8.1f us to lower, %lld tasks\n", what, us, lower,
                static_cast<long long>(p->tasks()));
  };
  ProgramBuilder chain({1});
  chain.stage(16);
  int v = chain.load(chain.dense(0));
  const int w = chain.load(chain.dense(2));
  for (int i = 0; i < 2000; ++i) v = chain.map(i % 2 ? mul : add, v, w);
  chain.store(v, chain.dense(1));
  report("2000 maps of 16 floats", chain.done());
  report("softmax [4,1024]", softmax({4, 1024}));
  report("softmax [64,64]", softmax({64, 64}));
  report("rms_norm [4,1024]", rms_norm({4, 1024}));
  report("silu(x)*z [1,1024]", silu_mul({1, 1024}));
  for (Elementwise op : {exp, expm1, log, log1p, tanh, sigmoid, silu, gelu, gelu_tanh, erf, sin, pow, sqrt, rsqrt,
                         reciprocal, softplus}) {
    ProgramBuilder b({1});
    b.stage(1024);
    const int in = b.load(b.dense(0));
    b.store(b.map(op, in, op == pow ? b.load(b.dense(2)) : -1), b.dense(1));
    report((std::string(info(op).name) + " of 1024").c_str(), b.done());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2, repeats = argc > 2 ? std::atoi(argv[2]) : 15;
  std::printf("instruction set %s, %d threads\n", cpu::set_isa_for_test(0), threads);
  cpu_time = threads == 1;
  small();
  if (repeats == 0) return 0;
  Pair pool(threads == 2);
  const std::string only = argc > 3 ? argv[3] : "";
  large(pool, {128, 1024}, repeats * 50, only);
  large(pool, {8192, 4096}, repeats, only);
  large(pool, {512, 49152}, repeats, only);
  large(pool, {128, 151936}, repeats, only);
}
