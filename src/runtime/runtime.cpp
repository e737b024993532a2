#include "runtime/runtime.h"

#include <cstdio>

#include "base/fork.h"

namespace metal_candle {

Runtime::Runtime() : backend(make_cpu_backend()) {
  base::at_fork(base::ForkOrder::compiling, compiling);
  base::at_fork(base::ForkOrder::last, log_mutex);
}

void Runtime::say(const std::string& message) {
  std::function<void(const std::string&)> to;
  {
    std::lock_guard lock(log_mutex);
    to = log;
  }
  if (to) return to(message);
  const std::string line = "metal-candle: " + message + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);  // who cannot be told is not
}

Runtime& runtime() {
  static auto* instance = new Runtime;
  return *instance;
}

}  // namespace metal_candle
