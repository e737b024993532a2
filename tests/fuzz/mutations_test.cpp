// Every parser on thousands of small damages to valid files, from fixed seeds: it answers with a value or a FileError,
// and takes no more memory than the bytes deserve.
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "tests/fuzz/targets.h"

namespace metal_candle::fuzz {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

class Mutator {
 public:
  Mutator(const Target& target, unsigned seed) : target_(target), seeds_(target.seeds()), random_(seed) {}

  std::string next() {
    std::string out = seeds_[below(seeds_.size())];
    for (std::size_t i = 1 + below(below(8) + 1); i > 0; --i) damage(out);
    return out;
  }
  const std::vector<std::string>& seeds() const { return seeds_; }

 private:
  std::size_t below(std::size_t n) { return n == 0 ? 0 : random_() % n; }

  void damage(std::string& s) {
    const std::size_t at = below(s.size() + 1);
    const std::size_t few = 1 + below(8), some = below(s.size() - at + 1);
    switch (below(9)) {
      case 0: s.resize(at); break;
      case 1:
        if (at < s.size()) s[at] = static_cast<char>(random_());
        break;
      case 2:
        if (at < s.size()) s[at] = static_cast<char>(s[at] ^ 1 << below(8));
        break;
      case 3: s.erase(at, few); break;
      case 4: s.insert(at, few, static_cast<char>(random_())); break;
      case 5: s.insert(at, s.substr(at, below(64))); break;
      case 6: number(s, at); break;
      case 7:
        if (!target_.words.empty()) s.insert(at, target_.words[below(target_.words.size())]);
        break;
      default: {
        const std::string& other = seeds_[below(seeds_.size())];
        s.replace(at, some, other.substr(below(other.size() + 1), below(64)));
      }
    }
  }

  /// A number that likes to overflow, over eight or four bytes.
  void number(std::string& s, std::size_t at) {
    constexpr std::uint64_t kOdd[] = {0,
                                      1,
                                      2,
                                      31,
                                      32,
                                      255,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      std::uint64_t{1} << 32,
                                      std::uint64_t{1} << 62,
                                      ~std::uint64_t{0} >> 1,
                                      std::uint64_t{1} << 63,
                                      ~std::uint64_t{0}};
    const std::uint64_t value = kOdd[below(std::size(kOdd))] + below(3) - 1;
    const std::size_t size = std::min<std::size_t>(below(2) ? 8 : 4, s.size() - at);
    std::memcpy(s.data() + at, &value, size);
  }

  const Target& target_;
  const std::vector<std::string> seeds_;
  std::mt19937 random_;
};

long peak_kib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

/// The input under way; a run that ends badly leaves it in METAL_CANDLE_FUZZ_CRASH.
std::string& last_input() {
  static std::string input;
  return input;
}

extern "C" void keep_input(int signal) {
  if (const char* path = std::getenv("METAL_CANDLE_FUZZ_CRASH"))
    if (std::FILE* file = std::fopen(path, "wb")) {
      std::fwrite(last_input().data(), 1, last_input().size(), file);
      std::fclose(file);
    }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

class Mutations : public ::testing::TestWithParam<Target> {};

TEST_P(Mutations, NeverCrashAndTakeBoundedMemory) {
  const Target& target = GetParam();
  Mutator mutator(target, 20260921);
  for (const std::string& seed : mutator.seeds()) {
    target.run(seed);
    for (std::size_t n = 0; n < std::min<std::size_t>(seed.size(), 2000); ++n)
      target.run(std::string_view(seed).substr(0, n));
  }
  malloc_trim(0);
  const long before = peak_kib();
  const int count = kSanitized ? 4'000 : 20'000;
  for (int i = 0; i < count; ++i) target.run(mutator.next());
  if (!kSanitized) {
    EXPECT_LT(peak_kib() - before, 16 * 1024);
  }
}

/// For METAL_CANDLE_FUZZ_SECONDS a parser, from METAL_CANDLE_FUZZ_SEED on.
TEST_P(Mutations, ForAsLongAsIsAskedFor) {
  const char *seconds = std::getenv("METAL_CANDLE_FUZZ_SECONDS"), *seed = std::getenv("METAL_CANDLE_FUZZ_SEED");
  if (!seconds) GTEST_SKIP() << "runs when METAL_CANDLE_FUZZ_SECONDS is set";
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(seconds));
  const unsigned first = seed ? static_cast<unsigned>(std::atoi(seed)) : 1;
  std::signal(SIGABRT, keep_input);
  std::signal(SIGSEGV, keep_input);
  long count = 0;
  for (unsigned round = first; std::chrono::steady_clock::now() < end; ++round) {
    Mutator mutator(GetParam(), round);
    for (int i = 0; i < 500; ++i, ++count) {
      last_input() = mutator.next();
      GetParam().run(last_input());
    }
  }
  std::printf("%s: %ld inputs\n", GetParam().name, count);
}

INSTANTIATE_TEST_SUITE_P(Parsers, Mutations, ::testing::ValuesIn(targets()),
                         [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace metal_candle::fuzz
