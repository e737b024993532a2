// Chunks are filled from the front and given back when the last piece in them is freed.
#include "backend/cpu/weight_heap.h"

#include <algorithm>
#include <mutex>

#include "base/fork.h"
#include "base/pool.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cpu {

struct WeightMemory::Chunk {
  explicit Chunk(std::size_t size) : bytes(size), data(static_cast<char*>(base::pool_allocate(size))) {}
  ~Chunk() { base::pool_free(data, bytes); }
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;

  const std::size_t bytes;
  char* const data;
  std::size_t used = 0;
  int pieces = 0;
};

namespace {

using Chunk = WeightMemory::Chunk;
constexpr std::size_t kAlign = 128, kHuge = std::size_t{2} << 20, kLargest = 8 * kHuge;
constexpr std::size_t kOwn = 4 * kHuge;                // from here on memory of its own is huge pages all the same
constexpr std::size_t kSmall = std::size_t{32} << 10;  // the pool's slabs do

struct Heap {
  Heap() { base::at_fork(base::ForkOrder::weights, mutex); }
  std::mutex mutex;
  Chunk* open = nullptr;     // the one being filled
  std::size_t next = kHuge;  // programs with few weights take little
};

// Never destroyed: tensors with static lifetime free their weights after any destructor of ours.
Heap& heap() {
  static Heap* instance = new Heap;
  return *instance;
}

/// The open chunk, with room for so much; null if there is no memory for one.
Chunk* room_for(Heap& h, std::size_t bytes) {
  if (h.open != nullptr && h.open->bytes - h.open->used >= bytes) return h.open;
  const std::size_t size = std::max(h.next, (bytes + kHuge - 1) / kHuge * kHuge);
  try {
    h.open = new Chunk(size);  // the one before belongs to its pieces
  } catch (const OutOfMemory&) {
    return nullptr;
  }
  h.next = std::min(kLargest, 2 * h.next);
  return h.open;
}

}  // namespace

WeightMemory::WeightMemory(std::size_t bytes) : bytes_(bytes) {
  const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + kAlign - 1) / kAlign * kAlign;
  if (bytes > kSmall && bytes < kOwn) {
    Heap& h = heap();
    const std::lock_guard lock(h.mutex);
    if (Chunk* chunk = room_for(h, rounded)) {
      chunk_ = chunk;
      data_ = chunk->data + chunk->used;
      chunk->used += rounded;
      ++chunk->pieces;
      return;
    }
  }
  data_ = static_cast<char*>(base::pool_allocate(bytes_));
}

WeightMemory::~WeightMemory() {
  if (chunk_ == nullptr) {
    base::pool_free(data_, bytes_);
    return;
  }
  Heap& h = heap();
  const std::lock_guard lock(h.mutex);
  if (--chunk_->pieces > 0) return;
  if (chunk_ == h.open) h.open = nullptr;
  delete chunk_;
}

}  // namespace metal_candle::cpu
