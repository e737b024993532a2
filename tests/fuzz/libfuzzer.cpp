// The entry of a libFuzzer program; MC_FUZZ_TARGET names the function.
#ifdef MC_FUZZ_TARGET
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  metal_candle::fuzz::MC_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}
#endif
