// Memory for packed weights: they live long, are read from end to end, and one after the other. So those too small for
// a huge page of their own share some: on 4 KiB pages a step of decoding ran 5 % slower.
#pragma once

#include <cstddef>

namespace metal_candle::cpu {

/// A piece of memory that frees itself.
class WeightMemory {
 public:
  /// Not cleared, aligned to 128 bytes. Throws OutOfMemory. Thread-safe.
  explicit WeightMemory(std::size_t bytes);
  ~WeightMemory();
  WeightMemory(const WeightMemory&) = delete;
  WeightMemory& operator=(const WeightMemory&) = delete;
  char* data() const { return data_; }

  struct Chunk;

 private:
  std::size_t bytes_;
  char* data_ = nullptr;
  Chunk* chunk_ = nullptr;  // null: the pool's
};

}  // namespace metal_candle::cpu
