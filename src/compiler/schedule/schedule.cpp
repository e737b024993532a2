#include "compiler/schedule/schedule.h"

#include <algorithm>
#include <functional>
#include <queue>

namespace metal_candle {
namespace {

constexpr double kSmallStep = 150e-6;  // seconds; larger steps fill all threads by themselves
constexpr std::size_t kLookAhead = 32;

double seconds(const PlanStep& s) { return std::max(s.bytes / 2e10, s.flops / 1e11); }

bool reads_any(const PlanStep& s, const std::vector<int>& written_in, int phase) {
  for (const int b : s.reads)
    if (b >= 0 && written_in[static_cast<std::size_t>(b)] >= phase) return true;
  return false;
}

}  // namespace

std::vector<int> order_units(const Fusion& f) {
  const auto n = f.units.size();
  std::vector<int> waiting(n, 0), place(n, 0);
  std::vector<std::vector<int>> users(n);
  for (std::size_t u = 0; u < n; ++u) {
    const Unit& unit = f.units[u];
    if (!unit.alive) continue;
    place[u] = std::max(unit.single, unit.members.empty() ? -1 : unit.members.front());
    for (const int p : unit.needs) {
      if (!f.units[static_cast<std::size_t>(p)].alive) continue;
      ++waiting[u];
      users[static_cast<std::size_t>(p)].push_back(static_cast<int>(u));
    }
  }
  using Entry = std::pair<int, int>;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> ready;
  for (std::size_t u = 0; u < n; ++u)
    if (f.units[u].alive && waiting[u] == 0) ready.emplace(place[u], static_cast<int>(u));
  std::vector<int> order;
  while (!ready.empty()) {
    const int u = ready.top().second;
    ready.pop();
    order.push_back(u);
    for (const int v : users[static_cast<std::size_t>(u)])
      if (--waiting[static_cast<std::size_t>(v)] == 0) ready.emplace(place[static_cast<std::size_t>(v)], v);
  }
  return order;
}

void assign_phases(Plan& plan, bool overlap) {
  constexpr int kUnwritten = 1 << 30;
  std::vector<int> written_in(plan.buffers.size(), -1);
  for (const PlanStep& s : plan.steps)
    for (const int b : s.writes) written_in[static_cast<std::size_t>(b)] = kUnwritten;
  std::vector<PlanStep> done;
  done.reserve(plan.steps.size());
  std::vector<PlanStep> left = std::move(plan.steps);
  std::vector<bool> taken(left.size(), false);
  std::size_t first = 0;
  int phase = 0;
  auto take = [&](std::size_t i) {
    taken[i] = true;
    left[i].phase = phase;
    for (const int b : left[i].writes) written_in[static_cast<std::size_t>(b)] = phase;
    done.push_back(std::move(left[i]));
  };
  for (; first < left.size(); ++first) {
    if (taken[first]) continue;
    take(first);
    if (overlap) {
      std::size_t seen = 0;
      for (std::size_t i = first + 1; i < left.size() && seen < kLookAhead; ++i) {
        if (taken[i]) continue;
        ++seen;
        if (seconds(left[i]) < kSmallStep && !reads_any(left[i], written_in, phase)) take(i);
      }
    }
    ++phase;
  }
  plan.steps = std::move(done);
  plan.phases = phase;
}

}  // namespace metal_candle
