#include "graph/capture.h"

#include <fmt/format.h>

#include <bit>

#include "graph/epoch.h"
#include "graph/tensor.h"
#include "metal_candle/error.hpp"

namespace metal_candle {
namespace {

// The layout of a node's words:
//   op | dtype, inputs, scalar flags, rank, attribute count, leaf marks (packed below) | extents | attributes |
//   input numbers | literal
// A leaf has its strides instead of attributes, and its alias instead of inputs.
constexpr std::uint64_t kLeafMark = std::uint64_t{1} << 63;

struct Head {
  std::uint64_t packed;
  static Head of(const Node& n, int attrs) {
    return {static_cast<std::uint64_t>(n.dtype) | static_cast<std::uint64_t>(n.input_count) << 8 |
            static_cast<std::uint64_t>(n.scalar_flags) << 16 | static_cast<std::uint64_t>(n.shape.rank()) << 24 |
            static_cast<std::uint64_t>(static_cast<std::uint32_t>(attrs)) << 32};
  }
  int dtype() const { return static_cast<int>(packed & 0xff); }
  int inputs() const { return static_cast<int>(packed >> 8 & 0xff); }
  int scalar_flags() const { return static_cast<int>(packed >> 16 & 0xff); }
  int rank() const { return static_cast<int>(packed >> 24 & 0xff); }
  int attrs() const { return static_cast<int>(packed >> 32 & 0xffffff); }
  bool leaf() const { return (packed & kLeafMark) != 0; }
  std::size_t length() const {
    const auto tail = leaf() ? static_cast<std::size_t>(rank()) + 1 : static_cast<std::size_t>(attrs() + inputs());
    const bool literal = !leaf() && (scalar_flags() & Node::kScalarLiteral);
    return 2 + static_cast<std::size_t>(rank()) + tail + (literal ? 1 : 0);
  }
};

std::uint64_t mix(std::uint64_t h, std::uint64_t word) {
  h = (h ^ word) * 0x9e3779b97f4a7c15ull;
  return h ^ (h >> 29);
}

std::uint64_t hash_words(std::span<const std::uint64_t> words) {
  // Four lanes, so that the multiplications overlap.
  std::uint64_t lane[4] = {1, 2, 3, 4};
  std::size_t i = 0;
  for (; i + 4 <= words.size(); i += 4)
    for (std::size_t k = 0; k < 4; ++k) lane[k] = mix(lane[k], words[i + k]);
  for (; i < words.size(); ++i) lane[0] = mix(lane[0], words[i]);
  return mix(mix(lane[0], lane[1]), mix(lane[2], lane[3]) + words.size());
}

}  // namespace

void Capture::reset() {
  words.clear();
  nodes.clear();
  leaves.clear();
  storages.clear();
  slots.clear();
  roots.clear();
  numbers_.clear();
  buffers_.clear();
  donated_.clear();
}

void Capture::run(std::span<const LazyTensor> wanted, std::span<const LazyTensor> donated) {
  reset();
  for (const LazyTensor& d : donated) donated_.insert(d.node(), 0);
  for (const LazyTensor& t : wanted) {
    if (!t.defined()) throw UserError(ErrorKind::argument, "eval: an empty tensor handle was given");
    visit(t.node());
    roots.push_back(number_of(t.node()));
  }
  for (const int r : roots) words.push_back(static_cast<std::uint64_t>(r));
  words.push_back(roots.size());
  hash = hash_words(words);
}

void Capture::visit(Node* root) {
  if (numbers_.find(root)) return;
  stack_.clear();
  numbers_.insert(root, -1);
  stack_.push_back({root, 0});
  while (!stack_.empty()) {
    Frame& frame = stack_.back();
    Node* node = frame.node;
    if (frame.next_input == 0) {
      if (Storage* storage = node->storage.load(std::memory_order_acquire)) {
        emit_leaf(node, storage);
        stack_.pop_back();
        continue;
      }
    }
    Node* child = nullptr;
    bool evaluated_meanwhile = false;
    while (frame.next_input < node->input_count) {
      const int i = frame.next_input++;
      Node* in = node->input(i).load(std::memory_order_acquire);
      if (!in) {
        if ((node->scalar_flags & Node::kScalarOperand) && !node->evaluated()) continue;
        evaluated_meanwhile = true;  // by another thread, which has let the inputs go
        break;
      }
      if (!numbers_.find(in)) {
        child = in;
        break;
      }
    }
    if (evaluated_meanwhile) {
      emit_leaf(node, node->storage.load(std::memory_order_acquire));
      stack_.pop_back();
    } else if (child) {
      numbers_.insert(child, -1);
      stack_.push_back({child, 0});
    } else {
      // Another thread may have evaluated the node since its inputs were visited, and have let them go.
      if (!emit(node)) emit_leaf(node, node->storage.load(std::memory_order_acquire));
      stack_.pop_back();
    }
  }
}

void Capture::emit_leaf(Node* node, Storage* storage) {
  *numbers_.find(node) = static_cast<int>(nodes.size());
  const int alias = *buffers_.insert(storage, static_cast<int>(storages.size()));
  const bool given = donated_.find(node) != nullptr;
  nodes.push_back(node);
  leaves.push_back(node);
  storages.push_back(storage);
  words.push_back(reinterpret_cast<std::uintptr_t>(&leaf_def));
  const Head head = Head::of(*node, 0);
  words.push_back((head.packed & 0xff0000ffull) | kLeafMark | (storage->frozen ? 1ull << 32 : 0) |
                  (given ? 1ull << 33 : 0) | (storage->owner ? 1ull << 34 : 0) | (node->layout ? 1ull << 35 : 0));
  for (const std::int64_t d : node->shape) words.push_back(static_cast<std::uint64_t>(d));
  const Shape strides = node->layout ? node->layout->strides : contiguous_strides(node->shape);
  for (const std::int64_t s : strides) words.push_back(static_cast<std::uint64_t>(s));
  words.push_back(static_cast<std::uint64_t>(alias));
}

bool Capture::emit(Node* node) {
  const Attrs* attrs = node->attrs;
  const int attr_count = attrs ? attrs->size() : 0;
  const std::size_t begin = words.size();
  words.resize(begin + 3 + static_cast<std::size_t>(node->shape.rank() + attr_count + node->input_count));
  std::uint64_t* w = words.data() + begin;
  *w++ = reinterpret_cast<std::uintptr_t>(node->op);
  *w++ = Head::of(*node, attr_count).packed;
  for (const std::int64_t d : node->shape) *w++ = static_cast<std::uint64_t>(d);
  for (int i = 0; i < attr_count; ++i) *w++ = static_cast<std::uint64_t>((*attrs)[i]);
  int missing = (node->scalar_flags & Node::kScalarOperand) ? 1 : 0;
  for (int i = 0; i < node->input_count; ++i) {
    const Node* in = node->input(i).load(std::memory_order_acquire);
    if (!in && --missing < 0) {
      words.resize(begin);
      return false;
    }
    *w++ = in ? static_cast<std::uint64_t>(number_of(in)) : ~std::uint64_t{0};
  }
  *numbers_.find(node) = static_cast<int>(nodes.size());
  nodes.push_back(node);
  const bool has_number = node->op->kind == OpKind::scalar || (node->scalar_flags & Node::kScalarOperand);
  const auto number = static_cast<std::uint64_t>(node->scalar_i);
  if (has_number && (node->scalar_flags & Node::kScalarLiteral)) *w++ = number;
  else if (has_number) slots.push_back(number);
  words.resize(static_cast<std::size_t>(w - words.data()));
  return true;
}

ComputationGraph Capture::graph(const std::string* scopes) const {
  ComputationGraph g;
  g.slots = 0;
  std::size_t at = 0;
  std::vector<int> renumbered(nodes.size());  // scalar operands become nodes of their own
  std::size_t numbers = 0;
  for (const Node* n : nodes) numbers += (n->scalar_flags & Node::kScalarOperand) != 0;
  g.nodes.reserve(nodes.size() + numbers);
  std::size_t leaf = 0;
  LiteralScope literals;
  const OpDef* const scalar_op = scalar(0.0).node()->op;
  auto take_number = [&](GraphNode& n, const Node& from) {
    n.op = scalar_op;
    n.integral = (from.scalar_flags & Node::kScalarInt) != 0;
    n.dtype = n.integral ? DType::i64 : DType::f64;
    if (from.scalar_flags & Node::kScalarLiteral) {
      n.literal = n.integral ? static_cast<double>(from.scalar_i) : from.scalar_f;
      n.literal_int = n.integral ? from.scalar_i : static_cast<std::int64_t>(from.scalar_f);
    } else {
      n.slot = g.slots++;
    }
  };
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const Node& from = *nodes[i];
    const Head head{words[at + 1]};
    GraphNode n;
    n.op = head.leaf() ? &leaf_def : from.op;
    n.dtype = from.dtype;
    n.shape = from.shape;
    n.scope = scopes ? scopes + i : from.scope;
    if (head.leaf()) {
      GraphLeaf l;
      l.dtype = from.dtype;
      l.shape = from.shape;
      l.strides = from.layout ? from.layout->strides : contiguous_strides(from.shape);
      l.frozen = (head.packed >> 32 & 1) != 0;
      l.donated = (head.packed >> 33 & 1) != 0;
      l.alias = static_cast<int>(words[at + head.length() - 1]);
      n.leaf = static_cast<int>(leaf++);
      g.leaves.push_back(l);
    } else if (from.op->kind == OpKind::scalar) {
      take_number(n, from);
    } else {
      if (from.attrs) n.attrs = *from.attrs;
      const std::uint64_t* in = words.data() + at + 2 + head.rank() + head.attrs();
      for (int k = 0; k < head.inputs(); ++k) {
        if (in[k] != ~std::uint64_t{0}) {
          n.inputs.push_back(renumbered[in[k]]);
          continue;
        }
        GraphNode number;
        take_number(number, from);
        n.inputs.push_back(static_cast<int>(g.nodes.size()));
        g.nodes.push_back(std::move(number));
      }
    }
    renumbered[i] = static_cast<int>(g.nodes.size());
    g.nodes.push_back(std::move(n));
    at += head.length();
  }
  for (const int r : roots) g.roots.push_back(renumbered[static_cast<std::size_t>(r)]);
  return g;
}

