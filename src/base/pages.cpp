#include "base/pages.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace metal_candle::base {

std::size_t absent_bytes(const void* data, std::size_t bytes) {
  constexpr std::uint64_t kHere = std::uint64_t{3} << 62;  // in memory, or swapped out
  constexpr std::size_t kAtOnce = 8192;
  const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  std::uintptr_t page = begin / size, end = (begin + bytes + size - 1) / size;
  const int file = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  std::vector<std::uint64_t> entries(kAtOnce);
  std::size_t absent = 0;
  while (page < end) {
    const std::size_t wanted = std::min<std::size_t>(kAtOnce, end - page) * sizeof(std::uint64_t);
    const ssize_t got = ::pread(file, entries.data(), wanted, static_cast<off_t>(page * sizeof(std::uint64_t)));
    if (got < static_cast<ssize_t>(sizeof(std::uint64_t))) break;
    const auto count = static_cast<std::ptrdiff_t>(got) / static_cast<std::ptrdiff_t>(sizeof(std::uint64_t));
    absent += size * static_cast<std::size_t>(std::count_if(entries.begin(), entries.begin() + count,
                                                            [](std::uint64_t entry) { return (entry & kHere) == 0; }));
    page += static_cast<std::uintptr_t>(count);
  }
  ::close(file);
  return std::min(absent, bytes);
}

}  // namespace metal_candle::base
