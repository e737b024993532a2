// A step that is a row program.
#pragma once

#include "backend/cpu/step.h"
#include "backend/cpu/vm/vm.h"

namespace metal_candle::cpu {

/// Values computed, all columns of all rows.
double program_flops(const KernelProgram& program);
bool gathers(const KernelProgram& program);

class ProgramStep final : public Step {
 public:
  ProgramStep(const KernelProgram& program, double nanoseconds);
  std::int64_t tasks(int) const override { return program_->tasks(); }
  std::size_t scratch_bytes() const override { return program_->scratch_bytes(); }
  double nanoseconds() const override { return nanoseconds_; }
  bool fallible() const override { return fallible_; }
  void run(const RunFrame& frame, int round, std::int64_t task, void* scratch, std::int64_t before) override;

 private:
  std::unique_ptr<RowProgram> program_;
  bool fallible_;
  double nanoseconds_;
};

}  // namespace metal_candle::cpu
