#include "runtime/miss_watch.h"

#include <fmt/format.h>

#include <algorithm>

#include "metal_candle/few_sizes.hpp"
#include "runtime/runtime.h"

namespace metal_candle {
namespace {

// Smaller graphs compile in tens of microseconds, and programs make many of them once: tables, initial values.
constexpr std::size_t kWorthWarning = 8;

thread_local int few_sizes = 0;  // guards alive

/// The part of the words that describes nodes; the roots come after it.
std::span<const std::uint64_t> node_words(const Capture& capture) {
  return std::span(capture.words).first(capture.words.size() - capture.roots.size() - 1);
}

}  // namespace

FewSizes::FewSizes() { ++few_sizes; }
FewSizes::~FewSizes() { --few_sizes; }

bool MissWatch::same_ops(const Capture& capture) const {
  return std::ranges::equal(capture.nodes, ops_, {}, [](const Node* n) { return n->op; });
}

void MissWatch::remember(const Capture& capture) {
  ops_.clear();
  for (const Node* n : capture.nodes) ops_.push_back(n->op);
  const auto words = node_words(capture);
  words_.assign(words.begin(), words.end());
}

void MissWatch::miss(const Capture& capture) {
  if (capture.nodes.size() < kWorthWarning || few_sizes > 0) return;
  // Equal words: only roots or passes differ, which a program does on purpose.
  if (!same_ops(capture) || std::ranges::equal(words_, node_words(capture))) {
    in_a_row_ = 1;
    warned_ = false;
  } else if (++in_a_row_ >= 3 && !warned_) {
    warned_ = true;
    runtime().say(fmt::format(
        "warning: the same {} operations were compiled three times in a row, as their structure differs each time. {}. "
        "Values that change belong into slots (plain C++ numbers) or tensors, lengths into few sizes.",
        ops_.size(), first_difference(words_, node_words(capture))));
  }
  remember(capture);
}

}  // namespace metal_candle