std::string first_difference(std::span<const std::uint64_t> before, std::span<const std::uint64_t> now) {
  std::size_t at = 0;
  for (int node = 0; at + 1 < before.size() && at + 1 < now.size(); ++node) {
    const Head a{before[at + 1]}, b{now[at + 1]};
    if (at + a.length() > before.size() || at + b.length() > now.size()) break;
    if (before[at] != now[at])
      return fmt::format("node {}: the op changed from {} to {}", node,
                         reinterpret_cast<const OpDef*>(before[at])->name,
                         reinterpret_cast<const OpDef*>(now[at])->name);
    const std::string who = fmt::format("node {} ({})", node, reinterpret_cast<const OpDef*>(now[at])->name);
    if (a.dtype() != b.dtype()) return who + ": the dtype changed";
    if (a.rank() != b.rank()) return who + ": the rank changed";
    for (int d = 0; d < a.rank(); ++d) {
      const std::size_t w = at + 2 + static_cast<std::size_t>(d);
      if (before[w] != now[w]) return fmt::format("{}: extent {} changed from {} to {}", who, d, before[w], now[w]);
    }
    if (a.packed != b.packed)
      return who + (a.leaf() ? ": frozen, donated or layout changed" : ": the kind of its operands changed");
    for (std::size_t w = 2 + static_cast<std::size_t>(a.rank()); w < a.length(); ++w)
      if (before[at + w] != now[at + w])
        return who + (a.leaf()                                         ? ": strides or aliasing changed"
                      : static_cast<int>(w) < 2 + a.rank() + a.attrs() ? ": an attribute changed"
                                                                       : ": an operand or literal changed");
    at += a.length();
  }
  return "the number of nodes or roots changed";
}

