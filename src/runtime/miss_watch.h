// Notices programs whose structure keeps changing, which compile where they should replay.
#pragma once

#include <vector>

#include "graph/capture.h"

namespace metal_candle {

/// What a thread missed last. Logs a warning that names the field that changed when the plan cache was missed for the
/// third time in a row with the same operations.
class MissWatch {
 public:
  void miss(const Capture& capture);
  void hit(const Capture& capture) {
    if (capture.nodes.size() == ops_.size()) in_a_row_ = 0;
  }

 private:
  bool same_ops(const Capture& capture) const;
  void remember(const Capture& capture);

  int in_a_row_ = 0;
  bool warned_ = false;
  std::vector<const OpDef*> ops_;
  std::vector<std::uint64_t> words_;
};

}  // namespace metal_candle
