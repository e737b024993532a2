// Whether this thread runs an op's kernel, which may be anybody's: whoever waits for the device there waits for himself.
#pragma once

#include <string>

#include "metal_candle/error.hpp"

namespace metal_candle::base {

class InKernel {
 public:
  InKernel() : outer_(here_) { here_ = true; }
  ~InKernel() { here_ = outer_; }
  InKernel(const InKernel&) = delete;
  InKernel& operator=(const InKernel&) = delete;
  /// Throws in a kernel; `what` is about to wait for the device.
  static void refuse(const char* what) {
    if (here_) throw UserError(ErrorKind::argument, std::string(what) + ": a kernel would wait for itself");
  }

 private:
  inline static constinit thread_local bool here_ = false;
  const bool outer_;
};

}  // namespace metal_candle::base
