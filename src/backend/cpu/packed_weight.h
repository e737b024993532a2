// Constant right sides of products, packed once and kept beside the buffer that they are a copy of.
#pragma once

#include <map>

#include "backend/cpu/gemm/gemm.h"
#include "graph/node.h"

namespace metal_candle::cpu {

/// The matrices to be packed: n × k from `data` on, and for a batch one more per index of the extents (innermost last).
struct WeightView {
  static constexpr int kMaxDims = 8;
  std::int64_t n = 0, k = 0, row_stride = 0, col_stride = 0;
  std::int64_t offset = 0;  // bytes from the buffer's start
  std::int64_t extents[kMaxDims] = {}, strides[kMaxDims] = {};
  int dims = 0;
  GemmType type = GemmType::f32;
  const char* isa = nullptr;
  bool squeezed = false;

  std::int64_t count() const;
  GemmShape shape() const { return {0, n, k, type}; }
  std::size_t entry_bytes() const { return squeezed ? squeezed_b_bytes(shape()) : packed_b_bytes(shape()); }
  friend bool operator==(const WeightView&, const WeightView&) = default;
};

/// Which forms are made. `spared`: none that would make a buffer's forms larger than the buffer, nor more of all buffers
/// than a share of the machine's memory, nor one for which there is no memory.
enum class Packing : std::uint8_t { always, spared };

/// The packed form of this view of the buffer: found, or made with up to `threads` threads; null if it is spared, and
/// for a squeezed form if too many values are unlike the others. Lives as long as the buffer. Throws OutOfMemory.
const char* packed_weight(Storage& storage, const WeightView& view, int threads, Packing packing = Packing::always);

/// What forms products would make in a row, and how large: as `packed_weight` decides, and nothing is packed.
class PackingForecast {
 public:
  void add(const Storage& storage, const WeightView& view, Packing packing);
  std::size_t bytes() const { return bytes_; }

 private:
  std::multimap<const Storage*, WeightView> views_;
  std::size_t bytes_ = 0;
};

}  // namespace metal_candle::cpu
