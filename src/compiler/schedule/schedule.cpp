#include "compiler/schedule/schedule.h"

#include <algorithm>
#include <functional>
#include <queue>

namespace metal_candle {
namespace {

constexpr double kSmallStep = 150e-6;  // seconds; larger steps fill all threads by themselves but for their end
constexpr std::size_t kLookAhead = 32;
// At the end of a phase all threads wait for the last task. Large steps share phases with what comes soon after them;
// what comes later would hold memory for longer.
constexpr std::size_t kSoon = 8;

double seconds(const PlanStep& s) { return std::max(s.bytes / 2e10, s.flops / 1e11); }

bool reads_any(const PlanStep& s, const std::vector<int>& written_in, int phase) {
  for (const int b : s.reads)
    if (b >= 0 && written_in[static_cast<std::size_t>(b)] >= phase) return true;
  return false;
}

/// What a unit does to the memory of temporaries.
struct Effect {
  std::vector<int> reads;  // values of other units, each once
  std::size_t made = 0;    // bytes
  bool held = false;       // a result may be written over a donated leaf, once nobody else needs the leaf
};

/// An order of units: as recorded, but what frees memory, or turns much into little, comes as soon as it can. That is
/// what keeps a backward pass small: gradients of weights are recorded after the whole of it.
class Orderer {
 public:
  Orderer(const ComputationGraph& graph, const std::vector<View>& views, const Fusion& fusion)
      : g_(graph),
        views_(views),
        f_(fusion),
        result_(graph.nodes.size(), false),
        readers_(graph.nodes.size()),
        left_(graph.nodes.size(), 0),
        effects_(fusion.units.size()),
        waiting_(fusion.units.size(), 0),
        users_(fusion.units.size()),
        done_(fusion.units.size(), false) {
    for (const int r : graph.roots) result_[static_cast<std::size_t>(view(r).base)] = true;
    for (std::size_t u = 0; u < fusion.units.size(); ++u)
      if (fusion.units[u].alive) note(static_cast<int>(u));
  }

  std::vector<int> run() {
    for (std::size_t u = 0; u < f_.units.size(); ++u)
      if (f_.units[u].alive && waiting_[u] == 0) push(static_cast<int>(u));
    std::vector<int> order;
    while (!ready_.empty()) {
      const int u = ready_.top().second;
      ready_.pop();
      if (done_[static_cast<std::size_t>(u)]) continue;  // was there twice
      done_[static_cast<std::size_t>(u)] = true;
      order.push_back(u);
      release(u);
    }
    return order;
  }

 private:
  const GraphNode& node(int i) const { return g_.nodes[static_cast<std::size_t>(i)]; }
  const View& view(int i) const { return views_[static_cast<std::size_t>(i)]; }
  std::size_t bytes_of(int i) const { return static_cast<std::size_t>(node(i).shape.numel()) * size_of(node(i).dtype); }

  void note(int u) {
    const Unit& unit = f_.units[static_cast<std::size_t>(u)];
    Effect& e = effects_[static_cast<std::size_t>(u)];
    bool donated = false, result = false;
    const auto take = [&](int i) {
      for (const int in : node(i).inputs) {
        const int base = view(in).base;
        const GraphNode& from = node(base);
        if (from.op->kind == OpKind::leaf) donated |= g_.leaves[static_cast<std::size_t>(from.leaf)].donated;
        else if (stored(base) && unit_of(base) != u) e.reads.push_back(base);
      }
    };
    const auto make = [&](int i) {
      const bool is_result = result_[static_cast<std::size_t>(i)];
      result |= is_result;
      if (stored(i) && !is_result) e.made += bytes_of(i);
    };
    for (const int m : unit.members) take(m), make(m);
    if (unit.single >= 0) take(unit.single), make(unit.single);
    for (const int o : unit.outputs) make(o);
    e.held = donated && result;
    std::sort(e.reads.begin(), e.reads.end());
    e.reads.erase(std::unique(e.reads.begin(), e.reads.end()), e.reads.end());
    for (const int base : e.reads) {
      readers_[static_cast<std::size_t>(base)].push_back(u);
      ++left_[static_cast<std::size_t>(base)];
    }
    for (const int p : unit.needs) {
      if (!f_.units[static_cast<std::size_t>(p)].alive) continue;
      ++waiting_[static_cast<std::size_t>(u)];
      users_[static_cast<std::size_t>(p)].push_back(u);
    }
  }
  bool stored(int i) const { return f_.stored[static_cast<std::size_t>(i)]; }
  int unit_of(int i) const { return f_.unit_of[static_cast<std::size_t>(i)]; }

