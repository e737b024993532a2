// The 37 tests that the library's first design promised, by name. Each runs planned, eagerly, and with every compiler
// pass off. Expected values are computed here, in f64, by loops that share nothing with the library; A and B of a LoRA
// pair are both random and not zero.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <random>

#include "graph/record.h"
#include "metal_candle/graph.hpp"
#include "metal_candle/op_def.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/runtime.hpp"
#include "tests/support/modes.h"

namespace metal_candle::test {
namespace {

constexpr double kBound = 1e-6;  // relative to the largest value where that is above 1

// ---- expected values ------------------------------------------------------------------------------------------------

/// Rows of f64 numbers that are exact in f32.
struct Rows {
  Shape shape;
  std::vector<double> v;
  std::int64_t width() const { return shape.dim(-1); }
  std::int64_t count() const { return static_cast<std::int64_t>(v.size()) / width(); }
  double& at(std::int64_t row, std::int64_t column) { return v[static_cast<std::size_t>(row * width() + column)]; }
  double at(std::int64_t row, std::int64_t column) const { return v[static_cast<std::size_t>(row * width() + column)]; }
  Tensor tensor() const { return Tensor::from(std::vector<float>(v.begin(), v.end()), shape); }
  Rows with_width(std::int64_t width) const {
    Rows out{shape, {}};
    out.shape[shape.rank() - 1] = width;
    out.v.resize(static_cast<std::size_t>(out.shape.numel()));
    return out;
  }
};

Rows random_rows(const Shape& shape, unsigned seed, double deviation = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, static_cast<float>(deviation));
  Rows out{shape, std::vector<double>(static_cast<std::size_t>(shape.numel()))};
  for (double& v : out.v) v = normal(engine);
  return out;
}

Rows product(const Rows& a, const Rows& b) {
  Rows out = a.with_width(b.width());
  for (std::int64_t i = 0; i < a.count(); ++i)
    for (std::int64_t j = 0; j < b.width(); ++j)
      for (std::int64_t k = 0; k < a.width(); ++k) out.at(i, j) += a.at(i, k) * b.at(k, j);
  return out;
}

template <class F>
Rows map(Rows x, F f) {
  for (double& v : x.v) v = f(v);
  return x;
}

Rows soft(Rows x) {
  for (std::int64_t i = 0; i < x.count(); ++i) {
    double top = x.at(i, 0), total = 0;
    for (std::int64_t j = 0; j < x.width(); ++j) top = std::max(top, x.at(i, j));
    for (std::int64_t j = 0; j < x.width(); ++j) total += x.at(i, j) = std::exp(x.at(i, j) - top);
    for (std::int64_t j = 0; j < x.width(); ++j) x.at(i, j) /= total;
  }
  return x;
}

Rows rms(Rows x, double eps) {
  for (std::int64_t i = 0; i < x.count(); ++i) {
    double squares = 0;
    for (std::int64_t j = 0; j < x.width(); ++j) squares += x.at(i, j) * x.at(i, j);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.width()) + eps);
    for (std::int64_t j = 0; j < x.width(); ++j) x.at(i, j) *= scale;
  }
  return x;
}

/// x·a·b·alpha/rank with a and b drawn at random, as the library sees it and as it should be.
struct Lora {
  Rows a, b;
  double scale;
  Lora(std::int64_t in, std::int64_t out, std::int64_t rank, double alpha, unsigned seed)
      : a(random_rows({in, rank}, seed, 1 / std::sqrt(static_cast<double>(in)))),
        b(random_rows({rank, out}, seed + 1, 1 / std::sqrt(static_cast<double>(rank)))),
        scale(alpha / static_cast<double>(rank)) {}
  LazyTensor operator()(const LazyTensor& x) const { return lora_fused(x, a.tensor(), b.tensor(), scale); }
  Rows expected(const Rows& x) const {
    return map(product(product(x, a), b), [&](double v) { return v * scale; });
  }
};

void expect_close(const Tensor& got, const Rows& want) {
  ASSERT_EQ(got.dtype(), DType::f32);
  ASSERT_EQ(got.shape(), want.shape);
  const std::vector<double> values = got.to_f64();
  double largest = 1;
  for (const double v : want.v) largest = std::max(largest, std::abs(v));
  for (std::size_t i = 0; i < values.size(); ++i)
    ASSERT_NEAR(values[i], want.v[i], kBound * largest) << "element " << i;
}
void expect_close(const LazyTensor& got, const Rows& want) { expect_close(got.eval(), want); }

