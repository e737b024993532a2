#include "compiler/fuse/groups.h"

#include <algorithm>
#include <map>
#include <span>
#include <utility>

#include "compiler/fuse/reach.h"
#include "compiler/fuse/spaces.h"
#include "compiler/fuse/windows.h"
#include "compiler/rewrite.h"
#include "ops/table.h"

namespace metal_candle {
namespace {

bool elementwise_code(const GraphNode& n, int code) { return n.op->kind == OpKind::elementwise && n.op->code == code; }
bool fusable(const GraphNode& n) {
  return n.op->kind == OpKind::elementwise || n.op->kind == OpKind::reduce || n.op->kind == OpKind::gather;
}

constexpr std::size_t kWindow = 4096;
constexpr std::int64_t kSmallUnit = 1024;
constexpr std::int64_t kFewRows = 8, kLongColumns = 1 << 15;

/// What a gather along `axis` walks besides the indices.
Shape strides_but(Shape strides, std::int64_t axis) {
  strides[static_cast<int>(axis)] = 0;
  return strides;
}

class Fuser {
  /// What is known of a unit, so that a merge need not look at members again.
  struct Work {
    std::vector<Space> spaces;  // of its members, each once
    std::size_t outside = 0;    // operands elsewhere that are its values
    std::size_t edges = 0;      // operands and users of its members
    std::int64_t batch = 0;     // results that a column of its column reductions has; 0: it has no such reductions
  };

 public:
  Fuser(const ComputationGraph& graph, const std::vector<View>& views, const Caps& caps)
      : g_(graph),
        views_(views),
        caps_(caps),
        reach_(std::min(graph.nodes.size(), kWindow)),
        windows_(cut_in_windows(graph, views, kWindow)) {
    f_.unit_of.assign(graph.nodes.size(), -1);
    f_.role.assign(graph.nodes.size(), Role::none);
    f_.stored.assign(graph.nodes.size(), false);
    f_.inlined.assign(graph.nodes.size(), false);
    std::vector<int> made(graph.nodes.size(), 0);
    for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
      made[i] = ops_to_make(static_cast<int>(i), made);
      f_.inlined[i] = made[i] > 0;
    }
    find_users();
  }

  Fusion run(bool merge) {
    for (const int r : g_.roots) root_.push_back(r);
    // Nodes are fused a window at a time, so that the work stays linear in very large graphs. A path between two nodes
    // of a window runs through nodes of that window only, because their order is topological.
    for (const std::size_t end : windows_.ends) {
      begin_ = std::exchange(end_, end);
      first_unit_ = static_cast<int>(f_.units.size());
      reach_.reset(first_unit_);
      alive_.clear();
      for (std::size_t i = begin_; i < end_; ++i) start(windows_.order[i], merge);
      if (!merge) continue;
      siblings();
      if (caps_.epilogues) epilogues();
    }
    finish();
    return std::move(f_);
  }

 private:
  const GraphNode& node(int i) const { return g_.nodes[static_cast<std::size_t>(i)]; }
  const View& view(int i) const { return views_[static_cast<std::size_t>(i)]; }
  Unit& unit(int u) { return f_.units[static_cast<std::size_t>(u)]; }
  Role role(int i) const { return f_.role[static_cast<std::size_t>(i)]; }
  bool inlined(int i) const { return f_.inlined[static_cast<std::size_t>(i)]; }

