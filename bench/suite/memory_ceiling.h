// What the memory of this machine gives: the best of several loops, tried once, then run again beside each row.
#pragma once

#include <functional>
#include <string>

namespace bench {

/// A loop over `bytes` of memory; bandwidth is bytes / seconds.
struct MemoryLoop {
  std::string name;
  double bytes = 0;
  std::function<void()> run;
};

/// Reads 128 MiB, of which a cache of 32 MiB may still hold some from the time before.
const MemoryLoop& best_read();
/// Reads 512 MiB, as a language model's weights are read: next to nothing is still there from the time before.
const MemoryLoop& best_model_read();
/// Reads 128 MiB and writes them elsewhere; `bytes` counts both.
const MemoryLoop& best_copy();

/// Seconds until so much memory that nobody had before is there: the system clears it, and where a host took free memory
/// back, that has to give it again. Every first step and every load pays for what it touches. 0 if there is none.
double touch_fresh(double bytes);

/// Seconds that traffic needs: what is written beside as much reading at the copy's rate, the rest of the reading at
/// the read's rate.
double traffic_limit(double read_bytes, double written_bytes, double read_rate, double copy_rate);

}  // namespace bench
