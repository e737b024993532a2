#include "backend/cpu/packed_weight.h"

#include <algorithm>

#include "backend/cpu/weight_heap.h"
#include "base/thread_pool.h"

namespace metal_candle::cpu {
namespace {

struct PackedWeight final : PackedForm {
  explicit PackedWeight(const WeightView& v)
      : view(v), memory(std::max<std::size_t>(64, v.entry_bytes() * static_cast<std::size_t>(v.count()))) {}

  const WeightView view;
  const WeightMemory memory;
};

std::uint64_t key_of(const WeightView& v) {
  std::uint64_t hash = 0x7061636b6564u;
  const auto mix = [&](std::int64_t x) {
    hash = (hash ^ static_cast<std::uint64_t>(x)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  };
  for (auto x : {v.n, v.k, v.row_stride, v.col_stride, v.offset, static_cast<std::int64_t>(v.type)}) mix(x);
  for (int d = 0; d < v.dims; ++d) {
    mix(v.extents[d]);
    mix(v.strides[d]);
  }
  return hash;
}

const PackedWeight* find(const PackedForm* form, std::uint64_t key, const WeightView& view) {
  for (; form != nullptr; form = form->next.get()) {
    if (form->key != key) continue;
    const auto* weight = dynamic_cast<const PackedWeight*>(form);
    if (weight != nullptr && weight->view == view) return weight;
  }
  return nullptr;
}

void pack(const char* source, PackedWeight& to, int threads) {
  constexpr std::int64_t kTaskBytes = 256 << 10;
  const WeightView& v = to.view;
  const GemmShape shape{0, v.n, v.k, v.type};
  const std::int64_t panels = packed_b_panels(shape), entry_bytes = static_cast<std::int64_t>(v.entry_bytes());
  const std::int64_t parts = std::clamp<std::int64_t>(entry_bytes / kTaskBytes, 1, std::max<std::int64_t>(panels, 1));
  const std::int64_t element = v.type == GemmType::f64 ? 8 : v.type == GemmType::f32 ? 4 : 2;
  const auto tasks = static_cast<std::uint32_t>(parts * v.count());
  base::parallel_for(tasks, std::min<int>(threads, static_cast<int>(std::min<std::uint32_t>(tasks, 4096))),
                     [&](std::uint32_t task, int) {
                       const std::int64_t entry = task / parts, part = task % parts;
                       std::int64_t at = 0, index = entry;
                       for (int d = v.dims; d-- > 0; index /= v.extents[d]) at += index % v.extents[d] * v.strides[d];
                       pack_b(shape, {source + v.offset + at * element, v.row_stride, v.col_stride},
                              to.memory.data() + entry * entry_bytes, panels * part / parts,
                              panels * (part + 1) / parts);
                     });
}

}  // namespace

std::int64_t WeightView::count() const {
  std::int64_t n = 1;
  for (int d = 0; d < dims; ++d) n *= extents[d];
  return n;
}

const char* packed_weight(Storage& storage, const WeightView& view, int threads) {
  const std::uint64_t key = key_of(view);
  PackedForm* head = storage.packed.load(std::memory_order_acquire);
  if (const PackedWeight* found = find(head, key, view)) return found->memory.data();
  auto fresh = std::make_unique<PackedWeight>(view);
  fresh->key = key;
  pack(static_cast<const char*>(storage.data), *fresh, threads);
  for (;;) {
    fresh->next.reset(head);
    if (storage.packed.compare_exchange_weak(head, fresh.get(), std::memory_order_acq_rel, std::memory_order_acquire))
      return fresh.release()->memory.data();
    static_cast<void>(fresh->next.release());  // others own the list
    if (const PackedWeight* found = find(head, key, view)) return found->memory.data();
  }
}

}  // namespace metal_candle::cpu