  bool eager(int u) const {
    const Effect& e = effects_[static_cast<std::size_t>(u)];
    std::size_t read = 0, freed = 0;
    for (const int base : e.reads) {
      if (result_[static_cast<std::size_t>(base)]) continue;
      read += bytes_of(base);
      if (left_[static_cast<std::size_t>(base)] == 1) freed += bytes_of(base);
    }
    return read > 0 && !e.held && (e.made <= freed || 4 * e.made <= read);
  }

  void push(int u) {
    const Unit& unit = f_.units[static_cast<std::size_t>(u)];
    const int place = std::max(unit.single, unit.members.empty() ? -1 : unit.members.front());
    ready_.emplace(eager(u) ? place - static_cast<int>(g_.nodes.size()) : place, u);
  }

  /// `u` has run: others may be ready now, or free what nobody else reads any more.
  void release(int u) {
    for (const int base : effects_[static_cast<std::size_t>(u)].reads) {
      if (--left_[static_cast<std::size_t>(base)] != 1) continue;
      for (const int v : readers_[static_cast<std::size_t>(base)])
        if (!done_[static_cast<std::size_t>(v)] && waiting_[static_cast<std::size_t>(v)] == 0) push(v);
    }
    for (const int v : users_[static_cast<std::size_t>(u)])
      if (--waiting_[static_cast<std::size_t>(v)] == 0) push(v);
  }

  const ComputationGraph& g_;
  const std::vector<View>& views_;
  const Fusion& f_;
  std::vector<bool> result_;               // per value: a root, not a temporary
  std::vector<std::vector<int>> readers_;  // per value: units
  std::vector<int> left_;                  // per value: readers that have not run
  std::vector<Effect> effects_;            // per unit
  std::vector<int> waiting_;               // per unit: needed ones that have not run
  std::vector<std::vector<int>> users_;    // per unit
  std::vector<bool> done_;                 // per unit
  using Entry = std::pair<int, int>;       // place, unit
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> ready_;
};

}  // namespace

std::vector<int> order_units(const ComputationGraph& g, const std::vector<View>& views, const Fusion& f) {
  return Orderer(g, views, f).run();
}

void assign_phases(Plan& plan, bool overlap) {
  constexpr int kLater = 1 << 30;
  std::vector<int> written_in(plan.buffers.size(), -1);
  for (const PlanStep& s : plan.steps)
    for (const int b : s.writes) written_in[static_cast<std::size_t>(b)] = kLater;
  std::vector<PlanStep> done;
  done.reserve(plan.steps.size());
  std::vector<PlanStep> left = std::move(plan.steps);
  std::vector<int> phase_of(left.size(), kLater);
  int phase = 0;
  const auto take = [&](std::size_t i) {
    phase_of[i] = left[i].phase = phase;
    for (const int b : left[i].writes) written_in[static_cast<std::size_t>(b)] = phase;
    left[i].after.clear();
    done.push_back(std::move(left[i]));
  };
  const auto may_move_up = [&](const PlanStep& s, std::size_t distance) {
    if ((distance > kSoon && seconds(s) >= kSmallStep) || reads_any(s, written_in, phase)) return false;
    return std::all_of(s.after.begin(), s.after.end(),
                       [&](int step) { return phase_of[static_cast<std::size_t>(step)] < phase; });
  };
  for (std::size_t first = 0; first < left.size(); ++first) {
    if (phase_of[first] != kLater) continue;
    take(first);
    std::size_t seen = 0;
    for (std::size_t i = first + 1; overlap && i < left.size() && seen < kLookAhead; ++i) {
      if (phase_of[i] != kLater) continue;
      ++seen;
      if (may_move_up(left[i], seen)) take(i);
    }
    ++phase;
  }
  plan.steps = std::move(done);
  plan.phases = phase;
}

}  // namespace metal_candle
