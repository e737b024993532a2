#include "compiler/fuse/groups.h"

#include <algorithm>
#include <map>

#include "ops/table.h"

namespace metal_candle {
namespace {

bool elementwise_code(const GraphNode& n, int code) { return n.op->kind == OpKind::elementwise && n.op->code == code; }
bool is_take(const GraphNode& n) { return n.op->kind == OpKind::gather && n.op->code == ops::kTake; }
bool fusable(const GraphNode& n) {
  return n.op->kind == OpKind::elementwise || n.op->kind == OpKind::reduce || n.op->kind == OpKind::gather;
}

constexpr std::size_t kWindow = 4096;
constexpr std::int64_t kSmallUnit = 1024;
constexpr std::int64_t kFewRows = 8, kLongColumns = 1 << 15;

/// Rows of bits: who reaches whom.
class Reach {
 public:
  explicit Reach(std::size_t n) : words_((n + 63) / 64), bits_(n * words_, 0) {}
  /// Forgets everything; unit numbers count from `first` on.
  void reset(int first) {
    first_ = first;
    std::fill(bits_.begin(), bits_.end(), 0);
  }
  bool get(int from, int to) const {
    if (from < first_ || to < first_) return false;
    from -= first_, to -= first_;
    return (row(from)[to / 64] >> (to % 64) & 1) != 0;
  }
  void set(int from, int to) {
    if (from < first_ || to < first_) return;
    from -= first_, to -= first_;
    row(from)[to / 64] |= std::uint64_t{1} << (to % 64);
  }
  void add(int from, int other) {
    if (from < first_ || other < first_) return;
    from -= first_, other -= first_;
    std::uint64_t* a = row(from);
    const std::uint64_t* b = row(other);
    for (std::size_t i = 0; i < words_; ++i) a[i] |= b[i];
  }

 private:
  std::uint64_t* row(int i) { return bits_.data() + static_cast<std::size_t>(i) * words_; }
  const std::uint64_t* row(int i) const { return bits_.data() + static_cast<std::size_t>(i) * words_; }
  int first_ = 0;
  std::size_t words_;
  std::vector<std::uint64_t> bits_;
};

class Fuser {
 public:
  Fuser(const ComputationGraph& graph, const std::vector<View>& views, const Caps& caps)
      : g_(graph), views_(views), caps_(caps), reach_(std::min(graph.nodes.size(), kWindow)) {
    f_.unit_of.assign(graph.nodes.size(), -1);
    f_.role.assign(graph.nodes.size(), Role::none);
    f_.stored.assign(graph.nodes.size(), false);
    f_.inlined.assign(graph.nodes.size(), false);
    for (std::size_t i = 0; i < graph.nodes.size(); ++i) f_.inlined[i] = cheap(static_cast<int>(i));
    users_.resize(graph.nodes.size());
    for (std::size_t i = 0; i < graph.nodes.size(); ++i)
      if (node(static_cast<int>(i)).op->kind != OpKind::view)
        for (const int in : node(static_cast<int>(i)).inputs) users_[static_cast<std::size_t>(view(in).base)].push_back(static_cast<int>(i));
  }