// ---- ops made for these tests ---------------------------------------------------------------------------------------

void same_type(const OpCall& c, InferResult& r) { r.add(c.inputs[0].dtype(), c.inputs[0].shape()); }
std::int64_t one_task(const KernelCall&, int) { return 1; }
void copy_f32(const KernelCall& c) {
  std::copy_n(c.inputs[0].as<const float>(), c.inputs[0].shape.numel(), c.outputs[0].as<float>());
}

/// Passes its input on once the gate is open: what is behind it in the queue cannot have been computed before.
struct Gate {
  std::mutex mutex;
  std::condition_variable changed;
  bool open = true;
  void set(bool now) {
    const std::lock_guard lock(mutex);
    open = now;
    changed.notify_all();
  }
} gate;
const CpuKernel kGateKernel{.run =
                                [](const KernelCall& c, int, std::int64_t) {
                                  std::unique_lock lock(gate.mutex);
                                  gate.changed.wait(lock, [] { return gate.open; });
                                  copy_f32(c);
                                },
                            .tasks = one_task};
const OpDef kGate{.name = "gate",
                  .kind = OpKind::kernel,
                  .infer = same_type,
                  .decompose = nullptr,
                  .vjp = NoGrad{},
                  .samples = nullptr,
                  .cpu = &kGateKernel};

std::atomic<int> times_counted;
const CpuKernel kCountKernel{.run =
                                 [](const KernelCall& c, int, std::int64_t) {
                                   ++times_counted;
                                   copy_f32(c);
                                 },
                             .tasks = one_task};
const OpDef kCount{.name = "count",
                   .kind = OpKind::kernel,
                   .infer = same_type,
                   .decompose = nullptr,
                   .vjp = NoGrad{},
                   .samples = nullptr,
                   .cpu = &kCountKernel};

/// Recording without evaluating, also on an eager thread.
class HookOff {
 public:
  HookOff() : outer_(exchange_record_hook(nullptr)) {}
  ~HookOff() { exchange_record_hook(outer_); }
  HookOff(const HookOff&) = delete;
  HookOff& operator=(const HookOff&) = delete;

 private:
  RecordHook outer_;
};

class Seed : public testing::TestWithParam<Mode> {
 protected:
  ModeGuard mode_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Modes, Seed, testing::ValuesIn(kModes), [](const auto& p) { return mode_name(p.param); });

// ---- lazy operations ------------------------------------------------------------------------------------------------

TEST_P(Seed, lora_basic) {
  const Rows x = random_rows({1, 16}, 1);
  const Lora lora(16, 24, 4, 8, 2);
  expect_close(lora(x.tensor()), lora.expected(x));
}

TEST_P(Seed, lora_batched) {
  const Rows x = random_rows({8, 64}, 3);
  const Lora lora(64, 48, 8, 16, 4);
  expect_close(lora(x.tensor()), lora.expected(x));
}

TEST_P(Seed, lora_chain) {
  const Rows x = random_rows({4, 32}, 5);
  const Lora first(32, 20, 4, 8, 6), second(20, 32, 4, 8, 8);
  expect_close(second(first(x.tensor())), second.expected(first.expected(x)));
}

TEST_P(Seed, lora_ranks) {
  const Rows x = random_rows({1, 64}, 10);
  for (const std::int64_t rank : {2, 4, 8, 16}) {
    const Lora lora(64, 40, rank, 2.0 * static_cast<double>(rank), 11);
    expect_close(lora(x.tensor()), lora.expected(x));
  }
}

TEST_P(Seed, lora_shapes) {
  for (const Shape& shape : {Shape{1, 10, 128}, Shape{4, 20, 128}, Shape{8, 5, 128}}) {
    const Rows x = random_rows(shape, 13);
    const Lora lora(128, 96, 8, 16, 14);
    const LazyTensor y = lora(x.tensor());
    EXPECT_EQ(y.shape(), (Shape{shape[0], shape[1], 96}));  // known before anything is computed
    expect_close(y, lora.expected(x));
  }
}

TEST_P(Seed, softmax_basic) {
  const Rows x{{4}, {1, 2, 3, 4}};
  expect_close(x.tensor().softmax(-1), soft(x));
}

