// Where a decoded token's time goes: the time of a token beside reading its weights bare, then kernel by kernel from a
// trace, and what lies between two tokens. The machine's rate can change from one second to the next, so the read loop
// runs right before and right after.
//
//   bench_decode [smol|qwen] [--tokens N] [--order]     --order: the steps of one token, one after the other
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <metal_candle/generate.hpp>
#include <metal_candle/metal_candle.hpp>
#include <string>
#include <vector>

#include "suite/language.h"
#include "suite/team.h"

namespace mc = metal_candle;

namespace {

constexpr int kPrompt = 64, kTraced = 8;
constexpr double kPause = 60;  // µs; between steps of one token there is never so much

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// GB/s of two threads that read 256 MiB with a plain loop, the best of a few; `limits` of the suite tries many loops.
double read_rate() {
  static bench::Team team(2);
  static std::vector<std::uint64_t> words(std::size_t{32} << 20, 1);
  static volatile std::uint64_t sink = 0;
  const std::size_t half = words.size() / 2;
  double best = 1e9;
  for (int i = 0; i < 6; ++i) {
    const double begin = now();
    team.run([&](int thread) {
      const std::uint64_t* p = words.data() + static_cast<std::size_t>(thread) * half;
      std::uint64_t lanes[8] = {};
      for (std::size_t at = 0; at < half; at += 8)
        for (std::size_t k = 0; k < 8; ++k) lanes[k] ^= p[at + k];
      for (const std::uint64_t lane : lanes) sink = sink ^ lane;
    });
    best = std::min(best, now() - begin);
  }
  return static_cast<double>(words.size()) * 8 / best * 1e-9;
}

/// A step of a token: from its first task's begin to its last one's end, in µs.
struct Span {
  std::string name;
  double begin, end, bytes;
};

std::vector<Span> spans_of(std::vector<mc::Trace::Event> events) {
  std::stable_sort(events.begin(), events.end(), [](const auto& a, const auto& b) { return a.begin_ns < b.begin_ns; });
  std::vector<Span> spans;
  for (const auto& e : events) {
    if (e.bytes <= 0 && e.flops <= 0) continue;
    const double begin = static_cast<double>(e.begin_ns) * 1e-3, end = static_cast<double>(e.end_ns) * 1e-3;
    if (!spans.empty() && spans.back().name == e.name && begin < spans.back().end + kPause) {
      spans.back().end = std::max(spans.back().end, end);
      spans.back().bytes += e.bytes;
    } else {
      spans.push_back({e.name, begin, end, e.bytes});
    }
  }
  return spans;
}

void print_kernels(const std::vector<Span>& spans) {
  struct Sum {
    double time = 0, bytes = 0, count = 0;
  };
  std::map<std::string, Sum> sums;
  double last = 0, gaps = 0, between = 0;
  for (const Span& s : spans) {
    const double gap = last > 0 ? s.begin - last : 0;
    (gap > kPause ? between : gaps) += std::max(gap, 0.0);
    Sum& sum = sums[s.name];
    sum.time += std::max(0.0, s.end - std::max(s.begin, last));
    sum.bytes += s.bytes;
    sum.count += 1;
    last = std::max(last, s.end);
  }
  std::vector<std::pair<double, std::string>> order;
  for (const auto& [name, sum] : sums) order.emplace_back(-sum.time, name);
  std::sort(order.begin(), order.end());
  for (const auto& [time, name] : order)
    fmt::print("  {:8.1f} us a token, {:5.1f} times, {:6.1f} GB/s  {}\n", -time / kTraced, sums[name].count / kTraced,
               sums[name].bytes / -time * 1e-3, name);
  fmt::print("  {:8.1f} us between steps, {:.1f} us between tokens (traced)\n", gaps / kTraced,
             between / (kTraced - 1));
}

void print_order(const std::vector<Span>& spans) {
  std::size_t first = 1;
  for (int tokens = 0; first < spans.size() && tokens < 3; ++first)
    if (spans[first].begin > spans[first - 1].end + kPause) ++tokens;
  const double begin = first <= spans.size() ? spans[first - 1].begin : 0;
  for (std::size_t i = first - 1; i < std::min(spans.size(), first + 60); ++i)
    fmt::print("  +{:8.1f} {:7.1f} us {:6.1f} GB/s  {}\n", spans[i].begin - begin, spans[i].end - spans[i].begin,
               spans[i].bytes / (spans[i].end - spans[i].begin) * 1e-3, spans[i].name);
}

}  // namespace

int main(int count, char** values) {
  bool qwen = false, in_order = false;
  int tokens = 32;
  for (int i = 1; i < count; ++i) {
    const std::string word = values[i];
    if (word == "--order") in_order = true;
    else if (word == "--tokens" && i + 1 < count) tokens = std::max(1, std::stoi(values[++i]));
    else qwen = word == "qwen";
  }
  mc::set_threads(2);
  const bench::LanguageShape shape = qwen ? bench::qwen() : bench::smol();
  mc::Generator generator(mc::Model::random(shape.config, mc::Key(1), mc::DType::bf16));
  double bytes = 0;
  for (const auto& [name, t] : generator.model().parameters())
    bytes += static_cast<double>(t.numel()) * static_cast<double>(mc::size_of(t.dtype()));
  std::vector<std::int32_t> prompt;
  for (int i = 0; i < kPrompt; ++i) prompt.push_back(7 * i % 40000);
  // The prompt's keys are kept from the first call on.
  const auto decode = [&](int n) { generator.generate(prompt, {.max_tokens = n, .ignore_eos = true}); };
  decode(tokens);
  const double before = read_rate();
  std::vector<double> times;
  for (int i = 0; i < 11; ++i) {
    const double begin = now();
    decode(tokens);
    times.push_back((now() - begin) / tokens);
  }
  const double after = read_rate();
  std::sort(times.begin(), times.end());
  fmt::print("{}: {:.3f} ms a token (best {:.3f}), {:.1f} tokens/s, {:.1f} GB/s; reading bare {:.1f} and {:.1f} GB/s\n",
             shape.name, times[5] * 1e3, times[0] * 1e3, 1 / times[5], bytes / times[5] * 1e-9, before, after);
  const mc::Trace trace;
  decode(kTraced);
  const std::vector<Span> spans = spans_of(trace.events());
  print_kernels(spans);
  if (in_order) print_order(spans);
}
