// Ops from outside the library, over its public headers alone: a composite one and one with a kernel of its own.
// Values, gradients, plans and errors, in every mode. examples/outside_op.cpp shows the same to readers.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "metal_candle/metal_candle.hpp"
#include "tests/support/errors.h"
#include "tests/support/modes.h"

namespace metal_candle {
namespace {

using test::kModes;
using test::Mode;
using test::ModeGuard;

// ---- swiglu: composite ----------------------------------------------------------------------------------------------

void infer_swiglu(const OpCall& c, InferResult& r) {
  if (c.inputs[0].shape() != c.inputs[1].shape()) fail_shape(c, "gate and up must have one shape");
  if (!is_float(c.inputs[0].dtype())) fail_dtype(c, "only floats have a sigmoid");
  r.add(c.inputs[0].dtype(), c.inputs[0].shape());
}
const OpDef swiglu_def{.name = "swiglu",
                       .kind = OpKind::composite,
                       .infer = infer_swiglu,
                       .decompose = [](const OpCall& c) -> Tensors { return {silu(c.inputs[0]) * c.inputs[1]}; },
                       .vjp = DecomposedGrad{},
                       .samples =
                           [](SampleSink& s) {
                             s.add({s.normal({3, 8}), s.normal({3, 8})});
                           }};
LazyTensor swiglu(const LazyTensor& gate, const LazyTensor& up) { return record(swiglu_def, {gate, up}); }

// ---- leaky_sum{reverse}(x, decay): a kernel -------------------------------------------------------------------------

std::int64_t row_count(const KernelCall& c) {
  const Shape& shape = c.inputs[0].shape;
  return shape.numel() == 0 ? 0 : shape.numel() / shape.dim(-1);
}
std::int64_t one_row_each(const KernelCall& c, int) { return row_count(c); }
void run_leaky_sum(const KernelCall& c, int, std::int64_t row) {
  const std::int64_t n = c.inputs[0].shape.dim(-1);
  const auto decay = static_cast<float>(*c.inputs[1].as<const double>());
  if (decay > 1) {
    c.fail(("a decay of " + std::to_string(decay) + " grows").c_str());
    return;
  }
  const float* x = c.inputs[0].as<const float>() + row * n;
  float* y = c.outputs[0].as<float>() + row * n;
  float sum = 0;
  for (std::int64_t k = 0; k < n; ++k) {
    const std::int64_t i = c.attrs[0] ? n - 1 - k : k;
    y[i] = sum = x[i] + decay * sum;
  }
}
const CpuKernel leaky_sum_kernel{.run = run_leaky_sum, .tasks = one_row_each, .in_place_input = 0};

void infer_leaky_sum(const OpCall& c, InferResult& r) {
  if (c.inputs[0].rank() == 0) fail_shape(c, "there is no axis to run along");
  if (c.inputs[0].dtype() != DType::f32) fail_dtype(c, "the kernel knows f32 only");
  r.add(DType::f32, c.inputs[0].shape());
}
const OpDef leaky_sum_def{.name = "leaky_sum",
                          .kind = OpKind::kernel,
                          .infer = infer_leaky_sum,
                          .decompose = nullptr,
                          .vjp = [](const VjpCall& c) -> Tensors {
                            return {record(c.op, {c.grads[0], c.inputs[1]}, {1 - c.attrs[0]}), {}};
                          },
                          .samples =
                              [](SampleSink& s) {
                                s.add({s.normal({3, 8}), scalar(0.5)}, {0});
                                s.add({s.normal({7}), scalar(0.25)}, {1});
                              },
                          .cpu = &leaky_sum_kernel};
LazyTensor leaky_sum(const LazyTensor& x, double decay) { return record(leaky_sum_def, {x, scalar(decay)}, {0}); }

// ---- what they are compared with ------------------------------------------------------------------------------------

std::vector<double> leaky_sum_in_f64(const std::vector<double>& x, std::size_t n, double decay, bool reverse) {
  std::vector<double> y(x.size());
  for (std::size_t row = 0; row < x.size(); row += n) {
    double sum = 0;
    for (std::size_t k = 0; k < n; ++k) {
      const std::size_t i = row + (reverse ? n - 1 - k : k);
      y[i] = sum = x[i] + decay * sum;
    }
  }
  return y;
}

void expect_near(const LazyTensor& got, const std::vector<double>& want, const std::string& what) {
  const std::vector<double> values = Tensor(got).to_f64();
  ASSERT_EQ(values.size(), want.size()) << what;
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(values[i], want[i], 2e-5) << what << " at " << i;
}

constexpr std::int64_t kRows = 37, kColumns = 19;

Tensor random(std::uint64_t seed) { return randn({kRows, kColumns}, {.key = Key(seed)}).eval(); }

class OutsideOp : public testing::TestWithParam<Mode> {};

TEST_P(OutsideOp, CompositeValuesAndGradient) {
  const Tensor gate = random(1), up = random(2);
  const std::vector<double> a = gate.to_f64(), b = up.to_f64();
  std::vector<double> y(a.size()), da(a.size()), db(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double s = 1 / (1 + std::exp(-a[i]));
    y[i] = a[i] * s * b[i];
    da[i] = b[i] * s * (1 + a[i] * (1 - s));
    db[i] = a[i] * s;
  }
  const ModeGuard mode(GetParam());
  const LazyTensor out = swiglu(gate, up);
  const std::vector<LazyTensor> g = grad(sum(out), {gate, up});
  eval({out, g[0], g[1]});
  expect_near(out, y, "value");
  expect_near(g[0], da, "d gate");
  expect_near(g[1], db, "d up");
}

TEST_P(OutsideOp, KernelValuesAndGradient) {
  const Tensor x = random(3), seed = random(4);
  const ModeGuard mode(GetParam());
  const LazyTensor y = leaky_sum(x, 0.75);
  const LazyTensor dx = vjp({y}, {seed}, {x})[0];
  eval({y, dx});
  expect_near(y, leaky_sum_in_f64(x.to_f64(), kColumns, 0.75, false), "value");
  expect_near(dx, leaky_sum_in_f64(seed.to_f64(), kColumns, 0.75, true), "dx");
}

TEST_P(OutsideOp, AmongLibraryOps) {
  const Tensor x = random(5);
  const ModeGuard mode(GetParam());
  const LazyTensor y = swiglu(leaky_sum(transpose(transpose(x) * 2.0f), 0.5), leaky_sum(x * 0.5f, 0.5)) + 1.0f;
  y.eval();
  std::vector<double> twice = x.to_f64(), half = twice;
  for (double& v : twice) v *= 2;
  for (double& v : half) v *= 0.5;
  const std::vector<double> a = leaky_sum_in_f64(twice, kColumns, 0.5, false),
                            b = leaky_sum_in_f64(half, kColumns, 0.5, false);
  std::vector<double> want(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) want[i] = a[i] / (1 + std::exp(-a[i])) * b[i] + 1;
  expect_near(y, want, "y");
}

TEST_P(OutsideOp, AViewAsInputIsMadeDense) {
  const Tensor x = randn({kColumns, kRows}, {.key = Key(6)}).eval();
  const ModeGuard mode(GetParam());
  const LazyTensor view = transpose(x);
  const LazyTensor y = leaky_sum(view, 0.5);
  eval({y});
  expect_near(y, leaky_sum_in_f64(view.eval().to_f64(), kColumns, 0.5, false), "y");
  // The op may write over its input, but not over data that somebody holds.
  expect_near(transpose(x).eval(), view.eval().to_f64(), "x");
}

TEST_P(OutsideOp, SecondGradient) {
  const Tensor x = random(7);
  const std::vector<double> values = x.to_f64();
  const ModeGuard mode(GetParam());
  const LazyTensor first = grad(sum(square(leaky_sum(x, 0.5))), {x})[0];
  const LazyTensor second = grad(sum(first), {x})[0];
  eval({second});
  // The function is quadratic: its second derivative applied to ones is 2·Lᵀ·L·1.
  const std::vector<double> ones(values.size(), 1.0);
  std::vector<double> want = leaky_sum_in_f64(leaky_sum_in_f64(ones, kColumns, 0.5, false), kColumns, 0.5, true);
  for (double& v : want) v *= 2;
  expect_near(second, want, "second");
}

TEST_P(OutsideOp, WhatOnlyTheDataShowsFailsAtTheWait) {
  const Tensor x = random(8);
  const ModeGuard mode(GetParam());
  // What the kernel said is kept, though it was gone when the kernel ended.
  test::expect_in(test::error_of([&] { leaky_sum(x, 1.5).eval(); }, ErrorKind::index),
                  {"leaky_sum: a decay of 1.500000 grows"});
  expect_near(leaky_sum(x, 0.0).eval(), x.to_f64(), "afterwards");
}

INSTANTIATE_TEST_SUITE_P(Modes, OutsideOp, testing::ValuesIn(kModes),
                         [](const auto& info) { return test::mode_name(info.param); });

// ---- kernels that throw, and that use the library -------------------------------------------------------------------

std::int64_t one_task(const KernelCall&, int) { return 1; }
void infer_first(const OpCall& c, InferResult& r) { r.add(c.inputs[0].dtype(), c.inputs[0].shape()); }

/// Gives its first input, or throws where the second one begins with a number above 0.
const CpuKernel thrower_kernel{.run =
                                   [](const KernelCall& c, int, std::int64_t) {
                                     if (*c.inputs[1].as<const float>() > 0) throw std::runtime_error("thrown");
                                     const std::int64_t n = c.inputs[0].shape.numel();
                                     std::copy_n(c.inputs[0].as<const float>(), n, c.outputs[0].as<float>());
                                   },
                               .tasks = one_task};
const OpDef thrower_def{.name = "thrower",
                        .kind = OpKind::kernel,
                        .infer = infer_first,
                        .decompose = nullptr,
                        .vjp = NoGrad{},
                        .samples = nullptr,
                        .cpu = &thrower_kernel};

TEST(OutsideOp, AFailureBesideAnExceptionIsNotToldByTheNextRun) {
  for (const std::int64_t rows : {2, 20000}) {
    const Tensor x = randn({rows, kColumns}, {.key = Key(12)}).eval();
    const auto program = [&](double decay, bool thrown) {
      return record(thrower_def, {leaky_sum(x, decay), Tensor::full({1}, thrown ? 1.0 : 0.0)});
    };
    EXPECT_THROW(program(1.5, true).eval(), std::runtime_error);
    expect_near(program(0.5, false).eval(), leaky_sum_in_f64(x.to_f64(), kColumns, 0.5, false), "after");
    const Trace trace;
    EXPECT_THROW(program(1.5, true).eval(), std::runtime_error);
    EXPECT_EQ(trace.events().size(), 0u);
    program(0.5, false).eval();
    const std::size_t events = trace.events().size();
    program(0.5, false).eval();
    EXPECT_EQ(trace.events().size(), 2 * events);
  }
}

/// Two tasks over one number, each of which waits until the other has begun.
std::atomic<int> begun{0};
const CpuKernel meeting_kernel{.run =
                                   [](const KernelCall& c, int, std::int64_t task) {
                                     ++begun;
                                     for (int waits = 0; begun < 2 && waits < 20000; ++waits)
                                       std::this_thread::sleep_for(std::chrono::microseconds(100));
                                     if (task == 0) *c.outputs[0].as<float>() = static_cast<float>(begun);
                                   },
                               .tasks = [](const KernelCall&, int) -> std::int64_t { return 2; },
                               .work = [](const KernelCall&) { return 1e6; }};
const OpDef meeting_def{.name = "meeting",
                        .kind = OpKind::kernel,
                        .infer = infer_first,
                        .decompose = nullptr,
                        .vjp = NoGrad{},
                        .samples = nullptr,
                        .cpu = &meeting_kernel};

TEST(OutsideOp, WhoseKernelSaysWhatItComputesGetsThreads) {
  set_threads(2);
  EXPECT_EQ(record(meeting_def, {Tensor::ones({1})}).eval().item<float>(), 2);
  set_threads(0);
}

void (*inside)() = nullptr;
const CpuKernel busy_kernel{.run = [](const KernelCall&, int, std::int64_t) { inside(); }, .tasks = one_task};
const OpDef busy_def{.name = "busy",
                     .kind = OpKind::kernel,
                     .infer = infer_first,
                     .decompose = nullptr,
                     .vjp = NoGrad{},
                     .samples = nullptr,
                     .cpu = &busy_kernel};

TEST(OutsideOp, WhoseKernelWaitsForTheDeviceIsRefused) {
  static const LazyTensor one = Tensor::ones({1});
  const std::pair<const char*, void (*)()> waits[] = {{"eval", [] { (one + 1).eval(); }},
                                                      {"eval", [] { eval_now({.roots = {one + 2}}); }},
                                                      {"eval_async", [] { eval_async({.roots = {one + 3}}).wait(); }},
                                                      {"synchronize", [] { synchronize(); }},
                                                      {"trim_memory", [] { trim_memory(); }}};
  const auto said = [](const auto& f) -> std::string {
    try {
      f();
    } catch (const UserError& e) {
      return e.what();
    }
    return "nothing was thrown";
  };
  for (const std::int64_t size : {1, 1 << 20}) {
    for (const auto& [name, f] : waits) {
      inside = f;
      const std::string wanted = std::string(name) + ": a kernel would wait for itself";
      EXPECT_EQ(said([&] { record(busy_def, {Tensor::ones({size})}).eval(); }), wanted);
      EXPECT_EQ(said([&] { eval_async({.roots = {record(busy_def, {Tensor::ones({size})})}}).wait(); }), wanted);
    }
  }
  inside = [] { (void)explain({one + 1}); };
  EXPECT_EQ(said([] { record(busy_def, {Tensor::ones({1})}).eval(); }), "nothing was thrown");
  EXPECT_EQ((one + 1).eval().item<float>(), 2) << "others go on";
}

TEST(OutsideOpPlan, ACompositeOpFusesWithItsNeighbours) {
  const Tensor gate = random(9), up = random(10);
  const std::string plan = explain({softmax(swiglu(gate, up) * 2.0f)});
  EXPECT_EQ(plan.rfind("plan: 1 steps", 0), 0u) << plan;
  EXPECT_NE(plan.find("swiglu"), std::string::npos) << plan;
}

TEST(OutsideOpPlan, ANumberIsASlotOfAKernelToo) {
  const Tensor x = random(11);
  leaky_sum(x, 0.5).eval();
  const std::uint64_t before = counters().plans_compiled;
  for (const double decay : {0.1, 0.2, 0.3})
    expect_near(leaky_sum(x, decay).eval(), leaky_sum_in_f64(x.to_f64(), kColumns, decay, false), "decay");
  EXPECT_EQ(counters().plans_compiled, before);
}

TEST(OutsideOpPlan, EmptyInputs) {
  const LazyTensor y = leaky_sum(Tensor::zeros({0, 5}), 0.5), z = swiglu(Tensor::zeros({3, 0}), Tensor::zeros({3, 0}));
  eval({y, z});
  EXPECT_EQ(Tensor(y).shape(), (Shape{0, 5}));
  EXPECT_EQ(Tensor(z).numel(), 0);
}

// ---- check_op, which runs an op's samples ---------------------------------------------------------------------------

TEST(CheckOp, FindsNothingWrongWithWhatIsRight) {
  EXPECT_EQ(check_op(swiglu_def), "");
  EXPECT_EQ(check_op(swiglu_def, {.dtype = DType::f32}), "");
  EXPECT_EQ(check_op(leaky_sum_def, {.dtype = DType::f32}), "");
}

TEST(CheckOp, FindsAWrongGradient) {
  OpDef wrong = swiglu_def;
  wrong.vjp = [](const VjpCall& c) -> Tensors {
    return {c.grads[0] * silu_grad(c.inputs[0]) * c.inputs[1], c.grads[0] * sigmoid(c.inputs[0])};
  };
  for (const DType dtype : {DType::f64, DType::f32}) {
    const std::string said = check_op(wrong, {.dtype = dtype});
    EXPECT_NE(said.find("swiglu, sample 0: the gradient of input 1 at 0 is "), std::string::npos) << said;
    EXPECT_EQ(said.find("input 0"), std::string::npos) << said;
  }
}

TEST(CheckOp, FindsAKernelThatIsNotItsDecomposition) {
  OpDef wrong = leaky_sum_def;
  wrong.decompose = [](const OpCall& c) -> Tensors { return {c.inputs[0] * 1.0f}; };
  const std::string said = check_op(wrong, {.dtype = DType::f32});
  EXPECT_NE(said.find("leaky_sum, sample 0: decomposed, result 0 at 1 is "), std::string::npos) << said;
  wrong.decompose = [](const OpCall& c) -> Tensors { return {sum(c.inputs[0])}; };
  EXPECT_NE(check_op(wrong, {.dtype = DType::f32}).find("decomposed, result 0 is f32[], not f32[3, 8]"),
            std::string::npos);
}

TEST(CheckOp, SaysWhatCannotBeChecked) {
  EXPECT_NE(check_op(leaky_sum_def).find("throws: leaky_sum"), std::string::npos) << "f64";
  OpDef silent = swiglu_def;
  silent.samples = nullptr;
  EXPECT_EQ(check_op(silent), "swiglu: there are no samples\n");
  EXPECT_THROW(check_op(swiglu_def, {.dtype = DType::bf16}), UserError);
}

TEST(OutsideOpErrors, ComeFromTheRecordingCallAndNameTheOp) {
  const auto message = [](const auto& f) -> std::string {
    try {
      f();
    } catch (const UserError& e) {
      return e.what();
    }
    return "nothing was thrown";
  };
  const std::string shape = message([] { swiglu(Tensor::zeros({2, 3}), Tensor::zeros({3, 2})); });
  EXPECT_NE(shape.find("swiglu"), std::string::npos) << shape;
  EXPECT_NE(shape.find("[2, 3]"), std::string::npos) << shape;
  const std::string dtype = message([] { leaky_sum(Tensor::zeros({2}, DType::f64), 0.5); });
  EXPECT_NE(dtype.find("leaky_sum"), std::string::npos) << dtype;
  EXPECT_NE(dtype.find("f64"), std::string::npos) << dtype;
}

}  // namespace
}  // namespace metal_candle