TEST_P(Seed, softmax_2d) {
  const Rows x = random_rows({4, 8}, 16);
  const Tensor y = softmax(x.tensor(), -1).eval();
  expect_close(y, soft(x));
  for (const double total : sum(y, {1}).eval().to_f64()) EXPECT_NEAR(total, 1, 1e-5);
}

TEST_P(Seed, softmax_batched) {
  const Rows x = random_rows({2, 10, 64}, 17);
  expect_close(softmax(x.tensor(), -1), soft(x));
}

TEST_P(Seed, softmax_dims) {
  const Rows x = random_rows({3, 4, 5}, 18);
  for (const int axis : {0, 1, 2}) {
    // The expected rows are those of the transposed tensor.
    const Tensor turned = transpose(x.tensor(), axis, 2).eval();
    const Rows rows{turned.shape(), turned.to_f64()};
    const Tensor got = softmax(x.tensor(), axis).eval();
    EXPECT_EQ(got.shape(), x.shape);
    expect_close(transpose(got, axis, 2), soft(rows));
  }
}

TEST_P(Seed, softmax_stability) {
  const Rows x{{4}, {100, 200, 300, 400}};
  const Tensor y = softmax(x.tensor(), 0).eval();
  expect_close(y, soft(x));
  for (const double v : y.to_f64()) EXPECT_TRUE(std::isfinite(v));
  EXPECT_GT(y.to_f64()[3], 0.99);
}

TEST_P(Seed, softmax_chain) {
  const Rows x = random_rows({4, 8}, 19);
  expect_close(softmax(x.tensor(), -1).mul_scalar(2), map(soft(x), [](double v) { return 2 * v; }));
}

TEST_P(Seed, rms_norm_basic) {
  const Rows x{{4}, {1, 2, 3, 4}};
  expect_close(rms_norm(x.tensor(), 1e-5), rms(x, 1e-5));
}

TEST_P(Seed, rms_norm_2d) {
  const Rows x = random_rows({4, 64}, 20);
  expect_close(rms_norm(x.tensor(), 1e-5), rms(x, 1e-5));
}

TEST_P(Seed, rms_norm_batched) {
  const Rows x = random_rows({2, 10, 128}, 21);
  expect_close(x.tensor().rms_norm(), rms(x, 1e-5));
}

TEST_P(Seed, rms_norm_eps) {
  const Rows x = random_rows({8, 32}, 22, 0.01);  // small, so that eps shows
  for (const double eps : {1e-8, 1e-6, 1e-5, 1e-4}) expect_close(rms_norm(x.tensor(), eps), rms(x, eps));
}

TEST_P(Seed, rms_norm_property) {
  const Rows x = random_rows({100}, 23, 10);
  const Tensor y = rms_norm(x.tensor(), 1e-5).eval();
  expect_close(y, rms(x, 1e-5));
  EXPECT_NEAR(std::sqrt(mean(square(y)).eval().item<double>()), 1, 0.1);
}

TEST_P(Seed, rms_norm_chain) {
  const Rows x = random_rows({4, 64}, 24);
  expect_close(rms_norm(x.tensor(), 1e-5).mul_scalar(3), map(rms(x, 1e-5), [](double v) { return 3 * v; }));
}

TEST_P(Seed, matmul_rms_norm) {
  const Rows a = random_rows({4, 32}, 25), b = random_rows({32, 64}, 26);
  expect_close(rms_norm(matmul(a.tensor(), b.tensor()), 1e-5), rms(product(a, b), 1e-5));
}

// ---- asynchronous ---------------------------------------------------------------------------------------------------

/// Submits f(gated inputs) while the gate is shut: that the call comes back at all shows that it did not wait.
template <class F>
Tensor behind_the_gate(const std::vector<Rows>& inputs, F f) {
  gate.set(false);
  std::vector<LazyTensor> gated;
  const HookOff recording;  // an eager thread would wait for the gate right here
  for (const Rows& in : inputs) gated.push_back(record(kGate, {in.tensor()}));
  const LazyTensor result = f(gated);
  const AsyncRun run = eval_async({.roots = {result}});
  EXPECT_FALSE(run.done());
  EXPECT_TRUE(result.is_evaluated());  // or under way
  EXPECT_FALSE(Tensor(result).is_ready());
  gate.set(true);
  run.wait();
  EXPECT_TRUE(run.done());
  return Tensor(result);
}

TEST_P(Seed, async_eval_basic) {
  const Rows a{{3}, {1, 2, 3}}, b{{3}, {4, 5, 6}};
  expect_close(behind_the_gate({a, b}, [](const auto& in) { return in[0] + in[1]; }), {{3}, {5, 7, 9}});
}

