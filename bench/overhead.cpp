// What the library itself costs, around computations too small to matter: recording, capture, lookup, replay.
//
// Every figure is the best of several rounds: overhead is a property of the code, and other programs only add to it.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <utility>

#include "metal_candle/metal_candle.hpp"

namespace mc = metal_candle;

namespace {

constexpr int kChain = 2000;
constexpr int kRounds = 30;

double now_ns() {
  return static_cast<double>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count());
}

void report(const std::string& what, double value, const std::string& unit, double target) {
  const std::string bound = target > 0 ? fmt::format("  (target {:g})", target) : std::string();
  fmt::print("{:<58} {:>10.3f} {}{}\n", what, value, unit, bound);
  fmt::print("{{\"bench\":\"overhead\",\"case\":\"{}\",\"value\":{:.4f},\"unit\":\"{}\",\"target\":{:g}}}\n", what,
             value, unit, target);
}

/// Nanoseconds of one call of f, as the best of several rounds of `calls`.
double best_of(int calls, const std::function<void()>& f) {
  double best = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    const double begin = now_ns();
    for (int i = 0; i < calls; ++i) f();
    best = std::min(best, (now_ns() - begin) / calls);
  }
  return best;
}

mc::LazyTensor chain_of(const mc::Tensor& x, int length) {
  mc::LazyTensor y = x;
  for (int i = 0; i < length; i += 2) y = (y + 1.0f) * 0.5f;
  return y;
}

void chain(const mc::Tensor& x) {
  double record = 1e30, replay = 1e30, first = 0;
  for (int round = 0; round < kRounds; ++round) {
    const double begin = now_ns();
    mc::LazyTensor y = chain_of(x, kChain);
    const double recorded = now_ns();
    y.eval();
    const double done = now_ns();
    record = std::min(record, recorded - begin);
    if (round == 0) first = done - recorded;
    else replay = std::min(replay, done - recorded);
  }
  report("record, ns an op", record / kChain, "ns", 80);
  report("first evaluation of 2000 ops (compiles)", first / 1e6, "ms", 50);
  report("capture to result of 2000 ops on 16 floats, ns an op", replay / kChain, "ns", 60);
}

void binary(const mc::Tensor& x) {
  constexpr int kMany = 1000;
  std::vector<mc::LazyTensor> keep(kMany);
  double best = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    const double begin = now_ns();
    for (auto& t : keep) t = x * x;
    best = std::min(best, now_ns() - begin);
  }
  report("record and drop a product of two tensors, ns an op", best / kMany, "ns", 80);
}

/// An optimizer's shape: many small leaves, those that are updated donated.
void leaves() {
  constexpr int kUpdated = 400, kRead = 1100;
  std::vector<mc::LazyTensor> state, read;
  for (int i = 0; i < kUpdated; ++i) state.emplace_back(mc::Tensor::ones({4}));
  for (int i = 0; i < kRead; ++i) read.emplace_back(mc::Tensor::ones({4}));
  double best = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<mc::LazyTensor> next = state;
    for (std::size_t i = 0; i < kRead; ++i) next[i % kUpdated] = next[i % kUpdated] + read[i];
    const double begin = now_ns();
    mc::eval_async({.roots = next, .donate = state}).wait();
    if (round > 0) best = std::min(best, now_ns() - begin);
    state = std::move(next);
  }
  report("1500 leaves, 400 of them donated: capture to result", best / 1e3, "us", 0);
}

void single(const mc::Tensor& x) {
  report("one op: record, evaluate, drop", best_of(2000, [&] { (x + 1.0f).eval(); }) / 1e3, "us", 1);
  const mc::EagerMode eager;
  report("one op, eager", best_of(2000, [&] { (void)(x + 1.0f); }) / 1e3, "us", 1);
}

void async(const mc::Tensor& x) {
  const double pair = best_of(200, [&] { mc::eval_async({.roots = {x + 1.0f}}).wait(); });
  report("one op: submit and wait", pair / 1e3, "us", 0);
  mc::set_queue_depth(1024);
  double best = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    constexpr int kMany = 200;
    const double begin = now_ns();
    for (int i = 0; i < kMany; ++i) mc::eval_async({.roots = {x + 1.0f}});
    best = std::min(best, (now_ns() - begin) / kMany);
    mc::synchronize();
  }
  report("one op: submit", best / 1e3, "us", 0);
}

}  // namespace

int main() {
  fmt::print("overhead on {} threads\n", mc::threads());
  const auto x = mc::Tensor::ones({16});
  chain(x);
  binary(x);
  leaves();
  single(x);
  async(x);
}
