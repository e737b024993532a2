// The list of passes, in order. Each can be switched off by name; decomposition and layouts are not optional, since
// nothing could run without them.
#include <chrono>
#include <unordered_map>

#include <fmt/format.h>

#include "base/pool.h"
#include "compiler/compile.h"
#include "compiler/fuse/groups.h"
#include "compiler/fuse/lower.h"
#include "compiler/memory/memory.h"
#include "compiler/rewrite.h"
#include "compiler/schedule/schedule.h"
#include "compiler/verify.h"
#include "metal_candle/error.hpp"
#include "ops/table.h"

namespace metal_candle {
namespace {

enum Pass { kSimplify, kCommon, kLora, kFuse, kOverlap, kMemory };
bool on(PassMask mask, Pass pass) { return (mask >> pass & 1) != 0; }

class Timer {
 public:
  explicit Timer(Plan& plan) : plan_(plan), last_(std::chrono::steady_clock::now()) {}
  void lap(const char* name) {
    const auto now = std::chrono::steady_clock::now();
    plan_.times.push_back({name, std::chrono::duration<double, std::micro>(now - last_).count()});
    last_ = now;
  }

 private:
  Plan& plan_;
  std::chrono::steady_clock::time_point last_;
};

/// A root that is a bare number gets a kernel that writes it.
void give_roots_memory(ComputationGraph& g) {
  for (int& r : g.roots) {
    int base = r;
    while (g.nodes[static_cast<std::size_t>(base)].op->kind == OpKind::view)
      base = g.nodes[static_cast<std::size_t>(base)].inputs[0];
    const GraphNode n = g.nodes[static_cast<std::size_t>(r)];
    if (g.nodes[static_cast<std::size_t>(base)].op->kind != OpKind::scalar) continue;
    g.nodes.push_back(make_like(n, ops::cast_def, n.dtype, n.shape, {r}, Attrs{static_cast<std::int64_t>(n.dtype)}));
    r = static_cast<int>(g.nodes.size()) - 1;
  }
}

/// Assembles steps and buffers from units.
class Assembler {
 public:
  Assembler(Plan& plan, const ComputationGraph& g, const std::vector<View>& views, const Fusion& fusion,
            const Caps& caps)
      : plan_(plan), g_(g), views_(views), fusion_(fusion), caps_(caps) {
    buffer_of_.assign(g.nodes.size(), -1);
    plan.leaves = static_cast<int>(g.leaves.size());
    plan.slots = g.slots;
  }

  void run() {
    for (const int r : g_.roots) output(r);
    const LowerContext context{g_,
                               views_,
                               fusion_,
                               caps_,
                               [this](int n) { return buffer_of(n); },
                               [this](std::size_t bytes) { return temporary(bytes); },
                               [this] { return tile(); },
                               [this](int n) { return streams(n); }};
    std::vector<int> last_step(fusion_.units.size(), -1);
    for (const int u : order_units(g_, views_, fusion_)) {
      const Unit& unit = fusion_.units[static_cast<std::size_t>(u)];
      if (empty(unit)) continue;
      std::vector<int> after;
      for (const int value : unit.after) {
        const int of = fusion_.unit_of[static_cast<std::size_t>(value)];
        if (of >= 0 && last_step[static_cast<std::size_t>(of)] >= 0)
          after.push_back(last_step[static_cast<std::size_t>(of)]);
      }
      for (PlanStep& s : lower_unit(context, unit)) {
        s.after = after;
        plan_.steps.push_back(std::move(s));
      }
      last_step[static_cast<std::size_t>(u)] = static_cast<int>(plan_.steps.size()) - 1;
    }
  }

 private:
  const GraphNode& node(int i) const { return g_.nodes[static_cast<std::size_t>(i)]; }

  bool empty(const Unit& unit) const {
    if (unit.single >= 0) return node(unit.single).op->kind == OpKind::matmul && node(unit.single).shape.numel() == 0;
    return unit.numel == 0;
  }

  int add(PlanBuffer b) {
    // Before memory is laid out or work is cut, so that no sum of sizes and no number of tasks overflows.
    if (b.where == PlanBuffer::Where::arena && b.bytes > base::kPoolLargest)
      throw OutOfMemory(b.bytes, base::pool_available());
    plan_.buffers.push_back(b);
    return static_cast<int>(plan_.buffers.size()) - 1;
  }
  int temporary(std::size_t bytes) {
    PlanBuffer b;
    b.bytes = bytes;
    return add(b);
  }
  int tile() {
    PlanBuffer b;
    b.where = PlanBuffer::Where::tile;
    return add(b);
  }

