// An index that only the data showed to be wrong.
#pragma once

#include <cstdint>
#include <string>

namespace metal_candle::cpu {

struct BadIndex {
  std::int64_t index = 0, extent = -1;  // the extent it was meant for; -1: there was no bad index

  std::string str() const;
};

}  // namespace metal_candle::cpu
