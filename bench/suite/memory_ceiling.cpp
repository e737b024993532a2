#include "suite/memory_ceiling.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "suite/suite.h"
#include "suite/team.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bench {
namespace {

constexpr std::size_t kBytes = std::size_t{128} << 20;
constexpr std::size_t kModelBytes = std::size_t{512} << 20;
constexpr std::size_t kHuge = std::size_t{2} << 20;

/// Memory that is touched and stays for the run; in huge pages or expressly not.
char* pages(bool huge, std::size_t bytes) {
  char* p =
      static_cast<char*>(mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  p = reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(p) + kHuge - 1) / kHuge * kHuge);
  madvise(p, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  std::memset(p, 1, bytes);
  return p;
}

using Copy = void (*)(char* to, const char* from, std::size_t bytes);
using Read = std::uint64_t (*)(const char* from, std::size_t bytes);

void copy_plain(char* to, const char* from, std::size_t n) { std::memcpy(to, from, n); }

std::uint64_t read_plain(const char* from, std::size_t n) {
  std::uint64_t lanes[8] = {};
  for (std::size_t i = 0; i < n; i += sizeof lanes) {
    std::uint64_t v[8];
    std::memcpy(v, from + i, sizeof v);
    for (int k = 0; k < 8; ++k) lanes[k] ^= v[k];
  }
  return lanes[0] ^ lanes[1] ^ lanes[2] ^ lanes[3] ^ lanes[4] ^ lanes[5] ^ lanes[6] ^ lanes[7];
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void copy_stream512(char* to, const char* from, std::size_t n) {
  for (std::size_t i = 0; i < n; i += 256) {
    const __m512i a = _mm512_loadu_si512(from + i), b = _mm512_loadu_si512(from + i + 64);
    const __m512i c = _mm512_loadu_si512(from + i + 128), d = _mm512_loadu_si512(from + i + 192);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), a);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i + 64), b);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i + 128), c);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i + 192), d);
  }
  _mm_sfence();
}

/// Asks for lines ahead, and past the caches, in which nothing of this is needed again.
__attribute__((target("avx512f"))) void copy_stream512_ahead(char* to, const char* from, std::size_t n) {
  for (std::size_t i = 0; i < n; i += 64) {
    _mm_prefetch(from + i + 2048, _MM_HINT_NTA);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
  }
  _mm_sfence();
}

/// Reads 16 KiB into the first-level cache, then writes them out: the memory changes direction less often.
__attribute__((target("avx512f"))) void copy_stream512_blocks(char* to, const char* from, std::size_t n) {
  constexpr std::size_t block = 16384;
  for (std::size_t at = 0; at < n; at += block) {
    const std::size_t end = std::min(n, at + block);
    for (std::size_t i = at; i < end; i += 64) _mm_prefetch(from + i, _MM_HINT_T0);
    for (std::size_t i = at; i < end; i += 64)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
  }
  _mm_sfence();
}

__attribute__((target("avx2"))) void copy_stream256(char* to, const char* from, std::size_t n) {
  for (std::size_t i = 0; i < n; i += 64) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i + 32));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), a);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i + 32), b);
  }
  _mm_sfence();
}

__attribute__((target("avx512f"))) std::uint64_t first_word(__m512i v) {
  std::uint64_t words[8];
  _mm512_storeu_si512(words, v);
  return words[0];
}

__attribute__((target("avx512f"))) std::uint64_t read512(const char* from, std::size_t n) {
  __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
  for (std::size_t i = 0; i < n; i += 256) {
    a = _mm512_xor_si512(a, _mm512_loadu_si512(from + i));
    b = _mm512_xor_si512(b, _mm512_loadu_si512(from + i + 64));
    c = _mm512_xor_si512(c, _mm512_loadu_si512(from + i + 128));
    d = _mm512_xor_si512(d, _mm512_loadu_si512(from + i + 192));
  }
  return first_word(_mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d)));
}

template <std::size_t kAhead>
__attribute__((target("avx512f"))) std::uint64_t read512_ahead(const char* from, std::size_t n) {
  __m512i a = _mm512_setzero_si512();
  for (std::size_t i = 0; i < n; i += 64) {
    _mm_prefetch(from + i + kAhead, _MM_HINT_T0);
    a = _mm512_xor_si512(a, _mm512_loadu_si512(from + i));
  }
  return first_word(a);
}
#endif

struct NamedCopy {
  const char* name;
  Copy loop;
};
struct NamedRead {
  const char* name;
  Read loop;
};

