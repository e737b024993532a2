// The host memory pool: buffers that were freed are given out again, so that a steady program neither calls the
// allocator nor touches fresh pages (on big arrays the page faults cost more than the arithmetic).
//
// Sizes are rounded up to four classes per power of two. Small blocks are cut from slabs; large ones are mappings of
// their own, with huge pages where the system has them. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

namespace metal_candle::base {

struct PoolStats {
  std::size_t live = 0;            // handed out
  std::size_t cached = 0;          // kept for reuse
  std::size_t peak = 0;            // largest `live` since reset
  std::uint64_t system_calls = 0;  // times that memory was asked from the system
};

/// 64-byte aligned memory, not cleared. Throws OutOfMemory past the limit or when the system has none.
void* pool_allocate(std::size_t bytes);
void pool_free(void* data, std::size_t bytes) noexcept;
/// Bytes that `pool_allocate(bytes)` really takes.
std::size_t pool_class_size(std::size_t bytes);
/// The largest request that is taken to the system: no machine has more.
inline constexpr std::size_t kPoolLargest = std::size_t{1} << 47;
/// What is left below the limit; without one, what the system says it could give this process.
std::size_t pool_available();
PoolStats pool_stats();
void pool_reset_peak();
/// At most this many bytes live and cached together; 0: no limit.
void pool_set_limit(std::size_t bytes);
/// Returns the cached large blocks to the system.
void pool_trim();

}  // namespace metal_candle::base
