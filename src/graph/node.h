// Node: one recorded operation, and Storage: the buffer that it becomes.
//
// A node is immutable apart from its result. When a submit materialises it, `storage` is published and its inputs are
// let go; readers that walk the graph meanwhile are protected by epochs (see epoch.h), never by a lock.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <memory>

#include "metal_candle/lazy_tensor.hpp"
#include "metal_candle/op_def.hpp"

namespace metal_candle {

/// A packed copy of a constant buffer, owned by it; what is inside is the backend's business.
struct PackedForm {
  virtual ~PackedForm() = default;
  std::uint64_t key = 0;
  std::unique_ptr<PackedForm> next;
};

/// A buffer, shared by the tensors that view it.
struct Storage {
  enum class State : std::uint8_t { ready, pending, failed };
  std::atomic<std::uint32_t> refs{1};
  std::atomic<State> state{State::ready};
  bool frozen = false;
  Device device;
  void* data = nullptr;
  std::size_t bytes = 0;
  void (*free)(Storage*) = nullptr;          // returns the memory to where it came from
  std::shared_ptr<void> owner;               // external memory
  std::exception_ptr error;                  // set before state becomes failed
  std::atomic<PackedForm*> packed{nullptr};  // list, grows at the head

  /// Fresh memory from the pool, not cleared.
  static Storage* make(std::size_t bytes, Device device = {});
  static Storage* make_external(void* data, std::size_t bytes, std::shared_ptr<void> owner, Device device = {});
  /// Returns when the buffer is computed; throws what its computation threw.
  void wait();
  void retain() { refs.fetch_add(1, std::memory_order_relaxed); }
  void release() noexcept;
};

/// Where a view's elements lie; a node without one is dense at offset 0.
struct Layout {
  Shape strides;
  std::int64_t offset = 0;
  static Layout* make(const Shape& strides, std::int64_t offset);  // recycled memory
  static void destroy(Layout* layout) noexcept;
};

/// What a value may have come from: a few bits for each piece of data, and a node has all of its inputs'. It outlives the
/// inputs, so that `grad` need not hold an evaluated tensor for a way to everything.
struct Origins {
  std::uint64_t bits[2];

  /// Those of new data: six of the bits, drawn without regard to any other's.
  static Origins fresh();
  bool none() const { return (bits[0] | bits[1]) == 0; }
  void add(const Origins& other) {
    bits[0] |= other.bits[0];
    bits[1] |= other.bits[1];
  }
  /// False: a value with these was not computed from one with `other`.
  bool may_include(const Origins& other) const {
    return ((other.bits[0] & ~bits[0]) | (other.bits[1] & ~bits[1])) == 0;
  }
};

class Node {
 public:
  static constexpr int kInlineInputs = 3;
  static constexpr std::uint8_t kScalarInt = 1, kScalarLiteral = 2, kScalarOperand = 4;

  std::atomic<std::uint32_t> refs;
  DType dtype;
  std::uint8_t input_count;
  std::uint8_t scalar_flags;  // kScalarOperand: the null one of its two inputs is the number below
  Device device;
  const OpDef* op;
  Origins origins;
  Shape shape;
  union {
    double scalar_f;
    std::int64_t scalar_i;
    Node* next_to_destroy;
  };
  std::atomic<Storage*> storage;
  std::atomic<bool> claimed;  // taken by the submit that may publish a result; `layout` is its to write until then
  Layout* layout;             // set before storage is published
  std::atomic<Node*> inputs[kInlineInputs];
  std::atomic<Node*>* more;  // all inputs, when there are more than three
  Attrs* attrs;              // null: none
  const std::string* scope;

  /// A fresh node with one reference and everything but op, dtype, shape and inputs filled in.
  static Node* make(const OpDef* op, DType dtype, int input_count);
  std::atomic<Node*>& input(int i) { return more ? more[i] : inputs[i]; }
  bool evaluated() const { return storage.load(std::memory_order_acquire) != nullptr; }
  const Attrs& attributes() const;
  static void destroy(Node* node) noexcept;  // iterative: chains of any length
};

static_assert(offsetof(Node, refs) == 0, "handles count references without knowing more of a node");

}  // namespace metal_candle
