#include "backend/cpu/bad_index.h"

#include <fmt/format.h>

namespace metal_candle::cpu {

std::string BadIndex::str() const {
  if (extent == 0) return fmt::format("index {} is out of range: the extent is 0", index);
  return fmt::format("index {} is out of range: an extent of {} has {} to {}", index, extent, -extent, extent - 1);
}

}  // namespace metal_candle::cpu
