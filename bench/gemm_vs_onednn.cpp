// Our GEMM against bare oneDNN, both on all cores, interleaved: best time of several rounds, rate, the ratio to oneDNN at
// the same shape and to oneDNN's best rate at any shape of the same type.
//
//   gemm_vs_onednn [seconds a case] [filter] [threads]      e.g. gemm_vs_onednn 1 bf16
//
// With one thread, time is that thread's CPU time, which other programs on the machine disturb least.
//
// oneDNN gets what it likes: its own OpenMP threads, weights reordered to the layout it asks for. We get a pool of
// spinning threads that take jobs from a counter. Whoever is not being measured sleeps.
#include <omp.h>
#include <time.h>
#include <dnnl.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "backend/cpu/gemm/gemm.h"

namespace {

using namespace metal_candle::cpu;
using std::int64_t;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

bool cpu_time = false;
double stopwatch() {
  timespec t;
  clock_gettime(cpu_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// Threads spin while awake and wait on a condition while not.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  }
  ~Pool() {
    stop_ = true;
    wake();
    for (std::thread& w : workers_) w.join();
  }
  void wake() {
    std::lock_guard lock(mutex_);
    awake_ = true;
    change_.notify_all();
  }
  void sleep() { awake_ = false; }
  void run(const GemmArgs& args, const GemmTiling& tiling, std::vector<char*>& scratch) {
    args_ = &args, tiling_ = &tiling, scratch_ = &scratch;
    next_ = 0;
    left_ = static_cast<int>(workers_.size());
    round_.fetch_add(1, std::memory_order_release);
    take_jobs(0);
    while (left_.load(std::memory_order_acquire) != 0) __builtin_ia32_pause();
  }

 private:
  void take_jobs(int thread) {
    for (int64_t job, before = -1; (job = next_.fetch_add(1, std::memory_order_relaxed)) < tiling_->jobs; before = job)
      run_gemm_job(*args_, *tiling_, job, (*scratch_)[static_cast<std::size_t>(thread)], before);
  }
  void work(int thread) {
    int seen = 0;
    while (!stop_) {
      if (round_.load(std::memory_order_acquire) == seen) {
        if (awake_) {
          __builtin_ia32_pause();
        } else {
          std::unique_lock lock(mutex_);
          change_.wait(lock, [&] { return awake_ || stop_; });
        }
        continue;
      }
      ++seen;
      take_jobs(thread);
      left_.fetch_sub(1, std::memory_order_release);
    }
  }
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable change_;
  std::atomic<bool> awake_{false}, stop_{false};
  std::atomic<int> round_{0}, left_{0};
  std::atomic<int64_t> next_{0};
  const GemmArgs* args_ = nullptr;
  const GemmTiling* tiling_ = nullptr;
  std::vector<char*>* scratch_ = nullptr;
};

struct Buffer {
  char* data;
  std::size_t size;
  explicit Buffer(std::size_t n)
      : data(static_cast<char*>(std::aligned_alloc(4096, (n + 8191) / 4096 * 4096))), size(n) {
    std::memset(data, 0, n);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data); }
};

void fill(Buffer& b, GemmType type) {
  std::uint32_t x = 12345;
  const auto next = [&] { return x = x * 1664525u + 1013904223u, static_cast<float>(x >> 8) * 0x1p-23f - 1.0f; };
  for (std::size_t i = 0; i < b.size / (type == GemmType::f32 ? 4 : 2); ++i) {
    const float f = next();
    std::uint32_t u;
    std::memcpy(&u, &f, 4);
    if (type == GemmType::f32) std::memcpy(b.data + i * 4, &f, 4);
    else std::memcpy(b.data + i * 2, reinterpret_cast<char*>(&u) + 2, 2);
  }
}

struct Case {
  const char* group;
  GemmType type;
  int64_t m, n, k;
  bool constant = true;           // B packed once (theirs: reordered once)
  bool a_t = false, b_t = false;  // stored transposed
  int64_t batch = 1;
  bool c_bf16 = false;
};

constexpr int64_t kLoraRank = 16;

struct Result {
  double ours = 1e9, theirs = 1e9;
};

class Peer {
 public:
  Peer(const Case& c, Buffer& a, Buffer& b, Buffer& y) : stream_(engine()) {
    using dt = dnnl::memory::data_type;
    using tag = dnnl::memory::format_tag;
    const dt t = c.type == GemmType::f32 ? dt::f32 : dt::bf16;
    const bool batched = c.batch > 1;
    const auto dims = [&](int64_t r, int64_t k) {
      return batched ? dnnl::memory::dims{c.batch, r, k} : dnnl::memory::dims{r, k};
    };
    const auto order = [&](bool tr) { return batched ? (tr ? tag::acb : tag::abc) : (tr ? tag::ba : tag::ab); };
    const dnnl::memory::desc a_md(dims(c.m, c.k), t, order(c.a_t)), b_plain(dims(c.k, c.n), t, order(c.b_t));
    const dnnl::memory::desc b_md = c.constant ? dnnl::memory::desc(dims(c.k, c.n), t, tag::any) : b_plain;
    const dnnl::memory::desc c_md(dims(c.m, c.n), c.c_bf16 ? dt::bf16 : dt::f32, order(false));
    const dnnl::matmul::primitive_desc pd(dnnl::matmul::desc(a_md, b_md, c_md), engine());
    matmul_ = dnnl::matmul(pd);
    dnnl::memory b_user(b_plain, engine(), b.data);
    b_ = b_user;
    if (pd.weights_desc() != b_plain) {
      b_ = dnnl::memory(pd.weights_desc(), engine());
      dnnl::reorder(b_user, b_).execute(stream_, b_user, b_);
    }
    args_ = {{DNNL_ARG_SRC, dnnl::memory(a_md, engine(), a.data)},
             {DNNL_ARG_WEIGHTS, b_},
             {DNNL_ARG_DST, dnnl::memory(c_md, engine(), y.data)}};
  }
  void run() { matmul_.execute(stream_, args_), stream_.wait(); }