  /// Of indices, constants, and arithmetic on nothing but numbers: one value a kernel, cheaper made than loaded. 0 for all
  /// others, and where it takes so many ops that it is: those would be repeated by every reader, and nest as deep.
  int ops_to_make(int i, const std::vector<int>& made) const {
    constexpr int kMost = 64;
    const GraphNode& n = node(i);
    if (n.op->kind != OpKind::elementwise) return 0;
    if (n.op->code == ops::kFull || n.op->code == ops::kIota) return 1;
    if (n.op->code == ops::kRandomUniform || n.op->code == ops::kRandomNormal || n.inputs.empty()) return 0;
    int count = 1;
    for (const int in : n.inputs) {
      const int base = view(in).base;
      const bool number = node(base).op->kind == OpKind::scalar;
      const bool uniform = inlined(base) && !elementwise_code(node(base), ops::kIota);
      if (!number && !uniform) return 0;
      count += made[static_cast<std::size_t>(base)];
    }
    return count <= kMost ? count : 0;
  }
  /// Whether `n` needs no memory for its input `k`. What is gathered from lies in memory, however cheap it is.
  bool makes_itself(const GraphNode& n, std::size_t k) const {
    return fusable(n) && inlined(view(n.inputs[k]).base) && !(n.op->kind == OpKind::gather && k == 0);
  }
  int unit_of(int i) const { return f_.unit_of[static_cast<std::size_t>(i)]; }
  Work& work(int u) { return work_[static_cast<std::size_t>(u)]; }

  /// Who reads each value, once per operand. Views are seen through.
  void find_users() {
    const std::size_t n = g_.nodes.size();
    users_begin_.assign(n + 1, 0);
    auto each_edge = [&](auto f) {
      for (std::size_t i = 0; i < n; ++i)
        if (g_.nodes[i].op->kind != OpKind::view)
          for (const int in : g_.nodes[i].inputs) f(static_cast<std::size_t>(view(in).base), static_cast<int>(i));
    };
    each_edge([&](std::size_t base, int) { ++users_begin_[base + 1]; });
    for (std::size_t i = 0; i < n; ++i) users_begin_[i + 1] += users_begin_[i];
    users_.resize(users_begin_[n]);
    std::vector<std::size_t> next(users_begin_.begin(), users_begin_.end() - 1);
    each_edge([&](std::size_t base, int user) { users_[next[base]++] = user; });
  }
  std::span<const int> users(int i) const {
    const auto k = static_cast<std::size_t>(i);
    return std::span(users_).subspan(users_begin_[k], users_begin_[k + 1] - users_begin_[k]);
  }

  /// Views of what a barrier holds back wait as it does.
  void note_waits(int view_node) {
    const GraphNode& n = node(view_node);
    std::vector<int> after;
    for (std::size_t k = 1; n.op == &late_view_def && k < n.inputs.size(); ++k) after.push_back(view(n.inputs[k]).base);
    const auto inner = waits_.find(n.inputs[0]);
    if (inner != waits_.end()) after.insert(after.end(), inner->second.begin(), inner->second.end());
    if (!after.empty()) waits_[view_node] = std::move(after);
  }

  void need(int u, int p) {
    if (p < 0) return;
    std::vector<int>& needs = unit(u).needs;
    if (std::find(needs.begin(), needs.end(), p) == needs.end()) needs.push_back(p);
    reach_.set(u, p);
    reach_.add(u, p);
  }

