// find_nan: the graph once more, an operation at a time.
//
// It works on copies of the nodes, so that the tensors it was asked about stay as they are, and lets go of each value
// after its last use.
#include <fmt/format.h>

#include <cmath>
#include <unordered_map>

#include "graph/epoch.h"
#include "graph/record.h"
#include "graph/tensor.h"
#include "runtime/evaluate.h"

namespace metal_candle {
namespace {

/// What is among a tensor's values.
struct Found {
  bool nan = false, infinity = false;
  void add(double v) {
    nan |= std::isnan(v);
    infinity |= std::isinf(v);
  }
  void add(const Found& other) {
    nan |= other.nan;
    infinity |= other.infinity;
  }
};

Found bad_values(const LazyTensor& t) {
  Found found;
  if (!is_float(t.dtype())) return found;
  for (const double v : Tensor(t).to_f64()) found.add(v);
  return found;
}

/// A node like `from`, over `inputs`.
LazyTensor copy_of(const Node& from, const std::vector<LazyTensor>& inputs) {
  Attrs attrs = from.attributes();
  if (from.op->kind == OpKind::scalar || (from.scalar_flags & Node::kScalarOperand)) {
    Node* n = Node::make(from.op, from.dtype, from.input_count);
    n->shape = from.shape;
    n->scope = from.scope;
    n->scalar_flags = from.scalar_flags;
    n->scalar_i = from.scalar_i;
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i].defined()) n->input(static_cast<int>(i)).store(LazyTensor(inputs[i]).detach());
    return LazyTensor::adopt(n);
  }
  LazyTensor t = record_typed(*from.op, from.dtype, from.shape, inputs, &attrs);
  t.node()->scope = from.scope;
  return t;
}

Found bad_number(const Node& n) {
  Found found;
  if (!(n.scalar_flags & Node::kScalarInt)) found.add(n.scalar_f);
  return found;
}

struct Walk {
  struct Item {
    LazyTensor original, copy;
    std::vector<int> inputs;
    Found bad;
    bool has_outputs = false;  // several: only they have values, not the node itself
    int last_use = -1;
  };
  std::vector<Item> items;

  explicit Walk(const std::vector<LazyTensor>& roots);
  std::string run();

 private:
  Found of_inputs(const Item& item) const;
  std::string report(std::size_t i, bool nan) const;
};

Walk::Walk(const std::vector<LazyTensor>& roots) {
  const GraphReader reader;
  Capture capture;
  capture.run(roots);
  std::unordered_map<const Node*, int> number;
  items.resize(capture.nodes.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    Node* n = capture.nodes[i];
    items[i].original = LazyTensor::share(n);
    number[n] = static_cast<int>(i);
    if (n->evaluated()) continue;
    for (int k = 0; k < n->input_count; ++k) {
      const Node* in = n->input(k).load(std::memory_order_acquire);
      items[i].inputs.push_back(in ? number.at(in) : -1);
      if (!in) continue;
      Item& input = items[static_cast<std::size_t>(number.at(in))];
      input.last_use = static_cast<int>(i);
      if (n->op->kind == OpKind::output) input.has_outputs = true;
    }
  }
}

Found Walk::of_inputs(const Item& item) const {
  const Node& n = *item.original.node();
  Found found;
  if (n.scalar_flags & Node::kScalarOperand) found.add(bad_number(n));
  for (const int k : item.inputs)
    if (k >= 0) found.add(items[static_cast<std::size_t>(k)].bad);
  return found;
}

std::string Walk::report(std::size_t i, bool nan) const {
  const Node& n = *items[i].original.node();
  std::string text = fmt::format("{} {} {} (node {})", n.op->name, name(n.dtype), n.shape.str(), i);
  if (n.op->kind == OpKind::output) {
    const Node& main = *items[static_cast<std::size_t>(items[i].inputs[0])].original.node();
    text = fmt::format("output {} of {}", n.attributes()[0], main.op->name) + text.substr(n.op->name.size());
  }
  if (n.scope) text += " in " + *n.scope;
  return text + (nan ? " makes the first NaN" : " makes the first infinity");
}

std::string Walk::run() {
  for (std::size_t i = 0; i < items.size(); ++i) {
    Item& item = items[i];
    const Node& n = *item.original.node();
    if (n.evaluated()) {
      item.copy = item.original;
      item.bad = bad_values(item.copy);
      continue;
    }
    std::vector<LazyTensor> inputs;
    for (const int k : item.inputs) inputs.push_back(k >= 0 ? items[static_cast<std::size_t>(k)].copy : LazyTensor());
    item.copy = copy_of(n, inputs);
    if (n.op->kind == OpKind::scalar) {
      item.bad = bad_number(n);
      continue;
    }
    item.bad = of_inputs(item);
    if (item.has_outputs) continue;
    evaluate({&item.copy, 1}, Mode::probe);
    // NaN may come of infinities (inf - inf), and did not come with them.
    const Found bad = bad_values(item.copy);
    if (bad.nan && !item.bad.nan) return report(i, true);
    if (bad.infinity && !item.bad.infinity) return report(i, false);
    item.bad = bad;
    for (const int k : item.inputs)
      if (k >= 0 && items[static_cast<std::size_t>(k)].last_use == static_cast<int>(i))
        items[static_cast<std::size_t>(k)].copy = {};
  }
  return {};
}

}  // namespace

std::string find_nan(const std::vector<LazyTensor>& roots) {
  const HookPause plain;
  return Walk(roots).run();
}

}  // namespace metal_candle
