// How the kernels cut their work: by shapes only, so that a result never depends on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace metal_candle::cpu {

/// Enough work for one task to be worth handing to a thread, little enough for a few threads to share a layer's data.
inline constexpr std::int64_t kTaskBytes = 128 << 10;

/// Number of tasks for `bytes` of work that comes in `units`: none for nothing, never more than the units.
inline std::int64_t task_count(std::int64_t bytes, std::int64_t units, std::int64_t most = INT64_MAX) {
  if (bytes <= 0 || units <= 0) return 0;
  return std::min({(bytes + kTaskBytes - 1) / kTaskBytes, units, most});
}

struct Range {
  std::int64_t begin, end;
};
/// Part `i` of `parts` nearly equal pieces of 0..total.
inline Range part(std::int64_t total, std::int64_t parts, std::int64_t i) {
  const std::int64_t size = total / parts, rest = total % parts;
  const std::int64_t begin = i * size + std::min(i, rest);
  return {begin, begin + size + (i < rest ? 1 : 0)};
}

}  // namespace metal_candle::cpu
