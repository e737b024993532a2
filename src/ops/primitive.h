// Definitions of the primitive ops.
#pragma once

#include "metal_candle/op_def.hpp"

namespace metal_candle::ops {

/// An op that the compiler knows by its kind and code: no decomposition, and no kernel of its own.
constexpr OpDef primitive(std::string_view name, OpKind kind, std::uint16_t code, Infer infer, Vjp vjp,
                          Samples samples) {
  return {.name = name,
          .kind = kind,
          .infer = infer,
          .decompose = nullptr,
          .vjp = vjp,
          .samples = samples,
          .cpu = nullptr,
          .code = code};
}

}  // namespace metal_candle::ops
