// The elementwise table as an enum and as names.
//
//   mc::info(mc::Elementwise::silu).name;                             // "silu"
#pragma once

#include <cstdint>
#include <string_view>

namespace metal_candle {

enum class Elementwise : std::uint16_t {
#define MC_UNARY(name, ...) name,
#define MC_BINARY(name, ...) name,
#define MC_COMPARE(name, ...) name,
#define MC_LOGIC(name, ...) name,
#include "metal_candle/elementwise.def"
  kCount
};

enum class ElementwiseClass : std::uint8_t { unary, binary, compare, logic };

/// What an element takes, roughly: the table's column.
enum class Cost : std::uint8_t { simple, divide, root, series, power };

struct ElementwiseInfo {
  std::string_view name;
  ElementwiseClass cls;
  bool float_only;
  Cost cost;
};
const ElementwiseInfo& info(Elementwise op);

}  // namespace metal_candle