  // A unit of its own for each node that computes; then it joins those it reads from.
  void start(int i, bool merge) {
    const GraphNode& n = node(i);
    if (n.op->kind == OpKind::view) return note_waits(i);
    if (n.op->kind == OpKind::leaf || n.op->kind == OpKind::scalar) return;
    if (n.op->kind == OpKind::output) {
      f_.unit_of[static_cast<std::size_t>(i)] = unit_of(n.inputs[0]);
      unit(unit_of(i)).outputs.push_back(i);
      return;
    }
    const int u = static_cast<int>(f_.units.size());
    f_.units.emplace_back();
    work_.emplace_back();
    alive_.push_back(u);
    f_.unit_of[static_cast<std::size_t>(i)] = u;
    Unit& me = f_.units.back();
    for (std::size_t k = 0; k < n.inputs.size(); ++k) {
      const int in = n.inputs[k], base = view(in).base;
      if (!makes_itself(n, k)) need(u, unit_of(base));
      const auto late = waits_.find(in);
      if (late == waits_.end()) continue;
      for (const int after : late->second) {
        need(u, unit_of(after));
        me.after.push_back(after);
      }
    }
    if (!fusable(n)) {
      me.single = i;
      return;
    }
    me.members = {i};
    const Shape& space = n.op->kind == OpKind::reduce ? node(n.inputs[0]).shape : n.shape;
    me.numel = space.numel();
    work(u).spaces = {{space, false}};
    work(u).outside = users(i).size();
    work(u).edges = users(i).size() + n.inputs.size();
    std::int64_t rows, cols;
    if (fixed_space(g_, n, rows, cols)) me.rows = rows;
    f_.role[static_cast<std::size_t>(i)] = n.op->kind != OpKind::reduce ? Role::full
                                           : is_column_reduction(g_, n) ? Role::column
                                                                        : Role::row;
    if (role(i) == Role::column) work(u).batch = column_batch(g_, n);
    if (!merge || inlined(i)) return;
    for (const int in : n.inputs) {
      const int p = unit_of(view(in).base);
      if (p >= first_unit_ && p != unit_of(i) && unit(p).single < 0 && !inlined(view(in).base))
        try_merge(p, unit_of(i));
    }
  }

  // ---- spaces -------------------------------------------------------------------------------------------------------

  /// Whether this edge may stay inside a kernel whose rows are `rows` (0: elementwise space).
  bool edge_ok(int consumer, int operand, std::int64_t rows) const {
    const GraphNode& c = node(consumer);
    const int in = c.inputs[static_cast<std::size_t>(operand)];
    const View& v = view(in);
    const GraphNode& b = node(v.base);
    const Role from = role(v.base), to = role(consumer);
    if (from == Role::column || v.offset != 0) return false;
    if (c.op->kind == OpKind::gather && operand == 0) return false;  // read at other places
    if (c.op->kind == OpKind::reduce) return from == Role::full && v.dense && b.shape.numel() == node(in).shape.numel();
    if (is_take(c)) return from == Role::row && v.dense && b.shape.numel() == rows;
    const Shape strides = broadcast_strides(node(in).shape, v.strides, c.shape);
    const std::int64_t n = c.shape.numel();
    if (from == to) return b.shape.numel() == n && walks_elements(c.shape, strides);
    if (from == Role::row && to == Role::full && rows > 0)
      return b.shape.numel() == rows && n % rows == 0 && walks_rows(c.shape, strides, n / rows);
    return false;
  }

  /// Calls f(consumer, operand, value) for each edge between two units, in either direction, until it says false;
  /// returns whether it never did. What has fewer edges is looked at: mostly one new node beside a long chain.
  template <class F>
  bool each_crossing(int p, int q, F f) {
    const int small = work(p).edges < work(q).edges ? p : q, other = small == p ? q : p;
    for (const int m : unit(small).members) {
      for (std::size_t k = 0; k < node(m).inputs.size(); ++k) {
        const int base = view(node(m).inputs[k]).base;
        if (unit_of(base) == other && !inlined(base) && !f(m, static_cast<int>(k), base)) return false;
      }
      int before = -1;  // users are ascending, one entry an operand
      for (const int user : users(m)) {
        if (unit_of(user) != other || std::exchange(before, user) == user) continue;
        for (std::size_t k = 0; k < node(user).inputs.size(); ++k)
          if (view(node(user).inputs[k]).base == m && !f(user, static_cast<int>(k), m)) return false;
      }
    }
    return true;
  }

  bool edges_ok(int p, int q, std::int64_t rows) {
    return each_crossing(p, q, [&](int consumer, int operand, int) { return edge_ok(consumer, operand, rows); });
  }
  bool cuts_ok(int p, int q, std::int64_t rows) { return cut_in_one_chain(work(p).spaces, work(q).spaces, rows); }

  // ---- merging ------------------------------------------------------------------------------------------------------

