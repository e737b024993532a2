// The ten programs of docs/migration.md: what the document shows is the body of these functions, up to the empty line;
// then each checks its result. Whoever changes one changes the other.
#include <metal_candle/metal_candle.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

namespace mc = metal_candle;

namespace {

int failures = 0;
void check(const char* program, bool good) {
  std::printf("%-32s %s\n", program, good ? "right" : "WRONG");
  failures += good ? 0 : 1;
}
bool near(float a, double b) { return std::abs(a - b) < 1e-4; }

// 1
void make_and_read() {
  auto a = mc::Tensor::from<float>({1, 2, 3, 4}, {2, 2});
  mc::LazyTensor b = a * 2 + 1;  // recorded
  mc::Tensor c = b.eval();       // computed
  std::vector<float> values = c.to_vector<float>();
  float corner = mc::slice(mc::slice(c, 0, 1, 2), 1, 1, 2).eval().item<float>();

  check("1 make, compute, read", values == std::vector<float>{3, 5, 7, 9} && corner == 9);
}

// 2
void shapes() {
  auto x = mc::rand({2, 3, 8}, {.key = mc::Key(0)});
  auto y = mc::permute(mc::reshape(x, {2, 3, 4, 2}), {0, 2, 1, 3});  // views: nothing is copied
  auto z = mc::concat({y, y}, -1);
  auto halves = mc::split(z, {2, 2}, -1);
  auto row = mc::unsqueeze(mc::slice(x, 1, -1, 3), 0);

  mc::eval({halves[0], halves[1], y, row});
  check("2 shapes", halves[0].shape() == mc::Shape{2, 4, 3, 2} && row.shape() == mc::Shape{1, 2, 1, 8} &&
                        mc::Tensor(halves[1]).to_vector<float>() == mc::Tensor(y).to_vector<float>());
}

// 3
void softmax_by_hand() {
  auto x = mc::Tensor::from<float>({1, 2, 3, 4}, {1, 4});
  auto e = mc::exp(x - mc::max(x, -1, /*keepdim=*/true));
  auto p = e / mc::sum(e, -1, true);  // one kernel, as mc::softmax(x, -1) is

  auto named = mc::softmax(x, -1);
  mc::eval({p, named});
  check("3 softmax", near(mc::Tensor(p).to_vector<float>()[3], 0.643914) &&
                         mc::Tensor(p).to_vector<float>() == mc::Tensor(named).to_vector<float>());
}

// 4
mc::LazyTensor mlp(const mc::LazyTensor& x, const mc::ParamTree& p) {
  auto h = mc::gelu(mc::linear(mc::rms_norm(x, p["norm"]), p["w1"], p["b1"]));
  return x + mc::linear(h, p["w2"]);  // w is [in, out]; for PyTorch's [out, in] pass mc::transpose(w)
}

void a_layer() {
  mc::ParamTree p{{"norm", mc::ones({4})}, {"w1", mc::ones({4, 8})}, {"b1", mc::zeros({8})}, {"w2", mc::ones({8, 4})}};
  auto y = mlp(mc::ones({2, 4}), p).eval();

  const double r = 4 / std::sqrt(1 + 1e-5), g = 0.5 * r * (1 + std::erf(r / std::sqrt(2.0)));
  check("4 a layer", near(y.to_vector<float>()[5], 1 + 8 * g));
}

// 5
void gradients() {
  auto w = mc::Tensor::from<float>({1, -2, 3}, {3});
  auto loss = mc::sum(mc::square(w) * 0.5f);
  auto g = mc::grad(loss, {w})[0];             // lazy, too
  auto gg = mc::grad(mc::sum(g * g), {w})[0];  // a gradient of a gradient
  mc::eval({loss, g, gg});                     // one plan for all

  check("5 gradients", mc::Tensor(loss).item<float>() == 7 &&
                           mc::Tensor(g).to_vector<float>() == std::vector<float>{1, -2, 3} &&
                           mc::Tensor(gg).to_vector<float>() == std::vector<float>{2, -4, 6});
}

// 6
void training_loop() {
  mc::Tensor x = mc::randn({64, 3}, {.key = mc::Key(1)}).eval();
  mc::Tensor y = mc::matmul(x, mc::Tensor::from<float>({1, -2, 3}, {3, 1})).eval();
  mc::LazyTensor w = mc::Tensor::zeros({3, 1}), velocity = mc::Tensor::zeros({3, 1}), loss;
  const auto compiled_before = mc::counters().plans_compiled;
  for (int step = 0; step < 200; ++step) {
    loss = mc::mean(mc::square(mc::matmul(x, w) - y));
    auto g = mc::grad(loss, {w})[0];
    velocity = velocity * 0.9f + g;
    w = w - velocity * (0.05f / (1 + 0.01f * step));  // numbers are no part of the plan
    mc::eval({loss, w, velocity});                    // step 1 plans, the others replay
  }

  check("6 a training loop", mc::counters().plans_compiled == compiled_before + 1 &&
                                 near(mc::Tensor(loss).item<float>(), 0) &&
                                 near(mc::Tensor(w).to_vector<float>()[2], 3));
}

// 7
void lora() {
  auto x = mc::ones({1, 4});
  mc::Tensor w = mc::Tensor::ones({4, 4});
  w.freeze();  // constant for good: packed once
  auto a = mc::Tensor::full({4, 2}, 0.5f), b = mc::Tensor::full({2, 4}, 0.25f);
  const float alpha = 8, rank = 2;
  auto y = mc::matmul(x, w) + mc::lora_fused(x, a, b, alpha / rank);  // one product with two inner segments
  auto g = mc::grad(mc::sum(y), {a, b});
  mc::eval({y, g[0], g[1]});

  check("7 LoRA", mc::Tensor(y).to_vector<float>()[0] == 8 && mc::Tensor(g[0]).to_vector<float>()[0] == 4 &&
                      mc::Tensor(g[1]).to_vector<float>()[0] == 8);
}

// 8
void attention_and_loss() {
  auto key = mc::Key(3);
  auto q = mc::randn({1, 5, 4, 8}, {.key = key.fold(0)});  // [batch, time, heads, width]
  auto k = mc::randn({1, 5, 2, 8}, {.key = key.fold(1)});  // grouped heads: 2 of 4
  auto v = mc::randn({1, 5, 2, 8}, {.key = key.fold(2)});
  auto y = mc::attention(q, k, v, {.causal = true});
  auto logits = mc::reshape(y, {5, 32});
  auto loss = mc::cross_entropy(logits, mc::Tensor::from<std::int64_t>({1, 2, -100, 4, 5}, {5}));  // -100 is ignored
  mc::eval({y, v, loss});

  // The first query sees the first key only.
  check("8 attention, cross entropy", near(mc::Tensor(y).to_vector<float>()[0], mc::Tensor(v).to_vector<float>()[0]) &&
                                          mc::Tensor(loss).item<float>() > 0);
}

// 9
void random_numbers() {
  mc::Key key(42);  // a value, not a hidden state: the same key gives the same numbers
  auto noise = mc::randn({3}, {.key = key.fold(0)});
  auto again = mc::randn({3}, {.key = key.fold(0)});
  auto other = mc::randn({3}, {.key = key.fold(1)});
  auto dropped = mc::dropout(mc::ones({1000}), 0.25, key.fold(2));
  auto mean = mc::mean(dropped);
  mc::eval({noise, again, other, mean});

  const auto values = [](const mc::LazyTensor& t) { return mc::Tensor(t).to_vector<float>(); };
  check("9 random numbers", values(noise) == values(again) && values(noise) != values(other) &&
                                std::abs(mc::Tensor(mean).item<float>() - 1) < 0.1);
}

// 10
void async() {
  mc::LazyTensor x = mc::Tensor::ones({64, 64});
  mc::AsyncRun last;
  for (int i = 0; i < 10; ++i) {
    x = mc::matmul(x, x) * (1.0f / 64);     // an input that may not exist yet
    last = mc::eval_async({.roots = {x}});  // returns at once
  }
  last.wait();  // errors surface here

  // The old crate's names.
  mc::AsyncGraphExecutor executor;
  mc::AsyncTensor result = executor.submit(x + 1);
  mc::Tensor y = result.wait();

  // And op by op, as PyTorch does it, to look for a mistake.
  mc::EagerMode eager;
  mc::LazyTensor z = x + 1;  // computed already
  check("10 async, eager",
        y.to_vector<float>()[0] == 2 && z.is_evaluated() && mc::Tensor(z).to_vector<float>()[7] == 2);
}

}  // namespace

int main() {
  make_and_read();
  shapes();
  softmax_by_hand();
  a_layer();
  gradients();
  training_loop();
  lora();
  attention_and_loss();
  random_numbers();
  async();
  return failures;
}
