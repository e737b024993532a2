// The memory that runs work in: an arena for temporaries, scratch for each thread. It grows to the largest need and is
// then left alone, so that a run does not allocate.
#pragma once

#include <atomic>
#include <cstddef>
#include <mutex>

#include "base/pool.h"

namespace metal_candle::cpu {

class Block {
 public:
  Block() = default;
  ~Block() { release(); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  /// At least this much, contents undefined. Throws OutOfMemory.
  void* reserve(std::size_t bytes) {
    if (bytes > bytes_.load(std::memory_order_relaxed)) grow(bytes);
    return data_;
  }
  std::size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  void release() {
    if (data_ != nullptr) base::pool_free(data_, bytes());
    data_ = nullptr;
    bytes_.store(0, std::memory_order_relaxed);
  }

 private:
  void grow(std::size_t bytes) {
    if (data_ == nullptr || base::pool_class_size(bytes) != base::pool_class_size(this->bytes())) {
      if (data_ != nullptr) {
        release();
        base::pool_trim();  // nobody else would ask for a block of its size
      }
      data_ = base::pool_allocate(bytes);
    }
    bytes_.store(bytes, std::memory_order_relaxed);
  }
  void* data_ = nullptr;
  std::atomic<std::size_t> bytes_{0};  // read by who only wants to know
};

struct Workspace {
  Block arena, scratch;
};

/// The one that a backend's executables take turns with.
struct SharedWorkspace : Workspace {
  std::mutex mutex;
};

}  // namespace metal_candle::cpu
