#include "compiler/memory/memory.h"

#include <algorithm>
#include <map>

#include "compiler/fuse/lower.h"
#include "compiler/fuse/program_builder.h"

namespace metal_candle {
namespace {

constexpr std::size_t kAlign = 64;

class MemoryPlanner {
 public:
  MemoryPlanner(Plan& plan, const ComputationGraph& graph) : plan_(plan), graph_(graph) {}

  void run(bool reuse) {
    lifetimes();
    taken_.assign(plan_.buffers.size(), false);
    looks_.assign(graph_.leaves.size(), 0);
    for (const GraphLeaf& l : graph_.leaves) ++looks_[static_cast<std::size_t>(l.alias)];
    plan_.output_donor.assign(plan_.output_bytes.size(), -1);
    if (reuse) {
      for (const PlanStep& s : plan_.steps) in_place(s);
      for (PlanBuffer& b : plan_.buffers)
        if (b.same_as >= 0) extend(b.same_as, b.last);
      sweep();
    } else {
      for (PlanBuffer& b : plan_.buffers)
        if (b.where == PlanBuffer::Where::arena) place(b, plan_.arena_bytes);
      plan_.most_live_bytes = plan_.arena_bytes;
    }
  }

 private:
  PlanBuffer& buffer(int b) { return plan_.buffers[static_cast<std::size_t>(b)]; }

  void lifetimes() {
    phase_begin_.assign(static_cast<std::size_t>(plan_.phases) + 1, plan_.steps.size());
    for (std::size_t i = plan_.steps.size(); i-- > 0;) phase_begin_[static_cast<std::size_t>(plan_.steps[i].phase)] = i;
    for (const PlanStep& s : plan_.steps) {
      for (const int b : s.writes) note(b, s.phase);
      for (const int b : s.reads) note(b, s.phase);
    }
    for (const PlanOutput& o : plan_.outputs)
      if (buffer(o.buffer).where == PlanBuffer::Where::leaf) buffer(o.buffer).last = plan_.phases;
  }

  void note(int b, int phase) {
    if (b < 0) return;
    PlanBuffer& buf = buffer(b);
    if (buf.first < 0) buf.first = phase;
    buf.last = std::max(buf.last, phase);
  }
  void extend(int b, int last) {
    for (; b >= 0; b = buffer(b).same_as) buffer(b).last = std::max(buffer(b).last, last);
  }

  bool alone(const PlanStep& s, int b) const {
    // Nobody else of this phase reads or writes it.
    for (std::size_t i = phase_begin_[static_cast<std::size_t>(s.phase)];
         i < plan_.steps.size() && plan_.steps[i].phase == s.phase; ++i) {
      const PlanStep& other = plan_.steps[i];
      if (&other == &s) continue;
      for (const auto* list : {&other.reads, &other.writes})
        if (std::find(list->begin(), list->end(), b) != list->end()) return false;
    }
    return true;
  }

  /// Whether the memory of `in` is free for a result of this step: a temporary or a donated leaf that nobody needs any
  /// more.
  bool dies_in(const PlanStep& s, int in) {
    const PlanBuffer& a = buffer(in);
    if (a.bytes == 0 || a.last != s.phase || taken_[static_cast<std::size_t>(in)]) return false;
    if (a.where == PlanBuffer::Where::leaf) {
      const GraphLeaf& leaf = graph_.leaves[static_cast<std::size_t>(a.index)];
      if (!leaf.donated || looks_[static_cast<std::size_t>(leaf.alias)] != 1) return false;
    } else if (a.where != PlanBuffer::Where::arena) {
      return false;
    }
    return alone(s, in);
  }

  /// May memory that dies in this step become `out`? Temporaries become temporaries, leaves become results.
  bool may_become(const PlanStep& s, int in, int out) {
    const PlanBuffer& a = buffer(in);
    const PlanBuffer& o = buffer(out);
    if (a.bytes != o.bytes || o.first != s.phase || o.same_as >= 0) return false;
    return o.where == (a.where == PlanBuffer::Where::leaf ? PlanBuffer::Where::output : PlanBuffer::Where::arena);
  }

