// A step with a kernel of its own: `passes` rounds of calls that differ in scratch memory only.
#include <vector>

#include "backend/cpu/step.h"
#include "base/in_kernel.h"

namespace metal_candle::cpu {
namespace {

class KernelCallStep final : public Step {
 public:
  explicit KernelCallStep(const PlanStep& step) : step_(step.kernel), kernel_(*step.kernel.cpu) {
    double bytes = 0;
    const auto add = [&](const KernelStep::Operand& o, std::vector<KernelTensor>& to) {
      to.push_back({nullptr, o.dtype, o.shape, o.strides});
      if (o.buffer >= 0) bytes += static_cast<double>(o.shape.numel()) * static_cast<double>(size_of(o.dtype));
    };
    for (const auto& o : step_.inputs) add(o, inputs_);
    for (const auto& o : step_.outputs) add(o, outputs_);
    const KernelCall shapes = call(nullptr);
    for (int pass = 0; pass < kernel_.passes; ++pass) tasks_.push_back(kernel_.tasks(shapes, pass));
    if (kernel_.scratch) scratch_ = kernel_.scratch(shapes);
    if (kernel_.shared) shared_size_ = kernel_.shared(shapes);
    const double work = kernel_.work ? kernel_.work(shapes) : 0;
    nanoseconds_ = estimate(2 * std::max(bytes, step.bytes), std::max(work, step.flops), 4);
  }

  int rounds() const override { return kernel_.passes; }
  std::int64_t tasks(int round) const override { return tasks_[static_cast<std::size_t>(round)]; }
  std::size_t scratch_bytes() const override { return scratch_; }
  std::size_t shared_bytes() const override { return shared_size_; }
  double nanoseconds() const override { return nanoseconds_; }
  bool fallible() const override { return true; }
  bool binds() const override { return true; }

  bool bind(const RunFrame& frame) override {
    for (std::size_t i = 0; i < inputs_.size(); ++i) inputs_[i].data = address(step_.inputs[i], frame);
    for (std::size_t i = 0; i < outputs_.size(); ++i) outputs_[i].data = address(step_.outputs[i], frame);
    return true;
  }

  void run(const RunFrame&, int round, std::int64_t task, void* scratch, std::int64_t) override {
    running = this;
    running_task = task;
    const base::InKernel marked;
    kernel_.run(call(scratch), round, task);
  }

 private:
  KernelCall call(void* scratch) const { return {inputs_, outputs_, step_.attrs, scratch, shared_, report}; }

  static void* address(const KernelStep::Operand& o, const RunFrame& frame) {
    if (o.buffer < 0) return nullptr;
    char* base = static_cast<char*>(frame.buffers[o.buffer]);
    return base ? base + o.offset * static_cast<std::int64_t>(size_of(o.dtype)) : nullptr;
  }

  static void report(const char* what) { running->fail(what, running_task); }
  // `fail` of a call says what, but not of which call.
  static thread_local KernelCallStep* running;
  static thread_local std::int64_t running_task;

  const KernelStep& step_;
  const CpuKernel& kernel_;
  std::vector<KernelTensor> inputs_, outputs_;
  std::vector<std::int64_t> tasks_;
  std::size_t scratch_ = 0, shared_size_ = 0;
  double nanoseconds_ = 0;
};

thread_local KernelCallStep* KernelCallStep::running = nullptr;
thread_local std::int64_t KernelCallStep::running_task = 0;

}  // namespace

std::unique_ptr<Step> lower_kernel(const PlanStep& step) { return std::make_unique<KernelCallStep>(step); }

}  // namespace metal_candle::cpu
