// An operation made for tests: y = x + 1 elementwise, which counts its runs and fails on request.
#pragma once

#include <atomic>

#include "metal_candle/op_def.hpp"
#include "metal_candle/runtime.hpp"
#include "metal_candle/tensor.hpp"

namespace metal_candle::test {

inline std::atomic<int> probe_runs{0};

inline std::int64_t one_task(const KernelCall&, int) { return 1; }
inline void run_probe(const KernelCall& c, int, std::int64_t) {
  ++probe_runs;
  if (c.attrs.size() > 0) c.fail("the probe was asked to fail");
  const float* in = c.inputs[0].as<float>();
  float* out = c.outputs[0].as<float>();
  for (std::int64_t i = 0; i < c.outputs[0].shape.numel(); ++i) out[i] = in[i] + 1;
}
inline const CpuKernel probe_kernel{.run = run_probe, .tasks = one_task, .in_place_input = 0};
inline const OpDef probe_def{.name = "probe",
                             .kind = OpKind::kernel,
                             .infer = [](const OpCall& c, InferResult& r) { r.add(DType::f32, c.inputs[0].shape()); },
                             .decompose = nullptr,
                             .vjp = NoGrad{},
                             .samples = nullptr,
                             .cpu = &probe_kernel};

inline LazyTensor probe(const LazyTensor& x) { return record(probe_def, {x}); }
inline LazyTensor failing_probe(const LazyTensor& x) { return record(probe_def, {x}, Attrs{std::int64_t{1}}); }

/// What a block adds to the counters.
class Counted {
 public:
  std::uint64_t evaluations() const { return counters().evaluations - before_.evaluations; }
  std::uint64_t compiled() const { return counters().plans_compiled - before_.plans_compiled; }
  std::uint64_t replays() const { return counters().replays - before_.replays; }
  std::uint64_t evicted() const { return counters().plans_evicted - before_.plans_evicted; }

 private:
  Counters before_ = counters();
};

}  // namespace metal_candle::test
