// Where a tensor lives. This build has the CPU.
//
//   mc::rand({4}, {.key = mc::Key(1)}).device().str();                // "cpu"
#pragma once

#include <cstdint>
#include <string>

namespace metal_candle {

enum class DeviceKind : std::uint8_t { cpu };

struct Device {
  DeviceKind kind = DeviceKind::cpu;
  std::uint8_t index = 0;

  static Device cpu() { return {}; }
  /// The fastest device of this machine.
  static Device best() { return {}; }
  std::string str() const;
  friend bool operator==(Device, Device) = default;
};

}  // namespace metal_candle
