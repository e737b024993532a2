// The identity op: its value is input 0, and its one attribute says why it is there. Inputs after the first carry no
// values; their shapes are their own.
#pragma once

#include <cstdint>

namespace metal_candle::ops {

enum IdentityKind : std::int64_t {
  /// Gradients stop. The compiler replaces it by its input.
  kStopGradient = 0,
  /// (x, after...): x, not before `after` is computed. Never simplified away while expressions are compared, so that
  /// what is computed from it is computed again and not taken from where x was first used. See checkpoint.cpp.
  kBarrier = 1,
  /// (y, x...): marks y as computed from x for autograd. The compiler replaces it by y at once and drops x.
  kCheckpoint = 2,
};

}  // namespace metal_candle::ops
