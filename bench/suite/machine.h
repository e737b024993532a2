// Which machine this is.
#pragma once

#include <string>

namespace bench {

struct Machine {
  std::string cpu, isa, caches, memory, system;
};
Machine this_machine();
/// Now, as 2026-01-31T12:00:00Z.
std::string date_now();

/// Seconds of processor time: of all processes of the machine, and of this process.
struct ProcessorTime {
  double machine = 0, mine = 0;
};
ProcessorTime processor_time();
/// Of another process.
double processor_time_of(int pid);
/// VmRSS, VmHWM ... of this process, in bytes; 0 where /proc has none.
double memory_status(const std::string& field);

}  // namespace bench
