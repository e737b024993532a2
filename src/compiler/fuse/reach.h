// Reach: rows of bits, who reaches whom among the units of one window.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace metal_candle {

class Reach {
 public:
  explicit Reach(std::size_t n) : words_((n + 63) / 64), bits_(n * words_, 0) {}
  /// Forgets everything; unit numbers count from `first` on.
  void reset(int first) {
    first_ = first;
    std::fill(bits_.begin(), bits_.end(), 0);
  }
  bool get(int from, int to) const {
    if (from < first_ || to < first_) return false;
    from -= first_, to -= first_;
    return (row(from)[to / 64] >> (to % 64) & 1) != 0;
  }
  void set(int from, int to) {
    if (from < first_ || to < first_) return;
    from -= first_, to -= first_;
    row(from)[to / 64] |= std::uint64_t{1} << (to % 64);
  }
  void add(int from, int other) {
    if (from < first_ || other < first_) return;
    from -= first_, other -= first_;
    std::uint64_t* a = row(from);
    const std::uint64_t* b = row(other);
    for (std::size_t i = 0; i < words_; ++i) a[i] |= b[i];
  }

 private:
  std::uint64_t* row(int i) { return bits_.data() + static_cast<std::size_t>(i) * words_; }
  const std::uint64_t* row(int i) const { return bits_.data() + static_cast<std::size_t>(i) * words_; }
  int first_ = 0;
  std::size_t words_;
  std::vector<std::uint64_t> bits_;
};

}  // namespace metal_candle
