// Two operations that the library does not have, added from outside it.
//
// swiglu(gate, up): composite. What it is made of is written down, and the compiler fuses that with its neighbours.
// leaky_sum(x, decay): a recurrence, y[i] = x[i] + decay·y[i-1]; a kernel of its own, its gradient written by hand.
//
// Both record, differentiate, plan and evaluate like the library's own.
#include <metal_candle/metal_candle.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

namespace mc = metal_candle;

namespace {

// ---- swiglu: a composite op -----------------------------------------------------------------------------------------

/// Types and shapes, and every complaint about them, at the call that records.
void infer_swiglu(const mc::OpCall& c, mc::InferResult& r) {
  if (c.inputs[0].shape() != c.inputs[1].shape()) mc::fail_shape(c, "gate and up must have one shape");
  if (c.inputs[0].dtype() != c.inputs[1].dtype()) mc::fail_dtype(c, "gate and up must have one dtype");
  if (!mc::is_float(c.inputs[0].dtype())) mc::fail_dtype(c, "only floats have a sigmoid");
  r.add(c.inputs[0].dtype(), c.inputs[0].shape());
}

const mc::OpDef kSwiglu{
    .name = "swiglu",
    .kind = mc::OpKind::composite,
    .infer = infer_swiglu,
    .decompose = [](const mc::OpCall& c) -> mc::Tensors { return {mc::silu(c.inputs[0]) * c.inputs[1]}; },
    .vjp = mc::DecomposedGrad{},
    .samples =
        [](mc::SampleSink& s) {
          s.add({s.normal({3, 8}), s.normal({3, 8})});
        },
};

mc::LazyTensor swiglu(const mc::LazyTensor& gate, const mc::LazyTensor& up) { return mc::record(kSwiglu, {gate, up}); }

// ---- leaky_sum: an op with a kernel ---------------------------------------------------------------------------------

/// leaky_sum{reverse}(x [.., n], decay): f32; the decay is a number, and as such a slot: a new one is no new plan.
void infer_leaky_sum(const mc::OpCall& c, mc::InferResult& r) {
  if (c.inputs[0].rank() == 0) mc::fail_shape(c, "there is no axis to run along");
  if (c.inputs[0].dtype() != mc::DType::f32) mc::fail_dtype(c, "the kernel knows f32 only");
  r.add(mc::DType::f32, c.inputs[0].shape());
}

std::int64_t row_count(const mc::KernelCall& c) {
  const mc::Shape& shape = c.inputs[0].shape;
  return shape.numel() == 0 ? 0 : shape.numel() / shape.dim(-1);
}

// How the work is cut depends on shapes only, never on threads: a task is a block of rows.
constexpr std::int64_t kRowsInTask = 64;
std::int64_t leaky_sum_tasks(const mc::KernelCall& c, int) { return (row_count(c) + kRowsInTask - 1) / kRowsInTask; }

void leaky_sum_run(const mc::KernelCall& c, int, std::int64_t task) {
  const std::int64_t n = c.inputs[0].shape.dim(-1), end = std::min(row_count(c), (task + 1) * kRowsInTask);
  const auto decay = static_cast<float>(*c.inputs[1].as<const double>());  // a recorded number arrives as 0-d f64
  const bool reverse = c.attrs[0] != 0;
  for (std::int64_t row = task * kRowsInTask; row < end; ++row) {
    const float* x = c.inputs[0].as<const float>() + row * n;
    float* y = c.outputs[0].as<float>() + row * n;
    float sum = 0;
    for (std::int64_t k = 0; k < n; ++k) {
      const std::int64_t i = reverse ? n - 1 - k : k;
      y[i] = sum = x[i] + decay * sum;
    }
  }
}

// Each element is read before it is written, so the result may take the place of x.
const mc::CpuKernel kLeakySumKernel{.run = leaky_sum_run, .tasks = leaky_sum_tasks, .in_place_input = 0};

/// x[i] reaches y[j], j >= i, with decay^(j-i): the gradient is the same sum, run the other way.
mc::Tensors leaky_sum_vjp(const mc::VjpCall& c) {
  return {mc::record(c.op, {c.grads[0], c.inputs[1]}, {1 - c.attrs[0]}), {}};
}

const mc::OpDef kLeakySum{
    .name = "leaky_sum",
    .kind = mc::OpKind::kernel,
    .infer = infer_leaky_sum,
    .decompose = nullptr,
    .vjp = leaky_sum_vjp,
    .samples =
        [](mc::SampleSink& s) {
          s.add({s.normal({3, 8}), mc::scalar(0.5)}, {0});
        },
    .cpu = &kLeakySumKernel,
};

mc::LazyTensor leaky_sum(const mc::LazyTensor& x, double decay) {
  return mc::record(kLeakySum, {x, mc::scalar(decay)}, {0});
}

// ---- both at work ---------------------------------------------------------------------------------------------------

bool check(const char* what, const mc::Tensor& got, const std::vector<float>& want) {
  const std::vector<float> values = got.to_vector<float>();
  bool good = values.size() == want.size();
  for (std::size_t i = 0; good && i < want.size(); ++i) good = std::abs(values[i] - want[i]) < 1e-5f;
  std::printf("%-28s %s  %s\n", what, good ? "right" : "WRONG", got.str().c_str());
  return good;
}

}  // namespace

int main() {
  const auto x = mc::Tensor::from<float>({1, 2, 3, 4}, {1, 4});
  bool good = check("leaky_sum(x, 0.5)", leaky_sum(x, 0.5).eval(), {1, 2.5f, 4.25f, 6.125f});

  // d/dx of the sum: x[i] is seen by all after it, each time halved.
  const mc::LazyTensor total = mc::sum(leaky_sum(x, 0.5));
  good = check("its gradient", mc::grad(total, {x})[0].eval(), {1.875f, 1.75f, 1.5f, 1}) && good;

  const auto gate = mc::Tensor::from<float>({0, 1, 2, 3}, {1, 4});
  const auto silu = [](float v) { return v / (1 + std::exp(-v)); };
  good = check("swiglu(gate, x)", swiglu(gate, x).eval(), {0, 2 * silu(1), 3 * silu(2), 4 * silu(3)}) && good;

  // Their samples, in every mode and against differences: what a test of an op of your own calls.
  const std::string wrong = mc::check_op(kSwiglu) + mc::check_op(kLeakySum, {.dtype = mc::DType::f32});
  std::printf("check_op of both: %s", wrong.empty() ? "nothing is wrong\n" : wrong.c_str());
  good = wrong.empty() && good;

  // One kernel: the compiler sees through a composite op.
  std::printf("\nexplain(softmax(swiglu(gate, x) * 2)):\n%s",
              mc::explain({mc::softmax(swiglu(gate, x) * 2.0f)}).c_str());

  // Complaints come from the call that recorded.
  bool refused = false;
  try {
    swiglu(gate, mc::ones({2, 4}));
  } catch (const mc::UserError& e) {
    refused = true;
    std::printf("\nswiglu of different shapes: %s\n", e.what());
  }
  return good && refused ? 0 : 1;
}
