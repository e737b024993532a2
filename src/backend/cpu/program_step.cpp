// A fused step: its program's tasks, in one round.
#include <algorithm>

#include "backend/cpu/program_step.h"

#include "backend/cpu/bad_index.h"

namespace metal_candle::cpu {

double program_flops(const KernelProgram& program) {
  double values = 0;
  for (const KStage& stage : program.stages)
    values += static_cast<double>(stage.end - stage.begin) * static_cast<double>(stage.cols);
  return values * static_cast<double>(program.rows);
}

bool gathers(const KernelProgram& program) {
  return std::any_of(program.accesses.begin(), program.accesses.end(), [](const KAccess& a) { return a.gather >= 0; });
}

ProgramStep::ProgramStep(const KernelProgram& program, double nanoseconds)
    : program_(RowProgram::lower(program)), fallible_(gathers(program)), nanoseconds_(nanoseconds) {}

void ProgramStep::run(const RunFrame& frame, int, std::int64_t task, void* scratch, std::int64_t) {
  if (!fallible_) return program_->run(frame.buffers, frame.slots, task, scratch, nullptr);
  BadIndex bad;
  program_->run(frame.buffers, frame.slots, task, scratch, &bad);
  if (bad.extent >= 0) fail(bad.str(), task);
}

std::unique_ptr<Step> lower_fused(const PlanStep& step) {
  const double flops = std::max(step.flops, program_flops(step.program));
  return std::make_unique<ProgramStep>(step.program, estimate(step.bytes, flops, 4));
}

}  // namespace metal_candle::cpu