  void marry(int in, int out) {
    buffer(out).same_as = in;
    taken_[static_cast<std::size_t>(in)] = true;
    if (buffer(out).where == PlanBuffer::Where::output)
      plan_.output_donor[static_cast<std::size_t>(buffer(out).index)] = buffer(in).index;
  }

  void in_place(const PlanStep& s) {
    if (s.kind == PlanStep::Kind::kernel) kernel_in_place(s);
    else if (s.kind == PlanStep::Kind::fused || s.matmul.epilogue) program_in_place(s);
  }

  void kernel_in_place(const PlanStep& s) {
    const KernelStep& k = s.kernel;
    if (k.cpu->in_place_input < 0 || k.outputs[0].buffer < 0) return;
    const KernelStep::Operand& in = k.inputs[static_cast<std::size_t>(k.cpu->in_place_input)];
    if (in.dtype != k.outputs[0].dtype || in.offset != 0 || in.strides != contiguous_strides(in.shape)) return;
    // Another operand may look at the same memory: a view of it, or the same tensor again.
    const auto looks = [&](const KernelStep::Operand& o) { return o.buffer == in.buffer; };
    if (std::count_if(k.inputs.begin(), k.inputs.end(), looks) != 1) return;
    if (dies_in(s, in.buffer) && may_become(s, in.buffer, k.outputs[0].buffer)) marry(in.buffer, k.outputs[0].buffer);
  }

  void program_in_place(const PlanStep& s) {
    std::map<int, std::vector<int>> dying;  // buffer -> the values that load it
    for (const int in : s.reads)
      if (in >= 0 && !used_by_product(s, in) && dies_in(s, in)) dying[in];
    if (dying.empty()) return;
    const KernelProgram& p = s.program;
    for (std::size_t i = 0; i < p.values.size(); ++i) {
      if (p.values[i].op != KOp::load) continue;
      const auto at = dying.find(p.accesses[static_cast<std::size_t>(p.values[i].access)].buffer);
      if (at != dying.end()) at->second.push_back(static_cast<int>(i));
    }
    const std::vector<int> last = last_stages(p);
    for (const KValue& store : p.values) {
      if (store.op != KOp::store || !store.full) continue;
      const KAccess& to = p.accesses[static_cast<std::size_t>(store.access)];
      const auto found = std::find_if(dying.begin(), dying.end(), [&](const auto& d) {
        return may_become(s, d.first, to.buffer) && same_walk(p, last, d.second, store, to);
      });
      if (found == dying.end()) continue;
      marry(found->first, to.buffer);
      dying.erase(found);
    }
  }

  static bool used_by_product(const PlanStep& s, int b) {
    const MatmulStep& m = s.matmul;
    if (s.kind != PlanStep::Kind::matmul) return false;
    return m.a.buffer == b || m.b.buffer == b || m.a2.buffer == b || m.b2.buffer == b;
  }

  /// Each of `loads` reads exactly the place that `store` writes, and not after it.
  static bool same_walk(const KernelProgram& p, const std::vector<int>& last, const std::vector<int>& loads,
                        const KValue& store, const KAccess& to) {
    for (const int i : loads) {
      const KValue& v = p.values[static_cast<std::size_t>(i)];
      const KAccess& from = p.accesses[static_cast<std::size_t>(v.access)];
      const bool same_place = v.full && from.gather < 0 && from.offset == to.offset &&
                              from.row_strides == to.row_strides && from.col_stride == to.col_stride &&
                              size_of(from.dtype) == size_of(to.dtype);
      if (!same_place || last[static_cast<std::size_t>(i)] > store.stage) return false;
      const auto cols = [&](const KValue& x) { return p.stages[static_cast<std::size_t>(x.stage)].cols; };
      if (cols(v) != cols(store)) return false;
    }
    return true;
  }

