// The CPU as a backend.
#include <algorithm>

#include "backend/backend.h"
#include "backend/cpu/executable.h"
#include "backend/cpu/kernels/table.h"
#include "backend/cpu/packed_weight.h"

namespace metal_candle {
namespace cpu {
namespace {

const CpuKernel* kernel_of(const OpDef* op) { return op->cpu != nullptr ? op->cpu : builtin_kernel(op); }

class CpuBackend final : public Backend {
 public:
  CpuBackend() { caps_.kernel = kernel_of; }
  const Caps& caps() const override { return caps_; }

  std::unique_ptr<Executable> lower(std::shared_ptr<const Plan> plan) override {
    return std::make_unique<CpuExecutable>(std::move(plan), workspace_);
  }

  Needs needs(std::span<const std::pair<const Executable*, Bindings>> runs) const override {
    Needs all;
    PackingForecast forecast;
    for (const auto& [executable, bindings] : runs) {
      const auto& ours = static_cast<const CpuExecutable&>(*executable);
      all.temporaries = std::max(all.temporaries, ours.bytes_to_grow());
      ours.foretell(bindings, forecast);
    }
    all.packed = forecast.bytes();
    return all;
  }

  std::size_t arena_bytes() const override { return workspace_->arena.bytes(); }

  void release_memory() override {
    std::lock_guard lock(workspace_->mutex);
    workspace_->arena.release();
    workspace_->scratch.release();
  }

 private:
  Caps caps_;
  std::shared_ptr<SharedWorkspace> workspace_ = std::make_shared<SharedWorkspace>();
};

}  // namespace
}  // namespace cpu

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<cpu::CpuBackend>(); }

}  // namespace metal_candle
