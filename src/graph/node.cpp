#include "graph/node.h"

#include <vector>

#include "base/free_list.h"
#include "base/in_kernel.h"
#include "base/pool.h"

namespace metal_candle {
namespace {

const Attrs kNoAttrs{};

void free_pool_memory(Storage* s) { base::pool_free(s->data, s->bytes); }

}  // namespace

Origins Origins::fresh() {
  // The threads' numbers start far apart, and none is used twice.
  static std::atomic<std::uint64_t> threads{0};
  static thread_local std::uint64_t next = threads.fetch_add(1, std::memory_order_relaxed) << 40;
  std::uint64_t mixed = ++next * 0x9e3779b97f4a7c15u;
  mixed = (mixed ^ mixed >> 31) * 0xbf58476d1ce4e5b9u;
  mixed ^= mixed >> 29;
  Origins o{};
  for (int i = 0; i < 6; ++i, mixed >>= 7) o.bits[mixed >> 6 & 1] |= std::uint64_t{1} << (mixed & 63);
  return o;
}

Node* Node::make(const OpDef* op, DType dtype, int input_count) {
  auto* n = static_cast<Node*>(base::FreeList<Node>::get());
  new (&n->refs) std::atomic<std::uint32_t>(1);
  n->dtype = dtype;
  n->input_count = static_cast<std::uint8_t>(input_count);
  n->scalar_flags = 0;
  n->device = Device{};
  n->op = op;
  n->origins = {};
  new (&n->shape) Shape;
  new (&n->storage) std::atomic<Storage*>(nullptr);
  new (&n->claimed) std::atomic<bool>(false);
  n->layout = nullptr;
  for (auto& slot : n->inputs) new (&slot) std::atomic<Node*>(nullptr);
  n->more = nullptr;
  if (input_count > kInlineInputs) {
    n->more = new std::atomic<Node*>[static_cast<std::size_t>(input_count)];
    for (int i = 0; i < input_count; ++i) n->more[i].store(nullptr, std::memory_order_relaxed);
  }
  n->attrs = nullptr;
  n->scope = nullptr;
  return n;
}

const Attrs& Node::attributes() const { return attrs ? *attrs : kNoAttrs; }

void Node::destroy(Node* first) noexcept {
  // Nodes to destroy are linked through their own scalar field, so that a chain of any length needs no stack.
  Node* todo = first;
  first->next_to_destroy = nullptr;
  while (todo) {
    Node* n = todo;
    Node* next = n->next_to_destroy;
    Storage* storage = n->storage.load(std::memory_order_acquire);
    for (int i = 0; i < n->input_count; ++i) {
      Node* in = n->input(i).load(std::memory_order_acquire);
      if (in && in->refs.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        in->next_to_destroy = next;
        next = in;
      }
    }
    todo = next;
    if (storage) storage->release();
    Layout::destroy(n->layout);
    if (n->attrs) {
      n->attrs->~Attrs();
      base::FreeList<Attrs>::put(n->attrs);
    }
    delete[] n->more;
    base::FreeList<Node>::put(n);
  }
}

Layout* Layout::make(const Shape& strides, std::int64_t offset) {
  return new (base::FreeList<Layout>::get()) Layout{strides, offset};
}
void Layout::destroy(Layout* layout) noexcept {
  if (layout) base::FreeList<Layout>::put(layout);
}

void LazyTensor::destroy(Node* node) noexcept { Node::destroy(node); }

Storage* Storage::make(std::size_t bytes, Device device) {
  void* data = base::pool_allocate(bytes);
  Storage* s = make_external(data, bytes, nullptr, device);
  s->free = free_pool_memory;
  return s;
}

Storage* Storage::make_external(void* data, std::size_t bytes, std::shared_ptr<void> owner, Device device) {
  auto* s = new (base::FreeList<Storage>::get()) Storage;
  s->device = device;
  s->data = data;
  s->bytes = bytes;
  s->owner = std::move(owner);
  return s;
}

void Storage::release() noexcept {
  if (refs.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (free) free(this);
  delete packed.load(std::memory_order_acquire);
  this->~Storage();
  base::FreeList<Storage>::put(this);
}

void Storage::wait() {
  State s = state.load(std::memory_order_acquire);
  while (s == State::pending) {
    base::InKernel::refuse("wait");
    state.wait(State::pending, std::memory_order_acquire);
    s = state.load(std::memory_order_acquire);
  }
  if (s == State::failed) std::rethrow_exception(error);
}

}  // namespace metal_candle