TEST_P(Seed, async_vs_sync) {
  const Rows x = random_rows({16, 64}, 30), w = random_rows({64, 32}, 31);
  const auto f = [](const LazyTensor& x, const LazyTensor& w) { return softmax(silu(matmul(x, w)) * 0.5, -1); };
  const Tensor async = behind_the_gate({x, w}, [&](const auto& in) { return f(in[0], in[1]); });
  const Tensor sync = f(x.tensor(), w.tensor()).eval();
  EXPECT_EQ(async.to_vector<float>(), sync.to_vector<float>());
}

TEST_P(Seed, async_matmul) {
  const Rows a{{2, 3}, {1, 2, 3, 4, 5, 6}}, b{{3, 2}, {1, 2, 3, 4, 5, 6}};
  expect_close(behind_the_gate({a, b}, [](const auto& in) { return matmul(in[0], in[1]); }),
               {{2, 2}, {22, 28, 49, 64}});
}

TEST_P(Seed, async_lora_chain) {
  const Rows x = random_rows({4, 32}, 32);
  const Lora first(32, 24, 4, 8, 33), second(24, 32, 4, 8, 35);
  expect_close(behind_the_gate({x}, [&](const auto& in) { return second(first(in[0])); }),
               second.expected(first.expected(x)));
}

TEST_P(Seed, async_softmax) {
  const Rows x = random_rows({4, 8}, 37);
  expect_close(behind_the_gate({x}, [](const auto& in) { return softmax(in[0], -1); }), soft(x));
}

TEST_P(Seed, async_rms_norm) {
  const Rows x = random_rows({4, 64}, 38);
  expect_close(behind_the_gate({x}, [](const auto& in) { return rms_norm(in[0], 1e-5); }), rms(x, 1e-5));
}

TEST_P(Seed, async_complex) {
  const Rows a = random_rows({3, 5}, 39), b = random_rows({5, 4}, 40), c = random_rows({3, 4}, 41);
  Rows inner = product(a, b);
  for (std::size_t i = 0; i < inner.v.size(); ++i) inner.v[i] = 2 * (inner.v[i] + c.v[i]);
  expect_close(
      behind_the_gate({a, b, c},
                      [](const auto& in) { return rms_norm(softmax((matmul(in[0], in[1]) + in[2]) * 2, -1), 1e-5); }),
      rms(soft(inner), 1e-5));
}

// ---- infrastructure -------------------------------------------------------------------------------------------------

TEST_P(Seed, graph_creation) {
  const ComputationGraph empty = ComputationGraph::capture({});
  EXPECT_TRUE(empty.nodes.empty());
  EXPECT_TRUE(empty.roots.empty());
  EXPECT_TRUE(empty.leaves.empty());
}

TEST_P(Seed, graph_add_input) {
  const LazyTensor x = Tensor::from<float>({1, 2, 3}, {3});
  const ComputationGraph g = ComputationGraph::capture({x});
  ASSERT_EQ(g.nodes.size(), 1u);
  ASSERT_EQ(g.leaves.size(), 1u);
  EXPECT_EQ(g.nodes[0].op->kind, OpKind::leaf);
  EXPECT_EQ(g.leaves[0].shape, Shape{3});
  EXPECT_EQ(g.leaves[0].dtype, DType::f32);
}

TEST_P(Seed, graph_add_operation) {
  const LazyTensor x = Tensor::ones({4, 1, 3}), w = Tensor::ones({5, 3}), m = Tensor::ones({3, 7});
  EXPECT_EQ((x + w).shape(), (Shape{4, 5, 3}));
  EXPECT_EQ(matmul(x + w, m).shape(), (Shape{4, 5, 7}));
  EXPECT_EQ(sum(x, {0, 2}).shape(), Shape{1});
  EXPECT_EQ(softmax(x, 0).shape(), x.shape());
}

TEST_P(Seed, topological_order) {
  const HookOff recording;  // what is evaluated already has no operations left to order
  const LazyTensor x = Tensor::from<float>({1, 2, 3, 4}, {2, 2});
  const LazyTensor y = exp(x), z = matmul(y, y) + y;
  const ComputationGraph g = ComputationGraph::capture({z * x, y});
  EXPECT_GE(g.nodes.size(), 5u);
  for (std::size_t i = 0; i < g.nodes.size(); ++i)
    for (const int input : g.nodes[i].inputs) EXPECT_LT(input, static_cast<int>(i));
  EXPECT_EQ(g.hash(), ComputationGraph::capture({z * x, y}).hash());
}