std::vector<NamedCopy> copies() {
  std::vector<NamedCopy> all = {{"memcpy", copy_plain}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) all.push_back({"non-temporal 256", copy_stream256});
  if (__builtin_cpu_supports("avx512f"))
    all.insert(all.end(), {{"non-temporal 512", copy_stream512},
                           {"non-temporal 512, prefetch", copy_stream512_ahead},
                           {"non-temporal 512, blocks", copy_stream512_blocks}});
#endif
  return all;
}

std::vector<NamedRead> reads() {
  std::vector<NamedRead> all = {{"plain", read_plain}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f"))
    all.insert(all.end(), {{"512", read512},
                           {"512, prefetch 4 KiB", read512_ahead<4096>},
                           {"512, prefetch 8 KiB", read512_ahead<8192>},
                           {"512, prefetch 16 KiB", read512_ahead<16384>}});
#endif
  return all;
}

/// Cuts the memory in pieces that the threads take in turn: one piece a thread, or many small ones.
template <class Piece>
std::function<void()> in_pieces(std::size_t bytes, std::size_t piece, Piece body) {
  return [bytes, piece, body] {
    Team& t = team();
    const std::size_t count = bytes / piece, threads = static_cast<std::size_t>(t.size());
    t.run([&](int thread) {
      for (std::size_t i = static_cast<std::size_t>(thread); i < count; i += threads) body(i * piece, piece);
    });
  };
}

MemoryLoop best_of(const std::vector<MemoryLoop>& loops) {
  std::vector<double> best(loops.size(), 1e9);
  for (int round = 0; round < 5; ++round)
    for (std::size_t i = 0; i < loops.size(); ++i) {
      const double begin = now();
      loops[i].run();
      best[i] = std::min(best[i], now() - begin);
    }
  return loops[static_cast<std::size_t>(std::min_element(best.begin(), best.end()) - best.begin())];
}

std::vector<std::size_t> piece_sizes(std::size_t bytes) {
  return {bytes / static_cast<std::size_t>(team().size()) / 4096 * 4096, std::size_t{1} << 20, std::size_t{64} << 10};
}

volatile std::uint64_t sink = 0;  // what was read has to go somewhere

MemoryLoop find_best_copy() {
  std::vector<MemoryLoop> loops;
  for (const bool huge : {true, false}) {
    char *from = pages(huge, kBytes), *to = pages(huge, kBytes);
    for (const NamedCopy& c : copies())
      for (const std::size_t piece : piece_sizes(kBytes))
        loops.push_back({std::string(c.name) + (huge ? ", huge pages, " : ", small pages, ") +
                             std::to_string(piece >> 10) + " KiB pieces",
                         2.0 * kBytes, in_pieces(kBytes, piece, [=](std::size_t at, std::size_t n) {
                           c.loop(to + at, from + at, n);
                         })});
  }
  return best_of(loops);
}

MemoryLoop find_best_read(std::size_t bytes) {
  std::vector<MemoryLoop> loops;
  const char* from = pages(true, bytes);
  for (const NamedRead& r : reads())
    for (const std::size_t piece : piece_sizes(bytes))
      loops.push_back({std::string(r.name) + ", huge pages, " + std::to_string(piece >> 10) + " KiB pieces",
                       static_cast<double>(bytes), in_pieces(bytes, piece, [=](std::size_t at, std::size_t n) {
                         sink = sink + r.loop(from + at, n);
                       })});
  return best_of(loops);
}

}  // namespace

Team& team(int threads) {
  static Team t(threads);
  return t;
}

const MemoryLoop& best_copy() {
  static const MemoryLoop loop = find_best_copy();
  return loop;
}

const MemoryLoop& best_read() {
  static const MemoryLoop loop = find_best_read(kBytes);
  return loop;
}

const MemoryLoop& best_model_read() {
  static const MemoryLoop loop = find_best_read(kModelBytes);
  return loop;
}

double touch_fresh(double bytes) {
  constexpr std::size_t kPage = 4096;
  const std::size_t pages = static_cast<std::size_t>(std::max(bytes, 0.0)) / kPage;
  void* const memory = mmap(nullptr, (pages + 1) * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  madvise(memory, pages * kPage, MADV_HUGEPAGE);
  const double begin = now();
  team().run([&](int thread) {
    const auto n = static_cast<std::size_t>(team().size()), t = static_cast<std::size_t>(thread);
    for (std::size_t page = pages * t / n; page < pages * (t + 1) / n; ++page)
      static_cast<volatile char*>(memory)[page * kPage] = 1;
  });
  const double seconds = now() - begin;
  munmap(memory, (pages + 1) * kPage);
  return seconds;
}

double traffic_limit(double read_bytes, double written_bytes, double read_rate, double copy_rate) {
  return std::max(0.0, read_bytes - written_bytes) / read_rate + 2 * written_bytes / copy_rate;
}

}  // namespace bench