  Fusion run(bool merge) {
    for (const int r : g_.roots) root_.push_back(r);
    // Nodes are fused a window at a time, so that the work stays linear in very large graphs. A path between two nodes
    // of a window runs through nodes of that window only, because nodes are numbered in topological order.
    for (begin_ = 0; begin_ < g_.nodes.size(); begin_ = end_) {
      end_ = std::min(begin_ + kWindow, g_.nodes.size());
      first_unit_ = static_cast<int>(f_.units.size());
      reach_.reset(first_unit_);
      for (std::size_t i = begin_; i < end_; ++i) start(static_cast<int>(i), merge);
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

  /// Indices, constants, and arithmetic on nothing but numbers: one value a kernel, cheaper made than loaded.
  bool cheap(int i) const {
    const GraphNode& n = node(i);
    if (n.op->kind != OpKind::elementwise) return false;
    if (n.op->code == ops::kFull || n.op->code == ops::kIota) return true;
    if (n.op->code == ops::kRandomUniform || n.op->code == ops::kRandomNormal || n.inputs.empty()) return false;
    for (const int in : n.inputs) {
      const int base = view(in).base;
      const bool number = node(base).op->kind == OpKind::scalar;
      const bool uniform = inlined(base) && !elementwise_code(node(base), ops::kIota);
      if (!number && !uniform) return false;
    }
    return true;
  }
  int unit_of(int i) const { return f_.unit_of[static_cast<std::size_t>(i)]; }

  // A unit of its own for each node that computes; then it joins those it reads from.
  void start(int i, bool merge) {
    const GraphNode& n = node(i);
    if (n.op->kind == OpKind::leaf || n.op->kind == OpKind::scalar || n.op->kind == OpKind::view) return;
    if (n.op->kind == OpKind::output) {
      f_.unit_of[static_cast<std::size_t>(i)] = unit_of(n.inputs[0]);
      return;
    }
    const int u = static_cast<int>(f_.units.size());
    f_.units.emplace_back();
    f_.unit_of[static_cast<std::size_t>(i)] = u;
    Unit& me = f_.units.back();
    for (const int in : n.inputs) {
      const int base = view(in).base;
      const int p = unit_of(base);
      if (p < 0 || (fusable(n) && inlined(base))) continue;
      if (std::find(me.needs.begin(), me.needs.end(), p) == me.needs.end()) me.needs.push_back(p);
      reach_.set(u, p);
      reach_.add(u, p);
    }
    if (!fusable(n)) {
      me.single = i;
      return;
    }
    me.members = {i};
    me.numel = n.op->kind == OpKind::reduce ? node(n.inputs[0]).shape.numel() : n.shape.numel();
    std::int64_t rows, cols;
    if (fixed_space(g_, n, rows, cols)) me.rows = rows;
    f_.role[static_cast<std::size_t>(i)] = n.op->kind != OpKind::reduce ? Role::full
                                           : is_column_reduction(g_, n) ? Role::column
                                                                        : Role::row;
    if (!merge || inlined(i)) return;
    for (const int in : n.inputs) {
      const int p = unit_of(view(in).base);
      if (p >= first_unit_ && p != unit_of(i) && unit(p).single < 0 && !inlined(view(in).base)) try_merge(p, unit_of(i));
    }
  }

  // ---- spaces ----------------------------------------------------------------------------------------------------------

  /// Whether this edge may stay inside a kernel whose rows are `rows` (0: elementwise space).
  bool edge_ok(int consumer, int operand, std::int64_t rows) const {
    const GraphNode& c = node(consumer);
    const int in = c.inputs[static_cast<std::size_t>(operand)];
    const View& v = view(in);
    const GraphNode& b = node(v.base);
    const Role from = role(v.base), to = role(consumer);
    if (from == Role::column || v.offset != 0) return false;
    if (c.op->kind == OpKind::gather && operand == 0) return false;  // read at other places
    if (c.op->kind == OpKind::reduce)
      return from == Role::full && v.dense && b.shape.numel() == node(in).shape.numel();
    if (is_take(c)) return from == Role::row && v.dense && b.shape.numel() == rows;
    const Shape strides = broadcast_strides(node(in).shape, v.strides, c.shape);
    const std::int64_t n = c.shape.numel();
    if (from == to) return b.shape.numel() == n && walks_elements(c.shape, strides);
    if (from == Role::row && to == Role::full && rows > 0)
      return b.shape.numel() == rows && n % rows == 0 && walks_rows(c.shape, strides, n / rows);
    return false;
  }

  bool edges_ok(const Unit& from, int other, std::int64_t rows) const {
    for (const int m : from.members)
      for (std::size_t k = 0; k < node(m).inputs.size(); ++k) {
        const int base = view(node(m).inputs[k]).base;
        if (unit_of(base) == other && !inlined(base) && !edge_ok(m, static_cast<int>(k), rows)) return false;
      }
    return true;
  }

  /// The extents of all members must cut the row space in one chain of factors.
  bool cuts_ok(const Unit& a, const Unit& b, std::int64_t rows) const {
    std::vector<std::int64_t> cuts;
    for (const Unit* u : {&a, &b})
      for (const int m : u->members) {
        const GraphNode& n = node(m);
        const Shape& s = n.op->kind == OpKind::reduce ? node(n.inputs[0]).shape : n.shape;
        const std::int64_t total = s.numel();
        if (total == 0) continue;
        const std::int64_t cols = rows == 0 ? 1 : role(m) == Role::row && n.op->kind != OpKind::reduce ? 1 : total / rows;
        std::int64_t p = 1;
        for (int d = s.rank() - 1; d >= 0; --d) {
          p *= s[d];
          if (s[d] == 1 || p <= cols) continue;
          if (p % cols != 0) return false;
          if (cuts.empty() || cuts.back() != p / cols) cuts.push_back(p / cols);
        }
      }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    for (std::size_t i = 1; i < cuts.size(); ++i)
      if (cuts[i] % cuts[i - 1] != 0) return false;
    return true;
  }

  // ---- merging ---------------------------------------------------------------------------------------------------------

  /// A way from `from` to `to` through some third unit.
  bool detour(int to, int from) {
    for (const int x : unit(to).needs)
      if (x != from && reach_.get(x, from)) return true;
    return false;
  }

  /// Whether merging would make others wait: a small unit that other units read, joined with one that must wait itself.
  bool delays(int small, int late) {
    const Unit& s = unit(small);
    if (s.numel > kSmallUnit) return false;
    bool waits = false;
    for (const int x : unit(late).needs) waits |= x != small && !reach_.get(small, x);
    if (!waits) return false;
    for (const int m : s.members)
      for (const int user : users_[static_cast<std::size_t>(m)])
        if (unit_of(user) != small && unit_of(user) != late) return true;
    return false;
  }

  void set_roles(const Unit& u, Role r) {
    for (const int m : u.members) f_.role[static_cast<std::size_t>(m)] = r;
  }

  bool try_merge(int p, int q) {
    Unit& a = unit(p);
    Unit& b = unit(q);
    if (a.rows > 0 && b.rows > 0 && a.rows != b.rows) return false;
    if (a.numel == 0 || b.numel == 0 || a.members.size() + b.members.size() > 4096) return false;
    if (detour(p, q) || detour(q, p) || delays(p, q) || delays(q, p)) return false;
    const std::int64_t rows = std::max(a.rows, b.rows);
    auto fits = [&] { return edges_ok(a, q, rows) && edges_ok(b, p, rows) && cuts_ok(a, b, rows); };
    if (rows == 0 || (a.rows > 0 && b.rows > 0)) {
      if (rows == 0 && a.numel != b.numel) return false;
      if (!fits()) return false;
    } else {
      // The elementwise side takes the other's rows; with one element a row it may be a row value there.
      Unit& loose = a.rows == 0 ? a : b;
      if (rows < kFewRows && loose.numel / rows >= kLongColumns) return false;  // would leave most threads without work
      bool ok = false;
      // A large value tied to a small reduction would do its work in few rows, and far from its other users.
      const Unit& fixed = a.rows == 0 ? b : a;
      if (loose.numel > kSmallUnit && loose.numel > 4 * fixed.numel) return false;
      if (!columns_uniform(loose, a.rows == 0 ? q : p, rows)) return false;
      if (loose.numel == rows) {
        set_roles(loose, Role::row);
        ok = fits();
        if (!ok) set_roles(loose, Role::full);
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
      for (std::size_t k = n.op->kind == OpKind::gather ? 1 : 0; k < n.inputs.size(); ++k) {
        const View& v = view(n.inputs[k]);
        if (unit_of(v.base) >= 0 && !inlined(v.base) && (unit_of(v.base) == unit_of(m) || unit_of(v.base) == other)) continue;
        if (!uniform_columns(n.shape, broadcast_strides(node(n.inputs[k]).shape, v.strides, n.shape), total / rows)) return false;
      }
    }
    return true;
  }

  void join(int p, int q, std::int64_t rows) {
    Unit& a = unit(p);
    Unit& b = unit(q);
    for (const int m : b.members) f_.unit_of[static_cast<std::size_t>(m)] = p;
    const auto middle = static_cast<std::ptrdiff_t>(a.members.size());
    a.members.insert(a.members.end(), b.members.begin(), b.members.end());
    std::inplace_merge(a.members.begin(), a.members.begin() + middle, a.members.end());
    a.rows = rows;
    a.numel = std::max(a.numel, b.numel);
    if (b.single >= 0) {
      a.single = b.single;
      f_.unit_of[static_cast<std::size_t>(b.single)] = p;
    }
    for (const int x : b.needs)
      if (x != p && std::find(a.needs.begin(), a.needs.end(), x) == a.needs.end()) a.needs.push_back(x);
    a.needs.erase(std::remove(a.needs.begin(), a.needs.end(), q), a.needs.end());
    reach_.add(p, q);
    b.alive = false;
    b.members.clear();
    b.needs.clear();
    for (auto x = static_cast<std::size_t>(first_unit_); x < f_.units.size(); ++x) {
      Unit& other = f_.units[x];
      if (!other.alive || static_cast<int>(x) == p) continue;
      const bool reads = reach_.get(static_cast<int>(x), p) || reach_.get(static_cast<int>(x), q);
      if (!reads) continue;
      reach_.set(static_cast<int>(x), p);
      reach_.add(static_cast<int>(x), p);
      auto at = std::find(other.needs.begin(), other.needs.end(), q);
      if (at == other.needs.end()) continue;
      if (std::find(other.needs.begin(), other.needs.end(), p) != other.needs.end()) other.needs.erase(at);
      else *at = p;
    }
  }

  // Units over the same space that read the same value become one: it is read once.
  void siblings() {
    std::map<int, std::vector<int>> readers;
    for (std::size_t i = begin_; i < end_; ++i) {
      const int u = unit_of(static_cast<int>(i));
      if (u < 0 || unit(u).single >= 0) continue;
      for (const int in : node(static_cast<int>(i)).inputs) {
        const int base = view(in).base;
        if (unit_of(base) == u || inlined(base) || node(base).op->kind == OpKind::scalar) continue;
        if (node(base).shape.numel() * 4 < unit(u).numel) continue;  // only what is worth sharing
        readers[base].push_back(static_cast<int>(i));
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
    for (std::size_t i = begin_; i < end_; ++i) {
      const GraphNode& n = node(static_cast<int>(i));
      if (n.op->kind != OpKind::matmul || !is_float(n.dtype) || n.dtype == DType::f64 || n.shape.numel() == 0) continue;
      const int p = unit_of(static_cast<int>(i));
      for (auto q = static_cast<std::size_t>(first_unit_); q < f_.units.size(); ++q) {
        Unit& e = f_.units[q];
        if (!e.alive || e.single >= 0 || e.rows != 0 || e.numel != n.shape.numel()) continue;
        if (std::find(e.needs.begin(), e.needs.end(), p) == e.needs.end()) continue;
        if (attach(p, static_cast<int>(q), static_cast<int>(i))) break;
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
        const Shape strides = broadcast_strides(node(in).shape, v.strides, n.shape);
        if (v.base == product && !(v.offset == 0 && node(in).shape.numel() == n.shape.numel() && walks_elements(n.shape, strides))) return false;
        if (!uniform_columns(n.shape, strides, cols)) return false;
      }
    }
    if (!cuts_ok(e, Unit{}, rows)) return false;
    join(p, q, rows);
    return true;
  }

  /// Some run of trailing axes has exactly `cols` elements.
  static bool columns_cut(const Shape& s, std::int64_t cols) {
    std::int64_t p = 1;
    for (int d = s.rank() - 1; d >= 0 && p < cols; --d) p *= s[d];
    return p == cols;
  }
  static bool uniform_columns(const Shape& s, const Shape& strides, std::int64_t cols) {
    std::int64_t p = 1, expected = 0;
    bool first = true;
    for (int d = s.rank() - 1; d >= 0 && p < cols; --d) {
      if (s[d] == 1) continue;
      if (!first && strides[d] != expected) return false;
      first = false;
      expected = strides[d] * s[d];
      p *= s[d];
    }
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
        if (fusable(n) && inlined(base)) continue;
        if (unit_of(base) != u || (n.op->kind == OpKind::gather && k == 0)) mark(base);
      }
    }
    // Constants and indices that every reader makes for itself need no kernel.
    for (Unit& u : f_.units)
      if (u.alive && u.single < 0 && u.members.size() == 1 && inlined(u.members[0]) && !f_.stored[static_cast<std::size_t>(u.members[0])])
        u.alive = false;
  }
  void mark(int base) { f_.stored[static_cast<std::size_t>(base)] = true; }

  const ComputationGraph& g_;
  const std::vector<View>& views_;
  const Caps& caps_;
  Reach reach_;
  std::vector<std::vector<int>> users_;  // per value, views seen through
  std::size_t begin_ = 0, end_ = 0;  // the window's nodes
  int first_unit_ = 0;               // and its first unit
  std::vector<int> root_;
  Fusion f_;
};

}  // namespace

bool is_column_reduction(const ComputationGraph& g, const GraphNode& n) {
  if (n.op->kind != OpKind::reduce || n.attrs.size() == 0) return false;
  const Shape& in = g.nodes[static_cast<std::size_t>(n.inputs[0])].shape;
  std::int64_t inner = 1;
  for (int a = static_cast<int>(n.attrs[n.attrs.size() - 1]) + 1; a < in.rank(); ++a) inner *= in[a];
  return inner > 1;
}

bool fixed_space(const ComputationGraph& g, const GraphNode& n, std::int64_t& rows, std::int64_t& cols) {
  if (n.op->kind == OpKind::reduce) {
    const Shape& in = g.nodes[static_cast<std::size_t>(n.inputs[0])].shape;
    cols = 1;
    if (n.attrs.size() > 0) {
      const bool column = is_column_reduction(g, n);
      const int begin = static_cast<int>(n.attrs[column ? n.attrs.size() - 1 : 0]) + (column ? 1 : 0);
      for (int a = begin; a < in.rank(); ++a) cols *= in[a];
    }
    rows = cols == 0 ? 0 : in.numel() / cols;
    return true;
  }
  if (is_take(n)) {
    rows = g.nodes[static_cast<std::size_t>(n.inputs[1])].shape.numel();
    cols = rows == 0 ? 0 : n.shape.numel() / rows;
    return true;
  }
  return false;
}

bool walks_elements(const Shape& shape, const Shape& strides) {
  std::int64_t step = 1;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    if (shape[d] != 1 && strides[d] != step) return false;
    step *= shape[d];
  }
  return true;
}

bool walks_rows(const Shape& shape, const Shape& strides, std::int64_t cols) {
  std::int64_t p = 1;
  int d = shape.rank() - 1;
  for (; d >= 0 && p < cols; --d) {
    if (shape[d] != 1 && strides[d] != 0) return false;
    p *= shape[d];
  }
  if (p != cols) return false;
  std::int64_t step = 1;
  for (; d >= 0; --d) {
    if (shape[d] != 1 && strides[d] != step) return false;
    step *= shape[d];
  }
  return true;
}

Fusion fuse(const ComputationGraph& graph, const std::vector<View>& views, const Caps& caps, bool merge) {
  return Fuser(graph, views, caps).run(merge);
}

}  // namespace metal_candle
