#include "training/memory_use.h"

#include <cstdio>

#include "metal_candle/runtime.hpp"

namespace metal_candle::training {

std::size_t peak_resident_bytes() {
  std::size_t kib = 0;
  if (std::FILE* file = std::fopen("/proc/self/status", "r")) {
    char line[256];
    while (kib == 0 && std::fgets(line, sizeof line, file))
      if (std::sscanf(line, "VmHWM: %zu kB", &kib) != 1) kib = 0;
    std::fclose(file);
  }
  return kib > 0 ? kib * 1024 : memory().peak;
}

}  // namespace metal_candle::training