  /// A way from `from` to `to` through some third unit.
  bool detour(int to, int from) {
    for (const int x : unit(to).needs)
      if (x != from && reach_.get(x, from)) return true;
    return false;
  }

  /// Whether merging would make others wait: a small unit that other units read, joined with one that must wait itself.
  bool delays(int small, int late) {
    const Unit& s = unit(small);
    if (s.numel > kSmallUnit || reach_.get(small, late)) return false;  // it waits for `late` anyway
    bool waits = false;
    for (const int x : unit(late).needs) waits |= x != small && !reach_.get(small, x);
    if (!waits) return false;
    std::size_t to_late = 0;
    each_crossing(small, late, [&](int, int, int value) { return to_late += unit_of(value) == small, true; });
    return work(small).outside > to_late;
  }

  void set_roles(int u, Role r) {
    for (const int m : unit(u).members) f_.role[static_cast<std::size_t>(m)] = r;
    for (Space& s : work(u).spaces) s.row = r == Role::row;
  }

  bool try_merge(int p, int q) {
    Unit& a = unit(p);
    Unit& b = unit(q);
    if (a.rows > 0 && b.rows > 0 && a.rows != b.rows) return false;
    if (a.numel == 0 || b.numel == 0 || a.members.size() + b.members.size() > 4096) return false;
    // A kernel's columns are all added up over the same rows.
    if (work(p).batch > 0 && work(q).batch > 0 && work(p).batch != work(q).batch) return false;
    if (detour(p, q) || detour(q, p) || delays(p, q) || delays(q, p)) return false;
    const std::int64_t rows = std::max(a.rows, b.rows);
    auto fits = [&] { return edges_ok(p, q, rows) && cuts_ok(p, q, rows); };
    if (rows == 0 || (a.rows > 0 && b.rows > 0)) {
      if (rows == 0 && a.numel != b.numel) return false;
      if (!fits()) return false;
    } else {
      // The elementwise side takes the other's rows; with one element a row it may be a row value there.
      const int loose_unit = a.rows == 0 ? p : q;
      const Unit& loose = unit(loose_unit);
      if (rows < kFewRows && loose.numel / rows >= kLongColumns) return false;  // would leave most threads without work
      bool ok = false;
      // A large value tied to a small reduction would do its work in few rows, and far from its other users.
      const Unit& fixed = a.rows == 0 ? b : a;
      if (loose.numel > kSmallUnit && loose.numel > 4 * fixed.numel) return false;
      if (!columns_uniform(loose, a.rows == 0 ? q : p, rows)) return false;
      if (loose.numel == rows) {
        set_roles(loose_unit, Role::row);
        ok = fits();
        if (!ok) set_roles(loose_unit, Role::full);
      }
      if (!ok && (loose.numel % rows != 0 || !fits())) return false;
    }
    join(p, q, rows);
    return true;
  }

  /// Whether what these elementwise members read from elsewhere lies at one stride along the columns they would get.
  /// Where it does not it would have to be copied first, so they stay by themselves.
  bool columns_uniform(const Unit& loose, int other, std::int64_t rows) const {
    for (const int m : loose.members) {
      const GraphNode& n = node(m);
      const std::int64_t total = n.shape.numel();
      if (total <= rows || total % rows != 0) continue;
      for (std::size_t k = 0; k < n.inputs.size(); ++k) {
        const View& v = view(n.inputs[k]);
        if (n.op->kind == OpKind::gather && k == 0) {
          if (!is_take(n) && !uniform_columns(n.shape, strides_but(v.strides, n.attrs[0]), total / rows)) return false;
          continue;
        }
        if (unit_of(v.base) >= 0 && !inlined(v.base) && (unit_of(v.base) == unit_of(m) || unit_of(v.base) == other))
          continue;
        if (!uniform_columns(n.shape, broadcast_strides(node(n.inputs[k]).shape, v.strides, n.shape), total / rows))
          return false;
      }
    }
    return true;
  }

