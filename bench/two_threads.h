// Two threads that share tasks without sleeping, memory in huge pages, and the best plain copy: for the programs that
// measure rows.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bench {

/// On one thread the time that thread was running, so that a busy machine does not show.
inline bool cpu_time = false;
inline double now() {
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

inline char* pages(std::size_t bytes) {
  bytes = (bytes + (2u << 20) - 1) >> 21 << 21;
  char* p =
      static_cast<char*>(mmap(nullptr, bytes + (2u << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  p = reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(p) + (2u << 20) - 1) >> 21 << 21);
  madvise(p, bytes, MADV_HUGEPAGE);
  std::memset(p, 0, bytes);
  return p;
}

inline void fill(char* p, std::size_t floats, float scale) {
  auto* f = reinterpret_cast<float*>(p);
  std::uint32_t x = 12345;
  for (std::size_t i = 0; i < floats; ++i) {
    x = x * 1664525u + 1013904223u;
    f[i] = scale * (static_cast<float>(x >> 8) / 8388608.0f - 1.0f);
  }
}

__attribute__((target("avx512f"))) inline void copy_stream(char* to, const char* from, std::size_t n) {
#if defined(__x86_64__)
  for (std::size_t i = 0; i < n; i += 64)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
  _mm_sfence();
#else
  std::memcpy(to, from, n);
#endif
}

}  // namespace bench
