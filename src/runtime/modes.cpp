// Eager mode and switched-off passes: both are a thread's own.
#include "graph/node.h"
#include "graph/record.h"
#include "runtime/evaluate.h"
#include "runtime/runtime.h"

namespace metal_candle {
namespace {

thread_local PassMask passes = kAllPasses;

// Scalars stay numbers: they are slots of whatever reads them.
void evaluate_recorded(const LazyTensor& tensor) {
  if (tensor.node()->op->kind == OpKind::scalar) return;
  const HookPause once;
  evaluate({&tensor, 1}, Mode::eager);
}

}  // namespace

EagerMode::EagerMode() : outer_(reinterpret_cast<void*>(exchange_record_hook(evaluate_recorded))) {}
EagerMode::~EagerMode() { exchange_record_hook(reinterpret_cast<RecordHook>(outer_)); }

PassMask passes_on() { return passes; }

PassesOff::PassesOff(const std::vector<std::string>& names) : outer_(passes) {
  PassMask on = names.empty() ? PassMask{0} : passes;
  for (const std::string& name : names) on &= ~pass_bit(name);
  passes = on;
}
PassesOff::~PassesOff() { passes = outer_; }

std::vector<std::string> compiler_passes() { return pass_names(); }

}  // namespace metal_candle