  // Offsets: buffers come and go with the phases; the smallest hole that fits is taken.
  void sweep() {
    std::vector<std::vector<int>> begin(static_cast<std::size_t>(plan_.phases) + 1),
        end(static_cast<std::size_t>(plan_.phases) + 1);
    for (std::size_t i = 0; i < plan_.buffers.size(); ++i) {
      const PlanBuffer& b = plan_.buffers[i];
      if (b.where != PlanBuffer::Where::arena || b.same_as >= 0 || b.first < 0) continue;
      begin[static_cast<std::size_t>(b.first)].push_back(static_cast<int>(i));
      end[static_cast<std::size_t>(std::min(b.last, plan_.phases))].push_back(static_cast<int>(i));
    }
    std::map<std::size_t, std::size_t> holes;  // offset -> bytes
    std::size_t live = 0;
    for (int p = 0; p <= plan_.phases; ++p) {
      auto& starting = begin[static_cast<std::size_t>(p)];
      std::sort(starting.begin(), starting.end(),
                [&](int x, int y) { return std::make_pair(buffer(y).bytes, x) < std::make_pair(buffer(x).bytes, y); });
      for (const int b : starting) {
        fit(buffer(b), holes);
        live += rounded(buffer(b).bytes);
      }
      plan_.most_live_bytes = std::max(plan_.most_live_bytes, live);
      for (const int b : end[static_cast<std::size_t>(p)]) {
        free(buffer(b), holes);
        live -= rounded(buffer(b).bytes);
      }
    }
  }

  static std::size_t rounded(std::size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

  static void place(PlanBuffer& b, std::size_t& top) {
    b.offset = top;
    top += rounded(b.bytes);
  }

  void fit(PlanBuffer& b, std::map<std::size_t, std::size_t>& holes) {
    const std::size_t bytes = rounded(b.bytes);
    if (bytes == 0) return;
    auto best = holes.end();
    for (auto it = holes.begin(); it != holes.end(); ++it)
      if (it->second >= bytes && (best == holes.end() || it->second < best->second)) best = it;
    if (best == holes.end()) {
      // A hole at the top grows instead of starting above it.
      if (!holes.empty() && holes.rbegin()->first + holes.rbegin()->second == plan_.arena_bytes) {
        b.offset = holes.rbegin()->first;
        holes.erase(std::prev(holes.end()));
        plan_.arena_bytes = b.offset + bytes;
      } else {
        place(b, plan_.arena_bytes);
      }
      return;
    }
    b.offset = best->first;
    const std::size_t rest = best->second - bytes;
    holes.erase(best);
    if (rest > 0) holes[b.offset + bytes] = rest;
  }

  static void free(const PlanBuffer& b, std::map<std::size_t, std::size_t>& holes) {
    const std::size_t bytes = rounded(b.bytes);
    if (bytes == 0) return;
    auto it = holes.emplace(b.offset, bytes).first;
    const auto next = std::next(it);
    if (next != holes.end() && it->first + it->second == next->first) {
      it->second += next->second;
      holes.erase(next);
    }
    if (it == holes.begin()) return;
    const auto before = std::prev(it);
    if (before->first + before->second != it->first) return;
    before->second += it->second;
    holes.erase(it);
  }

  Plan& plan_;
  const ComputationGraph& graph_;
  std::vector<std::size_t> phase_begin_;  // each phase's first step
  std::vector<bool> taken_;               // per buffer: its memory is another's from some step on
  std::vector<int> looks_;                // per leaf that is the first on its memory: leaves on it
};

}  // namespace

void plan_memory(Plan& plan, const ComputationGraph& graph, bool reuse) { MemoryPlanner(plan, graph).run(reuse); }

}  // namespace metal_candle
