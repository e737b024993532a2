// The ways in which a graph can be evaluated; results must agree in all of them.
#pragma once

#include <memory>
#include <string>

#include "metal_candle/runtime.hpp"

namespace metal_candle::test {

enum class Mode { planned, eager, passes_off };
inline constexpr Mode kModes[] = {Mode::planned, Mode::eager, Mode::passes_off};

inline std::string mode_name(Mode mode) {
  switch (mode) {
    case Mode::planned: return "planned";
    case Mode::eager: return "eager";
    case Mode::passes_off: return "passes_off";
  }
  return {};
}

/// Puts this thread in a mode while it lives.
class ModeGuard {
 public:
  explicit ModeGuard(Mode mode) {
    if (mode == Mode::eager) eager_ = std::make_unique<EagerMode>();
    if (mode == Mode::passes_off) off_ = std::make_unique<PassesOff>();
  }

 private:
  std::unique_ptr<EagerMode> eager_;
  std::unique_ptr<PassesOff> off_;
};

}  // namespace metal_candle::test
