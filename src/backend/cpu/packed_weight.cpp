#include "backend/cpu/packed_weight.h"

#include <unistd.h>

#include <algorithm>
#include <vector>

#include "backend/cpu/gemm/kernels.h"
#include "backend/cpu/weight_heap.h"
#include "base/thread_pool.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cpu {
namespace {

constexpr std::size_t kShareOfMemory = 8;  // spared forms: up to the eighth part
std::atomic<std::size_t> all_packed{0};    // bytes

std::size_t bytes_of(const WeightView& v) { return v.entry_bytes() * static_cast<std::size_t>(v.count()); }

struct PackedWeight final : PackedForm {
  explicit PackedWeight(const WeightView& v) : view(v), memory(std::max<std::size_t>(64, bytes_of(v))) {
    all_packed.fetch_add(bytes_of(view), std::memory_order_relaxed);
  }
  ~PackedWeight() override { all_packed.fetch_sub(bytes_of(view), std::memory_order_relaxed); }
  PackedWeight(const PackedWeight&) = delete;

  const WeightView view;
  const WeightMemory memory;
};

std::uint64_t key_of(const WeightView& v) {
  std::uint64_t hash = 0x7061636b6564u;
  const auto mix = [&](std::int64_t x) {
    hash = (hash ^ static_cast<std::uint64_t>(x)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  };
  for (auto x :
       {v.n, v.k, v.row_stride, v.col_stride, v.offset, static_cast<std::int64_t>(v.type), std::int64_t{v.squeezed}})
    mix(x);
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

std::size_t machine_memory() {
  static const auto bytes =
      static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

std::int64_t elements_of(const WeightView& v) { return v.n * v.k * v.count(); }

/// Of a buffer's forms.
std::int64_t packed_elements(const PackedForm* form) {
  std::int64_t elements = 0;
  for (; form != nullptr; form = form->next.get())
    if (const auto* weight = dynamic_cast<const PackedWeight*>(form)) elements += elements_of(weight->view);
  return elements;
}

/// Whether `spared` has one more, where its buffer has forms of so many elements and all buffers some of so many bytes.
/// Elements are counted, because panels are a little larger than what they are made of.
bool affordable(const Storage& storage, std::int64_t elements, std::size_t bytes, const WeightView& view) {
  const std::int64_t all = elements + elements_of(view);
  return static_cast<std::size_t>(all * element_bytes(view.type)) <= storage.bytes &&
         bytes + bytes_of(view) <= machine_memory() / kShareOfMemory;
}

std::unique_ptr<PackedWeight> allocate(const WeightView& view, Packing packing) {
  try {
    return std::make_unique<PackedWeight>(view);
  } catch (const OutOfMemory&) {
    if (packing == Packing::always) throw;
    return nullptr;
  }
}

/// False: it cannot be squeezed.
bool pack(const char* source, PackedWeight& to, int threads) {
  constexpr std::int64_t kTaskBytes = 256 << 10;
  const WeightView& v = to.view;
  const GemmShape shape = v.shape();
  std::atomic<bool> done{true};
  const std::int64_t panels = packed_b_panels(shape), entry_bytes = static_cast<std::int64_t>(v.entry_bytes());
  const std::int64_t parts = std::clamp<std::int64_t>(entry_bytes / kTaskBytes, 1, std::max<std::int64_t>(panels, 1));
  const std::int64_t element = element_bytes(v.type);
  const auto tasks = static_cast<std::uint32_t>(parts * v.count());
  base::parallel_for(tasks, std::min<int>(threads, static_cast<int>(std::min<std::uint32_t>(tasks, 4096))),
                     [&](std::uint32_t task, int) {
                       const std::int64_t entry = task / parts, part = task % parts;
                       std::int64_t at = 0, index = entry;
                       for (int d = v.dims; d-- > 0; index /= v.extents[d]) at += index % v.extents[d] * v.strides[d];
                       const MatrixRef b{source + v.offset + at * element, v.row_stride, v.col_stride};
                       char* const target = to.memory.data() + entry * entry_bytes;
                       const std::int64_t begin = panels * part / parts, end = panels * (part + 1) / parts;
                       if (!v.squeezed) return pack_b(shape, b, target, begin, end);
                       if (!done.load(std::memory_order_relaxed)) return;
                       std::vector<char> panel(packed_b_bytes(shape) / static_cast<std::size_t>(panels));
                       if (!squeeze_b(shape, b, target, begin, end, panel.data())) done = false;
                     });
  return done;
}

}  // namespace

std::int64_t WeightView::count() const {
  std::int64_t n = 1;
  for (int d = 0; d < dims; ++d) n *= extents[d];
  return n;
}

const char* packed_weight(Storage& storage, const WeightView& view, int threads, Packing packing) {
  const std::uint64_t key = key_of(view);
  PackedForm* head = storage.packed.load(std::memory_order_acquire);
  if (const PackedWeight* found = find(head, key, view)) return found->memory.data();
  if (packing == Packing::spared &&
      !affordable(storage, packed_elements(head), all_packed.load(std::memory_order_relaxed), view))
    return nullptr;
  auto fresh = allocate(view, packing);
  if (fresh == nullptr) return nullptr;
  fresh->key = key;
  if (!pack(static_cast<const char*>(storage.data), *fresh, threads)) return nullptr;
  for (;;) {
    fresh->next.reset(head);
    if (storage.packed.compare_exchange_weak(head, fresh.get(), std::memory_order_acq_rel, std::memory_order_acquire))
      return fresh.release()->memory.data();
    static_cast<void>(fresh->next.release());  // others own the list
    if (const PackedWeight* found = find(head, key, view)) return found->memory.data();
  }
}

void PackingForecast::add(const Storage& storage, const WeightView& view, Packing packing) {
  const PackedForm* head = storage.packed.load(std::memory_order_acquire);
  if (find(head, key_of(view), view) != nullptr) return;
  std::int64_t elements = packed_elements(head);
  for (auto [at, end] = views_.equal_range(&storage); at != end; ++at) {
    if (at->second == view) return;
    elements += elements_of(at->second);
  }
  if (packing == Packing::spared &&
      !affordable(storage, elements, all_packed.load(std::memory_order_relaxed) + bytes_, view))
    return;
  views_.emplace(&storage, view);
  bytes_ += bytes_of(view);
}

}  // namespace metal_candle::cpu
