// Which pages of memory a process has.
#pragma once

#include <cstddef>

namespace metal_candle::base {

/// Bytes of this memory whose pages come when they are touched: of a mapped file, or never written. 0 where the system
/// (Linux: /proc/self/pagemap) does not say.
std::size_t absent_bytes(const void* data, std::size_t bytes);

}  // namespace metal_candle::base
