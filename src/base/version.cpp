#include "metal_candle/version.hpp"

namespace metal_candle {

std::string_view version() { return METAL_CANDLE_VERSION; }

}  // namespace metal_candle
