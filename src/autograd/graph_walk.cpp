#include "autograd/graph_walk.h"

namespace metal_candle::autograd {

std::size_t NodeNumbers::place(const Node* node) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t i = (reinterpret_cast<std::uintptr_t>(node) >> 4) * 0x9e3779b97f4a7c15u >> 20 & mask;
  while (slots_[i].node && slots_[i].node != node) i = (i + 1) & mask;
  return i;
}

void NodeNumbers::grow() {
  std::vector<Slot> old(slots_.empty() ? 64 : slots_.size() * 2);
  old.swap(slots_);
  for (const Slot& slot : old)
    if (slot.node) slots_[place(slot.node)] = slot;
}

std::uint32_t NodeNumbers::find(const Node* node) const { return slots_.empty() ? kNone : slots_[place(node)].number; }

std::uint32_t NodeNumbers::find_or_add(const Node* node, std::uint32_t fresh) {
  if (2 * used_ >= slots_.size()) grow();
  Slot& slot = slots_[place(node)];
  if (!slot.node) {
    slot = {node, fresh};
    ++used_;
  }
  return slot.number;
}

bool append_inputs(Node* node, std::vector<Node*>& children) {
  const std::size_t before = children.size();
  bool any = node->input_count == 0;
  for (int i = 0; i < node->input_count; ++i) {
    Node* input = node->input(i).load(std::memory_order_acquire);
    any |= input != nullptr;
    children.push_back(input);
  }
  if (any) return true;  // one null is an operand that is a number
  children.resize(before);
  return false;
}

}  // namespace metal_candle::autograd
