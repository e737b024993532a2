#include "base/pool.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <vector>

#include "base/fork.h"
#include "metal_candle/error.hpp"

namespace metal_candle::base {
namespace {

constexpr std::size_t kAlign = 64;
constexpr std::size_t kSlab = std::size_t{1} << 20;
constexpr std::size_t kSmall = std::size_t{64} << 10;  // blocks up to this are cut from slabs
constexpr std::size_t kHuge = std::size_t{2} << 20;
constexpr std::size_t kShared = 16 * kHuge;  // a mapping that blocks smaller than a huge page are cut from
constexpr int kClasses = 4 * 64;
constexpr std::size_t kLargest = kPoolLargest;

struct FreeBlock {
  FreeBlock* next;
};

int class_of(std::size_t bytes) {
  if (bytes <= kAlign) return 0;
  const int top = 63 - std::countl_zero(bytes - 1);  // bytes in (2^top, 2^(top+1)]
  const std::size_t step = (std::size_t{1} << top) / 4;
  return (top - 6) * 4 + 1 + static_cast<int>((bytes - 1 - (std::size_t{1} << top)) / step);
}

std::size_t size_of_class(int c) {
  if (c == 0) return kAlign;
  const int top = (c - 1) / 4 + 6;
  const std::size_t size =
      (std::size_t{1} << top) + ((std::size_t{1} << top) / 4) * static_cast<std::size_t>((c - 1) % 4 + 1);
  return (size + kAlign - 1) / kAlign * kAlign;
}

/// What the machine could give without swapping.
std::size_t machine_available() {
  if (std::FILE* file = std::fopen("/proc/meminfo", "r")) {
    char line[128];
    unsigned long long kilobytes = 0;
    bool found = false;
    while (!found && std::fgets(line, sizeof line, file))
      found = std::sscanf(line, "MemAvailable: %llu kB", &kilobytes) == 1;
    std::fclose(file);
    if (found) return static_cast<std::size_t>(kilobytes) << 10;
  }
  struct sysinfo info {};
  return sysinfo(&info) == 0 ? static_cast<std::size_t>(info.freeram) * info.mem_unit : 0;
}

/// What this process may still map (`ulimit -v`).
std::size_t addresses_available() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return SIZE_MAX;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (!file) return 0;  // not even room for its buffer
  unsigned long long pages = 0;
  const bool found = std::fscanf(file, "%llu", &pages) == 1;
  std::fclose(file);
  const std::size_t taken = static_cast<std::size_t>(pages) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return found && limit.rlim_cur > taken ? limit.rlim_cur - taken : 0;
}

class Pool {
 public:
  Pool() { at_fork(ForkOrder::last, mutex_); }

  void* allocate(std::size_t bytes) {
    std::lock_guard lock(mutex_);
    if (bytes > kLargest) throw OutOfMemory(bytes, available_locked());
    const int c = class_of(bytes);
    const std::size_t size = size_of_class(c);
    if (FreeBlock* block = free_[c]) {
      free_[c] = block->next;
      stats_.cached -= size;
      note_live(size);
      return block;
    }
    if (limit_ != 0 && stats_.live + stats_.cached + size > limit_) trim_locked();
    if (limit_ != 0 && stats_.live + size > limit_) throw OutOfMemory(bytes, available_locked());
    void* data = size <= kSmall ? cut(size) : size < kHuge ? cut_shared(size) : map(size);
    note_live(size);
    return data;
  }

  void free(void* data, std::size_t bytes) noexcept {
    const int c = class_of(bytes);
    const std::size_t size = size_of_class(c);
    std::lock_guard lock(mutex_);
    auto* block = static_cast<FreeBlock*>(data);
    block->next = free_[c];
    free_[c] = block;
    stats_.live -= size;
    stats_.cached += size;
  }

