// Sizes that vary, but among few.
//
//   const mc::FewSizes few;      // groups are filled up to one of eight lengths an octave
//   for (const Group& group : groups) model.forward(group).eval();
//
// A program that compiles the same operations three times in a row is warned, as it probably compiles forever. One that
// rounds its sizes to a bounded set compiles each once, perhaps one after the other, and says so by this.
//
// Of the thread that makes it, while it lives; they nest.
#pragma once

namespace metal_candle {

class FewSizes {
 public:
  FewSizes();
  ~FewSizes();
  FewSizes(const FewSizes&) = delete;
  FewSizes& operator=(const FewSizes&) = delete;
};

}  // namespace metal_candle
