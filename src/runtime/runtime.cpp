#include "runtime/runtime.h"

#include <fmt/format.h>

#include <cstdio>

namespace metal_candle {

Runtime::Runtime() : backend(make_cpu_backend()) {}

void Runtime::say(const std::string& message) {
  std::function<void(const std::string&)> to;
  {
    std::lock_guard lock(log_mutex);
    to = log;
  }
  if (to) to(message);
  else fmt::print(stderr, "metal-candle: {}\n", message);
}

Runtime& runtime() {
  static auto* instance = new Runtime;
  return *instance;
}

}  // namespace metal_candle
