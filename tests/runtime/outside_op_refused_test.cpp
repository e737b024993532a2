// Ops from outside the library that do not keep their promises: each is refused, by name, and nothing else suffers.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "metal_candle/metal_candle.hpp"
#include "tests/support/modes.h"

namespace metal_candle {
namespace {

using test::kModes;
using test::Mode;
using test::ModeGuard;

void keeps_type(const OpCall& c, InferResult& r) { r.add(c.inputs[0].dtype(), c.inputs[0].shape()); }

/// What evaluating an op says whose infer promises its input's type.
std::string said_of(Decompose decompose, Mode mode) {
  static std::vector<std::unique_ptr<const OpDef>> ops;  // they outlive their tensors and plans
  const OpDef& op = *ops.emplace_back(new OpDef{.name = "promiser",
                                                .kind = OpKind::composite,
                                                .infer = keeps_type,
                                                .decompose = decompose,
                                                .vjp = DecomposedGrad{},
                                                .samples = nullptr});
  const ModeGuard guard(mode);
  try {
    (record(op, {Tensor::ones({2, 3})}) + 1).eval();
  } catch (const UserError& e) {
    EXPECT_EQ(e.op(), "promiser");
    return e.what();
  }
  return "nothing was thrown";
}

/// What recording and evaluating an op says, whoever is named.
std::string said_of(const OpDef& op) {
  try {
    record(op, {Tensor::ones({2, 3})}).eval();
  } catch (const UserError& e) {
    return e.what();
  }
  return "nothing was thrown";
}

TEST(BadOutsideOp, ThatEvaluatesWhileItIsDecomposedIsRefused) {
  static const OpDef op{.name = "impatient",
                        .kind = OpKind::composite,
                        .infer = keeps_type,
                        .decompose = [](const OpCall& c) -> Tensors {
                          return {c.inputs[0] * ones({2, 3}).eval()};
                        },
                        .vjp = DecomposedGrad{},
                        .samples = nullptr};
  EXPECT_EQ(said_of(op), "eval: nothing can be evaluated within a decomposition, only recorded");
  EXPECT_EQ((LazyTensor(Tensor::ones({3})) + 1).eval().to_f64(), std::vector<double>({2, 2, 2})) << "others go on";
}

TEST(BadOutsideOp, ThatHasTooManyOutputsOrNoneOrNoEndIsRefused) {
  static const auto with = [](Infer infer, Decompose decompose) {
    return OpDef{.name = "odd",
                 .kind = OpKind::composite,
                 .infer = infer,
                 .decompose = decompose,
                 .vjp = NoGrad{},
                 .samples = nullptr};
  };
  static const Decompose itself = [](const OpCall& c) -> Tensors { return {c.inputs[0]}; };
  static const OpDef five = with(
      [](const OpCall& c, InferResult& r) {
        for (int i = 0; i < 5; ++i) r.add(c.inputs[0].dtype(), c.inputs[0].shape());
      },
      itself);
  static const OpDef none = with([](const OpCall&, InferResult&) {}, itself);
  static const OpDef endless =
      with(keeps_type, [](const OpCall& c) -> Tensors { return {record(c.op, {c.inputs[0]}) + 1}; });
  EXPECT_EQ(said_of(five), "odd: its infer gives 5 outputs, an op has 1 to 4");
  EXPECT_EQ(said_of(none), "odd: its infer gives 0 outputs, an op has 1 to 4");
  EXPECT_EQ(said_of(endless), "decompositions do not end: an op decomposes to itself, or through others");
}

TEST(BadOutsideOp, ThatIsNotWholeIsRefusedByTheRecordingCall) {
  const auto said = [](OpDef op) -> std::string {
    op.name = "half";
    try {
      record(op, {Tensor::ones({2, 3})});
    } catch (const UserError& e) {
      EXPECT_EQ(e.op(), "half");
      return e.what();
    }
    return "nothing was thrown";
  };
  const Decompose same = [](const OpCall& c) -> Tensors { return {c.inputs[0] * 1}; };
  const OpDef whole{.name = "",
                    .kind = OpKind::composite,
                    .infer = keeps_type,
                    .decompose = same,
                    .vjp = DecomposedGrad{},
                    .samples = nullptr};
  EXPECT_EQ(said(whole), "nothing was thrown");
  OpDef op = whole;
  op.infer = nullptr;
  EXPECT_EQ(said(op), "half: its OpDef has no infer");
  op = whole;
  op.decompose = nullptr;
  EXPECT_EQ(said(op), "half: its OpDef has no decompose");
  op.kind = OpKind::kernel;
  EXPECT_EQ(said(op), "half: its OpDef has no decompose") << "from which its gradient is to come";
  op.vjp = NoGrad{};
  const auto run = [](const KernelCall&, int, std::int64_t) {};
  const auto tasks = [](const KernelCall&, int) -> std::int64_t { return 1; };
  for (const CpuKernel& kernel : {CpuKernel{.run = nullptr, .tasks = tasks}, CpuKernel{.run = run, .tasks = nullptr}}) {
    op.cpu = &kernel;
    EXPECT_EQ(said(op), "half: its kernel has no run or no tasks");
  }
  const CpuKernel kernel{.run = run, .tasks = tasks};
  op.cpu = &kernel;
  EXPECT_EQ(said(op), "nothing was thrown");
}

TEST(BadOutsideOp, ThatComputesAnotherTypeThanItPromisedIsRefused) {
  for (const Mode mode : kModes) {
    EXPECT_EQ(said_of([](const OpCall& c) -> Tensors { return {sum(c.inputs[0])}; }, mode),
              "promiser: its decomposition gives f32[] where its infer says f32[2, 3]");
    EXPECT_EQ(said_of([](const OpCall& c) -> Tensors { return {cast(c.inputs[0], DType::f64)}; }, mode),
              "promiser: its decomposition gives f64[2, 3] where its infer says f32[2, 3]");
    EXPECT_EQ(said_of([](const OpCall&) -> Tensors { return {}; }, mode), "promiser: its decomposition gives nothing");
    EXPECT_EQ(said_of([](const OpCall&) -> Tensors { return {LazyTensor()}; }, mode),
              "promiser: its decomposition gives an empty handle");
    EXPECT_EQ(said_of([](const OpCall& c) -> Tensors { return {c.inputs[0]}; }, mode), "nothing was thrown");
  }
}

TEST(BadOutsideOp, WhoseGradientIsOfAnotherDecompositionOrOfOtherInputsIsRefused) {
  const auto said = [](Decompose decompose, Vjp vjp) -> std::string {
    const OpDef op{.name = "promiser",
                   .kind = OpKind::composite,
                   .infer = keeps_type,
                   .decompose = decompose,
                   .vjp = vjp,
                   .samples = nullptr};
    const Tensor x = Tensor::ones({2, 3});
    try {
      const Scope scope("outer");
      grad(sum(record(op, {x})), {x})[0].eval();
    } catch (const UserError& e) {
      EXPECT_EQ(e.op(), "promiser");
      return e.what();
    }
    return "nothing was thrown";
  };
  const Decompose same = [](const OpCall& c) -> Tensors { return {c.inputs[0] * 1}; };
  EXPECT_EQ(said([](const OpCall&) -> Tensors { return {}; }, DecomposedGrad{}),
            "outer: promiser: its decomposition gives nothing");
  EXPECT_EQ(said([](const OpCall&) -> Tensors { return {LazyTensor()}; }, DecomposedGrad{}),
            "outer: promiser: its decomposition gives an empty handle");
  EXPECT_EQ(said([](const OpCall& c) -> Tensors { return {sum(c.inputs[0])}; }, DecomposedGrad{}),
            "outer: promiser: its decomposition gives f32[] where its infer says f32[2, 3]");
  EXPECT_EQ(said(
                [](const OpCall& c) -> Tensors {
                  return {c.inputs[0], c.inputs[0]};
                },
                DecomposedGrad{}),
            "outer: promiser: its decomposition gives 2 results where its infer says 1");
  EXPECT_EQ(said(same, [](const VjpCall&) -> Tensors { return {}; }),
            "outer: promiser: its gradient has 0 parts, and the op 1 inputs");
  EXPECT_EQ(said(same,
                 [](const VjpCall& c) -> Tensors {
                   return {c.grads[0], c.grads[0]};
                 }),
            "outer: promiser: its gradient has 2 parts, and the op 1 inputs");
  EXPECT_EQ(said(same,
                 [](const VjpCall&) -> Tensors {
                   return {ones({3, 2})};
                 }),
            "outer: promiser: its gradient of input 0 is f32[3, 2], and the input f32[2, 3]");
  EXPECT_EQ(said(same, [](const VjpCall&) -> Tensors { return {zeros({4})}; }),
            "outer: promiser: its gradient of input 0 is f32[4], and the input f32[2, 3]");
  EXPECT_EQ(said(same, [](const VjpCall&) -> Tensors { return {ones({4, 2, 3})}; }), "nothing was thrown") << "summed";
  EXPECT_EQ(said(same, [](const VjpCall&) -> Tensors { return {ones({3})}; }), "nothing was thrown") << "expanded";
  EXPECT_EQ(said(same, [](const VjpCall& c) -> Tensors { return {c.grads[0]}; }), "nothing was thrown");
}

/// The name of an outside op may have any characters; in a DOT file two of them must be escaped.
TEST(OutsideOpNames, WithOddCharactersLeavesTheDotFileWhole) {
  static const OpDef odd{.name = "an \"odd\" \\ name",
                         .kind = OpKind::composite,
                         .infer = [](const OpCall& c, InferResult& r) { r.add(c.inputs[0].dtype(), {}); },
                         .decompose = [](const OpCall& c) -> Tensors { return {sum(c.inputs[0])}; },
                         .vjp = DecomposedGrad{},
                         .samples = nullptr};
  const std::string dot = ComputationGraph::capture({record(odd, {Tensor::ones({2})})}).dot();
  EXPECT_NE(dot.find("an \\\"odd\\\" \\\\ name"), std::string::npos) << dot;
}

}  // namespace
}  // namespace metal_candle