TEST_P(Seed, from_tensor) {
  const Tensor t = Tensor::from<float>({1, -2, 3}, {3});
  const LazyTensor x = LazyTensor::from_tensor(t), same = add_tensor_to_graph(t);
  EXPECT_EQ(x.shape(), Shape{3});
  EXPECT_EQ(x.dtype(), DType::f32);
  EXPECT_EQ(x.eval().to_vector<float>(), (std::vector<float>{1, -2, 3}));
  EXPECT_EQ(same.eval().data<float>(), t.data<float>());  // nothing was copied
}

TEST_P(Seed, single_operation) {
  const LazyTensor a = Tensor::from<float>({1, 2, 3}, {3}), b = Tensor::from<float>({0.5, -2, 8}, {3});
  EXPECT_EQ(a.add(b).eval().to_vector<float>(), (std::vector<float>{1.5, 0, 11}));
}

TEST_P(Seed, chained_operations) {
  const LazyTensor a = Tensor::from<float>({1, 2, 3}, {3}), b = Tensor::from<float>({4, 5, 6}, {3});
  const LazyTensor y = ((a + b) * a - b) / 2;
  EXPECT_EQ(y.eval().to_vector<float>(), (std::vector<float>{0.5, 4.5, 10.5}));
}

TEST_P(Seed, shared_subgraph) {
  times_counted = 0;
  const LazyTensor x = Tensor::from<float>({1, 2}, {2});
  const LazyTensor common = record(kCount, {x * 3});
  const LazyTensor left = common + 1, right = common * 2;
  const LazyTensor both = left * right;
  eval({both, left});
  EXPECT_EQ(Tensor(both).to_vector<float>(), (std::vector<float>{24, 84}));
  EXPECT_EQ(Tensor(left).to_vector<float>(), (std::vector<float>{4, 7}));
  EXPECT_EQ(times_counted, 1);
}

TEST_P(Seed, evaluation_state) {
  const LazyTensor x = Tensor::from<float>({1, 2}, {2});
  const LazyTensor y = x + 1, z = y * 2;
  EXPECT_TRUE(x.is_evaluated());
  EXPECT_EQ(y.is_evaluated(), GetParam() == Mode::eager);
  EXPECT_EQ(z.is_evaluated(), GetParam() == Mode::eager);
  const Tensor now = z.eval();
  EXPECT_TRUE(z.is_evaluated());
  EXPECT_EQ(now.data<float>(), z.eval().data<float>());  // the second time there is nothing to do
  EXPECT_EQ(now.to_vector<float>(), (std::vector<float>{4, 6}));
}

TEST_P(Seed, merge_graphs) {
  const LazyTensor a = Tensor::from<float>({1, 2}, {2}) * 3, b = exp(Tensor::from<float>({0, 0}, {2}));
  const LazyTensor joined = a + b;
  const LazyTensor again = joined * a;  // the joined graph goes on with parts of either
  EXPECT_EQ(again.eval().to_vector<float>(), (std::vector<float>{12, 42}));
}

TEST_P(Seed, shape_mismatch) {
  const LazyTensor a = Tensor::ones({2, 3}), b = Tensor::ones({4, 5});
  EXPECT_THROW(matmul(a, b), UserError);
  EXPECT_THROW(a + b, UserError);
  try {
    matmul(a, b);
    FAIL();
  } catch (const UserError& e) {
    EXPECT_EQ(e.kind(), ErrorKind::shape);
    EXPECT_NE(std::string(e.what()).find("[2, 3]"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("[4, 5]"), std::string::npos);
  }
}

TEST_P(Seed, dtype_preserved) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    const LazyTensor x = Tensor::full({4, 8}, 0.25, dtype), w = Tensor::full({8, 8}, 0.5, dtype);
    const LazyTensor y = rms_norm(softmax(silu(matmul(x, w) * 0.5 + 1), -1), 1e-6);
    EXPECT_EQ(y.dtype(), dtype);
    const Tensor now = y.eval();
    EXPECT_EQ(now.dtype(), dtype);
    for (const double v : now.to_f64()) EXPECT_NEAR(v, 1, 0.02);  // equal values are 1/8 each, and their norm is one
  }
}

}  // namespace
}  // namespace metal_candle::test
