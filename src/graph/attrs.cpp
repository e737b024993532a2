#include "metal_candle/op_def.hpp"

namespace metal_candle {

void Attrs::push_slow(std::int64_t value) {
  if (size_ == kInline) more_.assign(inline_, inline_ + kInline);
  more_.push_back(value);
  ++size_;
}

}  // namespace metal_candle
