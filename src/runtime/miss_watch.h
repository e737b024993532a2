// Notices programs whose structure keeps changing, which compile where they should replay.
#pragma once

#include "graph/capture.h"

namespace metal_candle {

/// Logs a warning that names the field that changed when this thread misses the plan cache for the third time in a row
/// with the same operations.
void note_miss(const Capture& capture);
void note_hit(const Capture& capture);

}  // namespace metal_candle
