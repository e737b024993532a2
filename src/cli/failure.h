// What went wrong, as the command tells it: a message, and an exit code by whose fault it is.
#pragma once

#include <exception>
#include <string>

namespace metal_candle::cli {

struct Failure {
  int code;
  std::string message;
};
Failure failure_of(const std::exception_ptr& thrown);

}  // namespace metal_candle::cli