ComputationGraph ComputationGraph::capture(const std::vector<LazyTensor>& roots) {
  GraphReader reader;
  Capture c;
  c.run(roots);
  return c.graph();
}

std::uint64_t ComputationGraph::hash() const {
  std::vector<std::uint64_t> w;
  for (const GraphNode& n : nodes) {
    w.push_back(std::hash<std::string_view>{}(n.op->name));
    w.push_back(static_cast<std::uint64_t>(n.dtype) | static_cast<std::uint64_t>(n.slot >= 0) << 8);
    for (const auto d : n.shape) w.push_back(static_cast<std::uint64_t>(d));
    for (const auto v : n.attrs.values()) w.push_back(static_cast<std::uint64_t>(v));
    for (const int i : n.inputs) w.push_back(static_cast<std::uint64_t>(i));
    if (n.op->kind == OpKind::scalar && n.slot < 0) w.push_back(std::bit_cast<std::uint64_t>(n.literal));
  }
  for (const GraphLeaf& l : leaves)
    for (const auto s : l.strides) w.push_back(static_cast<std::uint64_t>(s));
  for (const int r : roots) w.push_back(static_cast<std::uint64_t>(r));
  return hash_words(w);
}

namespace {

std::string node_text(const GraphNode& n) {
  if (n.op->kind == OpKind::scalar)
    return n.slot >= 0  ? fmt::format("slot {}", n.slot)
           : n.integral ? fmt::format("literal {}", n.literal_int)
                        : fmt::format("literal {}", n.literal);
  return fmt::format("{} {} {}", n.op->name, name(n.dtype), n.shape.str());
}

}  // namespace

std::string ComputationGraph::str() const {
  std::string out;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    out += fmt::format("%{} = {}", i, node_text(nodes[i]));
    for (std::size_t k = 0; k < nodes[i].inputs.size(); ++k)
      out += fmt::format("{}%{}", k ? ", " : " (", nodes[i].inputs[k]);
    if (!nodes[i].inputs.empty()) out += ")";
    if (nodes[i].attrs.size() > 0) {
      out += " {";
      for (int k = 0; k < nodes[i].attrs.size(); ++k) out += fmt::format("{}{}", k ? ", " : "", nodes[i].attrs[k]);
      out += "}";
    }
    if (nodes[i].scope) out += "  # " + *nodes[i].scope;
    out += "\n";
  }
  out += "roots:";
  for (const int r : roots) out += fmt::format(" %{}", r);
  return out + "\n";
}

namespace {

// A quote would end a label; names of outside ops may have any.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

std::string ComputationGraph::dot() const {
  std::string out = "digraph computation {\n  node [shape=box, fontname=\"monospace\"];\n";
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const bool data = nodes[i].op->kind == OpKind::leaf || nodes[i].op->kind == OpKind::scalar;
    out += fmt::format("  n{} [label=\"{}\"{}];\n", i, escaped(node_text(nodes[i])),
                       data ? ", style=filled, fillcolor=lightgrey" : "");
    for (const int in : nodes[i].inputs) out += fmt::format("  n{} -> n{};\n", in, i);
  }
  for (const int r : roots) out += fmt::format("  n{} [peripheries=2];\n", r);
  return out + "}\n";
}

}  // namespace metal_candle
