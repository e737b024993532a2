#include "runtime/miss_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "runtime/runtime.h"

namespace metal_candle {
namespace {

// Smaller graphs compile in tens of microseconds, and programs make many of them once: tables, initial values.
constexpr std::size_t kWorthWarning = 8;

struct LastMiss {
  std::size_t nodes = 0;
  int in_a_row = 0;
  bool warned = false;
  std::vector<const OpDef*> ops;
  std::vector<std::uint64_t> words;
};
thread_local LastMiss last;

bool same_ops(const Capture& capture) {
  if (capture.nodes.size() != last.ops.size()) return false;
  for (std::size_t i = 0; i < last.ops.size(); ++i)
    if (capture.nodes[i]->op != last.ops[i]) return false;
  return true;
}

/// The part of the words that describes nodes; the roots come after it.
std::span<const std::uint64_t> node_words(const Capture& capture) {
  return std::span(capture.words).first(capture.words.size() - capture.roots.size() - 1);
}

void remember(const Capture& capture) {
  last.nodes = capture.nodes.size();
  last.ops.clear();
  for (const Node* n : capture.nodes) last.ops.push_back(n->op);
  const auto words = node_words(capture);
  last.words.assign(words.begin(), words.end());
}

}  // namespace

void note_hit(const Capture& capture) {
  if (capture.nodes.size() == last.nodes) last.in_a_row = 0;
}

void note_miss(const Capture& capture) {
  if (capture.nodes.size() < kWorthWarning) return;
  // Equal words: only roots or passes differ, which a program does on purpose.
  if (!same_ops(capture) || std::ranges::equal(last.words, node_words(capture))) {
    last.in_a_row = 1;
    last.warned = false;
    remember(capture);
    return;
  }
  if (++last.in_a_row >= 3 && !last.warned) {
    last.warned = true;
    runtime().say(fmt::format(
        "warning: the same {} operations were compiled three times in a row, as their structure differs each time. {}. "
        "Values that change belong into slots (plain C++ numbers) or tensors, lengths into few sizes.",
        last.nodes, first_difference(last.words, node_words(capture))));
  }
  remember(capture);
}

}  // namespace metal_candle
