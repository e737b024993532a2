// The README's example: fit a small network to a curve. Nothing is computed before `eval`, which plans the whole step
// (forward, backward, update) as one program; from the second step on that plan is replayed.
#include <metal_candle/metal_candle.hpp>

#include <cstdio>

namespace mc = metal_candle;

int main() {
  const mc::Tensor x = (mc::rand({256, 1}, {.key = mc::Key(1)}) * 6.0f - 3.0f).eval();
  const mc::Tensor y = mc::sin(x).eval();
  mc::ParamTree params{{"w1", mc::randn({1, 64}, {.key = mc::Key(2)})},
                       {"b1", mc::randn({64}, {.key = mc::Key(3)})},
                       {"w2", mc::randn({64, 1}, {.key = mc::Key(4)}) * 0.1f}};
  mc::eval(params.tensors());

  const auto loss_of = [&](const mc::ParamTree& p) {
    const mc::LazyTensor hidden = mc::gelu(mc::matmul(x, p["w1"]) + p["b1"]);
    return mc::mean(mc::square(mc::matmul(hidden, p["w2"]) - y));
  };

  const auto compiled_before = mc::counters().plans_compiled;
  float last = 0;
  for (int step = 0; step < 500; ++step) {
    const auto [loss, grads] = mc::value_and_grad(loss_of, params);  // records; nothing runs
    const float rate = 0.02f / (1.0f + 0.01f * step);                // a new number is no new plan
    std::vector<mc::LazyTensor> roots{loss};
    for (auto& [name, p] : params) roots.push_back(p = p - grads[name] * rate);
    mc::eval(roots);  // one plan: the loss and the new parameters together
    last = mc::Tensor(loss).item<float>();
    if (step % 100 == 0) std::printf("step %3d  loss %.4f\n", step, last);
  }
  std::printf("step 500  loss %.4f\nplans compiled in 500 steps: %d\n", last,
              static_cast<int>(mc::counters().plans_compiled - compiled_before));
  return last < 0.05f ? 0 : 1;
}