  /// One unit of two; the larger keeps its number. What has grown costs nothing again.
  void join(int p, int q, std::int64_t rows) {
    if (unit(p).members.size() < unit(q).members.size()) std::swap(p, q);
    join_work(p, q);
    Unit& a = unit(p);
    Unit& b = unit(q);
    for (const int m : b.members) f_.unit_of[static_cast<std::size_t>(m)] = p;
    a.members.insert(a.members.end(), b.members.begin(), b.members.end());
    a.rows = rows;
    a.numel = std::max(a.numel, b.numel);
    if (b.single >= 0) {
      a.single = b.single;
      f_.unit_of[static_cast<std::size_t>(b.single)] = p;
    }
    for (const int x : b.needs)
      if (x != p && std::find(a.needs.begin(), a.needs.end(), x) == a.needs.end()) a.needs.push_back(x);
    a.needs.erase(std::remove(a.needs.begin(), a.needs.end(), q), a.needs.end());
    a.after.insert(a.after.end(), b.after.begin(), b.after.end());
    reach_.add(p, q);
    b = Unit{};
    b.alive = false;
    replace_in_readers(p, q);
  }

  void join_work(int p, int q) {
    Work& a = work(p);
    Work& b = work(q);
    std::size_t between = 0;
    each_crossing(p, q, [&](int, int, int) { return ++between, true; });
    a.outside += b.outside - between;
    a.edges += b.edges;
    a.batch = std::max(a.batch, b.batch);
    for (const Space& s : b.spaces)
      if (std::find(a.spaces.begin(), a.spaces.end(), s) == a.spaces.end()) a.spaces.push_back(s);
    b = Work{};
  }

  /// `q` has become part of `p`: whoever waits for it waits for `p`.
  void replace_in_readers(int p, int q) {
    for (std::size_t k = 0; k < alive_.size();) {
      const int x = alive_[k];
      Unit& other = unit(x);
      if (!other.alive) {
        alive_[k] = alive_.back();
        alive_.pop_back();
        continue;
      }
      ++k;
      const bool reads_p = reach_.get(x, p), reads_q = reach_.get(x, q);
      if (x == p || (!reads_p && !reads_q)) continue;
      if (!reads_p || !reads_q) {  // whoever reaches both has all that the two reach
        reach_.set(x, p);
        reach_.add(x, p);
      }
      const auto at = std::find(other.needs.begin(), other.needs.end(), q);
      if (at == other.needs.end()) continue;
      if (std::find(other.needs.begin(), other.needs.end(), p) != other.needs.end()) other.needs.erase(at);
      else *at = p;
    }
  }

  // Units over the same space that read the same value become one: it is read once.
  void siblings() {
    std::map<int, std::vector<int>> readers;
    for (std::size_t at = begin_; at < end_; ++at) {
      const int i = windows_.order[at], u = unit_of(i);
      if (u < 0 || unit(u).single >= 0) continue;
      for (const int in : node(i).inputs) {
        const int base = view(in).base;
        if (unit_of(base) == u || inlined(base) || node(base).op->kind == OpKind::scalar) continue;
        if (node(base).shape.numel() * 4 < unit(u).numel) continue;  // only what is worth sharing
        readers[base].push_back(i);
      }
    }
    for (const auto& [base, list] : readers)
      for (std::size_t k = 1; k < list.size(); ++k) {
        const int p = unit_of(list[0]), q = unit_of(list[k]);
        if (p == q || unit(p).single >= 0 || unit(q).single >= 0) continue;
        if (reach_.get(p, q) || reach_.get(q, p)) continue;
        if (unit(p).numel != unit(q).numel) continue;
        try_merge(std::min(p, q), std::max(p, q));
      }
  }

