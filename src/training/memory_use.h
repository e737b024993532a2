// What the process has used.
#pragma once

#include <cstddef>

namespace metal_candle::training {

/// Most resident memory so far, mapped pages included (Linux: VmHWM); where the system does not say, the library's own.
std::size_t peak_resident_bytes();

}  // namespace metal_candle::training