  std::size_t available() {
    std::lock_guard lock(mutex_);
    return available_locked();
  }
  PoolStats stats() {
    std::lock_guard lock(mutex_);
    return stats_;
  }
  void reset_peak() {
    std::lock_guard lock(mutex_);
    stats_.peak = stats_.live;
  }
  void set_limit(std::size_t bytes) {
    std::lock_guard lock(mutex_);
    limit_ = bytes;
    if (limit_ != 0 && stats_.live + stats_.cached > limit_) trim_locked();
  }
  void trim() {
    std::lock_guard lock(mutex_);
    trim_locked();
  }

 private:
  std::size_t available_locked() const {
    if (limit_ == 0) return std::min(machine_available(), addresses_available());
    return limit_ > stats_.live ? limit_ - stats_.live : 0;
  }

  void note_live(std::size_t size) {
    stats_.live += size;
    if (stats_.live > stats_.peak) stats_.peak = stats_.live;
  }

  void* cut(std::size_t size) {
    if (slab_left_ < size) {
      slab_ = static_cast<char*>(cut_shared(kSlab));
      slab_left_ = kSlab;
    }
    void* data = slab_;
    slab_ += size;
    slab_left_ -= size;
    return data;
  }

  /// Blocks of whole small pages that lie side by side on huge ones: reading a model in pieces of half a megabyte took a
  /// third of its time in page faults. Each can be unmapped by itself.
  void* cut_shared(std::size_t size) {
    if (shared_left_ < size) {
      if (shared_left_ > 0) munmap(shared_, shared_left_);
      shared_ = nullptr, shared_left_ = 0;
      try {
        shared_ = static_cast<char*>(map(kShared));
      } catch (const OutOfMemory&) {
        return map(size);
      }
      shared_left_ = kShared;
    }
    void* data = shared_;
    shared_ += size;
    shared_left_ -= size;
    return data;
  }

  void* map(std::size_t size) {
    ++stats_.system_calls;
    const std::size_t extra = size >= kHuge ? kHuge : 0;  // room to start on a huge page
    void* raw = mmap(nullptr, size + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) {
      trim_locked();
      raw = mmap(nullptr, size + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (raw == MAP_FAILED) throw OutOfMemory(size, available_locked());
    }
    if (extra == 0) return raw;
    const auto address = reinterpret_cast<std::uintptr_t>(raw);
    const std::uintptr_t begin = (address + kHuge - 1) / kHuge * kHuge;
    if (begin > address) munmap(raw, begin - address);
    const std::uintptr_t end = begin + (size + 4095) / 4096 * 4096;
    const std::uintptr_t mapped_end = address + size + extra;
    const std::uintptr_t mapped_end_page = (mapped_end + 4095) / 4096 * 4096;
    if (mapped_end_page > end) munmap(reinterpret_cast<void*>(end), mapped_end_page - end);
    madvise(reinterpret_cast<void*>(begin), size, MADV_HUGEPAGE);
    return reinterpret_cast<void*>(begin);
  }

  void trim_locked() {
    for (int c = class_of(kSmall) + 1; c <= class_of(kLargest); ++c) {
      const std::size_t size = size_of_class(c);
      while (FreeBlock* block = free_[c]) {
        free_[c] = block->next;
        munmap(block, size);
        stats_.cached -= size;
      }
    }
  }

  std::mutex mutex_;
  FreeBlock* free_[kClasses] = {};
  char* slab_ = nullptr;
  std::size_t slab_left_ = 0;
  char* shared_ = nullptr;
  std::size_t shared_left_ = 0;
  std::size_t limit_ = 0;
  PoolStats stats_;
};

// Never destroyed: tensors with static lifetime may be freed after any destructor of ours.
Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

}  // namespace

void* pool_allocate(std::size_t bytes) { return pool().allocate(bytes); }
void pool_free(void* data, std::size_t bytes) noexcept { pool().free(data, bytes); }
std::size_t pool_class_size(std::size_t bytes) { return size_of_class(class_of(bytes)); }
std::size_t pool_available() { return pool().available(); }
PoolStats pool_stats() { return pool().stats(); }
void pool_reset_peak() { pool().reset_peak(); }
void pool_set_limit(std::size_t bytes) { pool().set_limit(bytes); }
void pool_trim() { pool().trim(); }

}  // namespace metal_candle::base
