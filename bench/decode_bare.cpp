// The products of a decoded token, bare: the weights of a model's shape in bf16, packed as ours are, side by side on huge
// pages; two threads, each with half of every weight's columns. What the engine adds is missing: nobody takes tasks, and
// nothing lies between products but, where it says so, the wait for the other thread and some microseconds of one thread,
// as norms and attention take. Beside it, reading the same bytes.
//
//   bench_decode_bare [smol|qwen] [--rounds N]        needs AVX-512 with bf16
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "suite/language.h"
#include "suite/team.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace {

constexpr std::int64_t kPanel = 32, kAhead = 12 << 10, kReadAhead = 4 << 10;
constexpr double kBetween = 3e-6;  // what one thread does between two products

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Weight {
  std::int64_t k, n;
  const char* data = nullptr;
  std::int64_t bytes() const { return 2 * k * n; }
};
/// Weights that go over the same row: nobody waits between them.
using Round = std::vector<Weight>;

std::vector<Round> rounds_of(const metal_candle::ModelConfig& c) {
  const std::int64_t h = c.hidden, kv = c.key_heads * c.head_width;
  std::vector<Round> all;
  for (std::int64_t i = 0; i < c.layers; ++i) {
    all.push_back({{h, h}, {h, kv}, {h, kv}});
    all.push_back({{h, h}});
    all.push_back({{h, c.intermediate}, {h, c.intermediate}});
    all.push_back({{c.intermediate, h}});
  }
  all.push_back({{h, c.vocabulary}});
  return all;
}

/// Lays the weights side by side; their bytes.
std::int64_t place(std::vector<Round>& rounds) {
  constexpr std::size_t huge = std::size_t{2} << 20;
  std::int64_t bytes = 0;
  for (const Round& r : rounds)
    for (const Weight& w : r) bytes += w.bytes();
  const std::size_t size = static_cast<std::size_t>(bytes) + 2 * huge;
  void* const raw = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return 0;
  char* at = reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(raw) + huge - 1) / huge * huge);
  madvise(at, size - huge, MADV_HUGEPAGE);
  std::memset(at, 0, size - huge);
  for (Round& r : rounds)
    for (Weight& w : r) w.data = at, at += w.bytes();
  return bytes;
}

volatile std::int64_t sink;
alignas(64) float x[8192], y[200'000];

__attribute__((target("avx512f"))) void read(const char* b, std::int64_t bytes) {
  __m512i sum = _mm512_setzero_si512();
  for (std::int64_t i = 0; i < bytes; i += 64) {
    _mm_prefetch(b + i + kReadAhead, _MM_HINT_T0);
    sum = _mm512_xor_si512(sum, _mm512_loadu_si512(b + i));
  }
  alignas(64) std::int64_t words[8];
  _mm512_store_si512(words, sum);
  sink = words[0];
}

__attribute__((target("avx512f,avx512bf16"))) void multiply(const char* b, std::int64_t steps, float* out) {
  __m512 low = _mm512_setzero_ps(), high = low;
  const char* a = reinterpret_cast<const char*>(x);
  for (std::int64_t i = 0; i < steps; ++i, b += 128, a += 4) {
    _mm_prefetch(b + kAhead, _MM_HINT_T0);
    _mm_prefetch(b + kAhead + 64, _MM_HINT_T0);
    int pair;
    std::memcpy(&pair, a, sizeof pair);
    const auto both = (__m512bh)_mm512_set1_epi32(pair);
    low = _mm512_dpbf16_ps(low, both, (__m512bh)_mm512_loadu_si512(b));
    high = _mm512_dpbf16_ps(high, both, (__m512bh)_mm512_loadu_si512(b + 64));
  }
  _mm512_storeu_ps(out, low);
  _mm512_storeu_ps(out + 16, high);
}

struct Case {
  const char* name;
  bool multiplies, waits;
  double between;
};
constexpr Case kCases[] = {{"reading", false, false, 0},
                           {"products", true, false, 0},
                           {"products that wait for each other", true, true, 0},
                           {"and 3 us of one thread between them", true, true, kBetween}};

class Token {
 public:
  Token(const std::vector<Round>& rounds, bench::Team& team) : rounds_(rounds), team_(team) {}

  double seconds(const Case& c) {
    const double begin = now();
    team_.run([&](int thread) {
      for (const Round& r : rounds_) {
        for (const Weight& w : r) half(w, thread, c.multiplies);
        if (c.waits) meet();
        if (c.between == 0) continue;
        for (const double until = now() + c.between; thread == 0 && now() < until;) {
        }
        meet();
      }
    });
    return now() - begin;
  }

 private:
  static void half(const Weight& w, int thread, bool multiplies) {
    const std::int64_t panels = w.n / kPanel, begin = panels * thread / 2, end = panels * (thread + 1) / 2;
    const std::int64_t bytes = w.k * kPanel * 2;
    if (!multiplies) return read(w.data + begin * bytes, (end - begin) * bytes);
    for (std::int64_t p = begin; p < end; ++p) multiply(w.data + p * bytes, w.k / 2, y + p * kPanel);
  }
  void meet() {
    const int turn = turn_.load(std::memory_order_acquire);
    if (here_.fetch_add(1, std::memory_order_acq_rel) == 1) {
      here_.store(0, std::memory_order_relaxed);
      turn_.store(turn + 1, std::memory_order_release);
    }
    while (turn_.load(std::memory_order_acquire) == turn) _mm_pause();
  }

  const std::vector<Round>& rounds_;
  bench::Team& team_;
  alignas(64) std::atomic<int> here_{0};
  alignas(64) std::atomic<int> turn_{0};
};

int compare(const bench::LanguageShape& shape, int repeats) {
  std::vector<Round> rounds = rounds_of(shape.config);
  const std::int64_t bytes = place(rounds);
  if (bytes == 0) return fmt::print(stderr, "no memory for the weights\n"), 1;
  bench::Team team(2);
  Token token(rounds, team);
  std::vector<std::vector<double>> times(std::size(kCases));
  for (int i = 0; i < repeats; ++i)
    for (std::size_t c = 0; c < std::size(kCases); ++c) times[c].push_back(token.seconds(kCases[c]));
  for (std::size_t c = 0; c < std::size(kCases); ++c) {
    std::sort(times[c].begin(), times[c].end());
    const double median = times[c][times[c].size() / 2];
    fmt::print("{:14} {:36} {:7.3f} ms {:6.1f} GB/s\n", shape.name, kCases[c].name, median * 1e3,
               static_cast<double>(bytes) / median * 1e-9);
  }
  return 0;
}

}  // namespace

int main(int count, char** values) {
  bool qwen = false;
  int repeats = 21;
  for (int i = 1; i < count; ++i) {
    const std::string word = values[i];
    if (word == "--rounds" && i + 1 < count) repeats = std::max(1, std::stoi(values[++i]));
    else qwen = word == "qwen";
  }
  if (!__builtin_cpu_supports("avx512bf16")) return fmt::print("needs AVX-512 with bf16\n"), 0;
  return compare(qwen ? bench::qwen() : bench::smol(), repeats);
}

#else
int main() { fmt::print("needs AVX-512 with bf16\n"); }
#endif