  int buffer_of(int n) {
    int& known = buffer_of_[static_cast<std::size_t>(n)];
    if (known >= 0) return known;
    const GraphNode& from = node(n);
    PlanBuffer b;
    b.node = n;
    b.bytes = static_cast<std::size_t>(from.shape.numel()) * size_of(from.dtype);
    if (from.op->kind == OpKind::leaf) {
      b.where = PlanBuffer::Where::leaf;
      b.index = from.leaf;
    } else if (from.op->kind == OpKind::scalar) {
      b.where = from.slot >= 0 ? PlanBuffer::Where::slot : PlanBuffer::Where::constant;
      b.index = from.slot;
      b.bits =
          from.integral ? static_cast<std::uint64_t>(from.literal_int) : std::bit_cast<std::uint64_t>(from.literal);
    }
    return known = add(b);
  }

  void output(int root) {
    const View& v = views_[static_cast<std::size_t>(root)];
    PlanOutput o;
    o.buffer = buffer_of(v.base);
    PlanBuffer& b = plan_.buffers[static_cast<std::size_t>(o.buffer)];
    if (b.where == PlanBuffer::Where::arena) {
      b.where = PlanBuffer::Where::output;
      b.index = static_cast<int>(plan_.output_bytes.size());
      plan_.output_bytes.push_back(b.bytes);
    }
    o.dtype = node(root).dtype;
    o.shape = node(root).shape;
    o.strides = v.strides;
    o.offset = v.offset;
    o.dense = v.dense && node(v.base).shape.numel() == node(root).shape.numel();
    plan_.outputs.push_back(o);
  }

  bool streams(int n) const {
    const auto bytes = static_cast<std::size_t>(node(n).shape.numel()) * size_of(node(n).dtype);
    const int b = buffer_of_[static_cast<std::size_t>(n)];
    const bool result = b >= 0 && plan_.buffers[static_cast<std::size_t>(b)].where == PlanBuffer::Where::output;
    return bytes >= (result ? caps_.stream_bytes : 4 * caps_.stream_bytes);
  }

  Plan& plan_;
  const ComputationGraph& g_;
  const std::vector<View>& views_;
  const Fusion& fusion_;
  const Caps& caps_;
  std::vector<int> buffer_of_;
};

}  // namespace

const std::vector<std::string>& pass_names() {
  // Never destroyed: destructors of static objects may still evaluate.
  static const auto* names = new std::vector<std::string>{"simplify", "common", "lora", "fuse", "overlap", "memory"};
  return *names;
}

PassMask pass_bit(const std::string& name) {
  std::string known;
  for (std::size_t i = 0; i < pass_names().size(); ++i) {
    if (pass_names()[i] == name) return PassMask{1} << i;
    known += (i ? ", " : "") + pass_names()[i];
  }
  throw UserError(ErrorKind::argument, fmt::format("no compiler pass is named '{}'; there are {}", name, known));
}

Plan compile(ComputationGraph g, const Caps& caps, PassMask mask) {
  Plan plan;
  Timer timer(plan);
  give_roots_memory(g);
  decompose(g, caps.kernel);
  verify(g, "decompose");
  timer.lap("decompose");
  if (on(mask, kSimplify)) simplify(g);
  verify(g, "simplify");
  timer.lap("simplify");
  if (on(mask, kCommon)) share_common(g);
  drop_barriers(g);
  verify(g, "common");
  timer.lap("common");
  if (on(mask, kLora)) fold_lora(g);
  verify(g, "lora");
  timer.lap("lora");
  normalize_reductions(g);
  const std::vector<View> views = resolve_views(g, caps.kernel);
  verify(g, "layout");
  timer.lap("layout");
  const Fusion fusion = fuse(g, views, caps, on(mask, kFuse));
  timer.lap("fuse");
  Assembler(plan, g, views, fusion, caps).run();
  timer.lap("lower");
  assign_phases(plan, on(mask, kOverlap));
  timer.lap("overlap");
  plan_memory(plan, g, on(mask, kMemory));
  verify(plan);
  timer.lap("memory");
  return plan;
}

}  // namespace metal_candle