  // An elementwise unit that reads a product, place by place, runs on the product's tiles.
  void epilogues() {
    for (std::size_t at = begin_; at < end_; ++at) {
      const int i = windows_.order[at];
      const GraphNode& n = node(i);
      if (n.op->kind != OpKind::matmul || size_of(n.dtype) == 8 || n.shape.numel() == 0) continue;
      const int p = unit_of(i);
      std::vector<int> readers;
      for (const int user : users(i)) readers.push_back(unit_of(user));
      std::sort(readers.begin(), readers.end());
      for (const int q : readers) {
        if (q < first_unit_ || q == p) continue;
        const Unit& e = unit(q);
        if (!e.alive || e.single >= 0 || e.rows != 0 || e.numel != n.shape.numel()) continue;
        if (attach(p, q, i)) break;
      }
    }
  }

  bool attach(int p, int q, int product) {
    if (detour(q, p)) return false;
    const std::int64_t cols = node(product).shape.dim(-1), rows = node(product).shape.numel() / cols;
    const Unit& e = unit(q);
    for (const int m : e.members) {
      const GraphNode& n = node(m);
      if (n.op->kind != OpKind::elementwise || !columns_cut(n.shape, cols)) return false;
      for (const int in : n.inputs) {
        const View& v = view(in);
        Shape strides = broadcast_strides(node(in).shape, v.strides, n.shape);
        if (v.base == product &&
            !(v.offset == 0 && node(in).shape.numel() == n.shape.numel() && walks_elements(n.shape, strides)))
          return false;
        std::int64_t first;
        if (elementwise_code(node(v.base), ops::kIota))
          iota_steps(node(v.base), v.offset, n.shape, strides, strides, first);
        if (!uniform_columns(n.shape, strides, cols)) return false;
      }
    }
    if (!cut_in_one_chain(work(q).spaces, {}, rows)) return false;
    join(p, q, rows);
    return true;
  }

  void finish() {
    for (const int r : root_) mark(view(r).base);
    for (std::size_t i = 0; i < g_.nodes.size(); ++i) {
      const int u = unit_of(static_cast<int>(i));
      const GraphNode& n = node(static_cast<int>(i));
      if (u < 0 || n.op->kind == OpKind::output) continue;
      for (std::size_t k = 0; k < n.inputs.size(); ++k) {
        const int base = view(n.inputs[k]).base;
        if (makes_itself(n, k)) continue;
        if (unit_of(base) != u || (n.op->kind == OpKind::gather && k == 0)) mark(base);
      }
    }
    // What a barrier waits for is made, also where nobody else reads it.
    for (const Unit& u : f_.units)
      for (const int value : u.after)
        if (!inlined(value)) mark(value);
    for (Unit& u : f_.units) std::sort(u.members.begin(), u.members.end());
    // Constants and indices that every reader makes for itself need no kernel.
    for (Unit& u : f_.units)
      if (u.alive && u.single < 0 && u.members.size() == 1 && inlined(u.members[0]) &&
          !f_.stored[static_cast<std::size_t>(u.members[0])])
        u.alive = false;
  }
  void mark(int base) { f_.stored[static_cast<std::size_t>(base)] = true; }

  const ComputationGraph& g_;
  const std::vector<View>& views_;
  const Caps& caps_;
  Reach reach_;
  std::vector<std::size_t> users_begin_;  // per value: where its users are in
  std::vector<int> users_;
  std::vector<Work> work_;                 // per unit
  std::map<int, std::vector<int>> waits_;  // per view behind a barrier: values that come first
  std::vector<int> alive_;                 // units of the window; some that are no more
  const Windows windows_;
  std::size_t begin_ = 0, end_ = 0;  // of the window
  int first_unit_ = 0;               // and its first unit
  std::vector<int> root_;
  Fusion f_;
};

}  // namespace

Fusion fuse(const ComputationGraph& graph, const std::vector<View>& views, const Caps& caps, bool merge) {
  return Fuser(graph, views, caps).run(merge);
}

}  // namespace metal_candle