 private:
  static dnnl::engine& engine() {
    static dnnl::engine e(dnnl::engine::kind::cpu, 0);
    return e;
  }
  dnnl::stream stream_;
  dnnl::matmul matmul_;
  dnnl::memory b_;
  std::unordered_map<int, dnnl::memory> args_;
};

template <class F>
double best_of(double seconds, F&& f) {
  double best = 1e9;
  const auto start = Clock::now();
  f();
  do {
    const double t = stopwatch();
    f();
    best = std::min(best, stopwatch() - t);
  } while (seconds_since(start) < seconds);
  return best;
}

Result measure(const Case& c, Pool& pool, int threads, double seconds) {
  const std::size_t e = c.type == GemmType::f32 ? 4 : 2;
  const auto size = [](int64_t x) { return static_cast<std::size_t>(x); };
  Buffer a(size(c.batch * c.m * c.k) * e), b(size(c.batch * c.k * c.n) * e), y(size(c.batch * c.m * c.n) * 4),
      y2(y.size);
  fill(a, c.type), fill(b, c.type);
  GemmArgs g;
  g.m = c.m, g.n = c.n, g.type = c.type, g.batch = c.batch, g.c = y.data, g.c_row_stride = c.n, g.c_batch = c.m * c.n;
  if (c.c_bf16) g.c_type = GemmType::bf16;
  const MatrixRef a_ref = c.a_t ? MatrixRef{a.data, 1, c.m} : MatrixRef{a.data, c.k, 1};
  const MatrixRef b_ref = c.b_t ? MatrixRef{b.data, 1, c.k} : MatrixRef{b.data, c.n, 1};
  g.segments[0] = {a_ref, b_ref, false, c.k, c.m * c.k, c.k * c.n};
  const GemmShape shape{c.m, c.n, c.k, c.type};
  Buffer pack(c.constant ? packed_b_bytes(shape) : 1);
  if (c.constant) {
    pack_b(shape, b_ref, pack.data, 0, packed_b_panels(shape));
    g.segments[0].b = {pack.data, 0, 0}, g.segments[0].b_packed = true;
  }
  const GemmTiling t = plan_gemm(g);
  Buffer memory(size(threads) * (t.scratch_bytes + 4096));
  std::vector<char*> scratch;
  for (int i = 0; i < threads; ++i) scratch.push_back(memory.data + size(i) * (t.scratch_bytes + 4096));
  Peer peer(c, a, b, y2);
  Result r;
  constexpr int kRounds = 6;
  for (int round = 0; round < kRounds; ++round) {
    r.theirs = std::min(r.theirs, best_of(seconds / kRounds / 2, [&] { peer.run(); }));
    std::this_thread::sleep_for(std::chrono::milliseconds(12));  // OpenMP's workers spin on for a while
    pool.wake();
    r.ours = std::min(r.ours, best_of(seconds / kRounds / 2, [&] { pool.run(g, t, scratch); }));
    pool.sleep();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  double worst = 0;
  for (std::size_t i = 0; !c.c_bf16 && i < y.size / 4; ++i)
    worst =
        std::max<double>(worst, std::abs(reinterpret_cast<float*>(y.data)[i] - reinterpret_cast<float*>(y2.data)[i]));
  if (worst > 1e-3 * std::max<double>(1, static_cast<double>(c.k) / 100))
    std::printf("! differs from oneDNN by %g\n", worst);
  return r;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (GemmType t : {GemmType::f32, GemmType::bf16}) {
    for (auto [k, n] : {std::pair<int64_t, int64_t>{896, 4864}, {2048, 2048}, {4096, 4096}})
      for (int64_t m : {1, 2, 4, 8, 16, 32, 128, 512, 1024}) all.push_back({"linear", t, m, n, k});
    if (t == GemmType::bf16)
      for (int64_t m : {1, 8, 128, 1024}) all.push_back({"to bf16", t, m, 2048, 2048, true, false, false, 1, true});
    for (int64_t n : {8, 16, 64}) all.push_back({"x.A", t, 1024, n, 2048});
    all.push_back({"x.A act", t, 1024, 16, 2048, false});
    all.push_back({"u.B", t, 1024, 2048, 16});
    all.push_back({"u.B act", t, 1024, 2048, 16, false});
    all.push_back({"dA x'u", t, 2048, kLoraRank, 1024, false, true});
    all.push_back({"dB t'dy", t, kLoraRank, 2048, 1024, false, true});
    for (int64_t k : {192, 576}) {
      all.push_back({"x.A act", t, 1024, kLoraRank, k, false});
      all.push_back({"dy.B act", t, 1024, kLoraRank, k, false, false, true});
      all.push_back({"dA x'u", t, k, kLoraRank, 1024, false, true});
      all.push_back({"dB t'dy", t, kLoraRank, k, 1024, false, true});
    }
    all.push_back({"dW x'dy", t, 896, 896, 1024, false, true});
    for (int64_t s : {64, 128, 256, 512, 1024}) all.push_back({"square", t, s, s, s, false});
    all.push_back({"square BT", t, 512, 512, 512, false, false, true});
    for (bool transposed : {false, true}) all.push_back({"layer", t, 1024, 2048, 2048, false, false, transposed});
    all.push_back({"heads qk'", t, 128, 128, 64, false, false, true, 14});
    all.push_back({"heads pv", t, 128, 64, 128, false, false, false, 14});
    all.push_back({"decode qk'", t, 1, 512, 64, false, false, true, 14});
    all.push_back({"decode pv", t, 1, 64, 512, false, false, false, 14});
  }
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 0.4;
  const std::string filter = argc > 2 ? argv[2] : "";
  const int threads =
      argc > 3 ? std::atoi(argv[3]) : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  omp_set_num_threads(threads);
  cpu_time = threads == 1;
  Pool pool(threads);
  struct Row {
    Case c;
    Result r;
    double flops;
  };
  std::vector<Row> rows;
  double best[4] = {};
  std::printf("%d threads, %s, against oneDNN %d.%d\n", threads, gemm_isa_name(), dnnl_version()->major,
              dnnl_version()->minor);
  for (const Case& c : cases()) {
    const std::string label = std::string(c.group) + (c.type == GemmType::f32 ? " f32" : " bf16") + " m" +
                              std::to_string(c.m) + " n" + std::to_string(c.n) + " k" + std::to_string(c.k);
    if (label.find(filter) == std::string::npos) continue;
    const double flops = 2.0 * static_cast<double>(c.m * c.n * c.k * c.batch);
    rows.push_back({c, measure(c, pool, threads, seconds), flops});
    double& top = best[static_cast<int>(c.type)];
    top = std::max(top, flops / rows.back().r.theirs);
  }
  std::printf("%-10s %-4s %5s %5s %5s %3s | %9s %9s | %8s %8s | %6s %8s | %6s\n", "case", "type", "m", "n", "k", "b",
              "ours us", "dnnl us", "GFLOP/s", "dnnl", "ratio", "of best", "GB/s");
  for (const Row& r : rows) {
    const double e = r.c.type == GemmType::f32 ? 4 : 2;
    const double bytes = static_cast<double>(r.c.batch) * (static_cast<double>(r.c.m * r.c.k + r.c.k * r.c.n) * e +
                                                           static_cast<double>(r.c.m * r.c.n) * 4);
    std::printf("%-10s %-4s %5ld %5ld %5ld %3ld | %9.1f %9.1f | %8.0f %8.0f | %6.2f %7.1f%% | %6.1f\n", r.c.group,
                r.c.type == GemmType::f32 ? "f32" : "bf16", static_cast<long>(r.c.m), static_cast<long>(r.c.n),
                static_cast<long>(r.c.k), static_cast<long>(r.c.batch), r.r.ours * 1e6, r.r.theirs * 1e6,
                r.flops / r.r.ours * 1e-9, r.flops / r.r.theirs * 1e-9, r.r.theirs / r.r.ours,
                100 * r.flops / r.r.ours / best[static_cast<int>(r.c.type)], bytes / r.r.ours * 1e-9);
  }
}
