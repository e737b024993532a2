// The engine by itself: a small network that learns, its graph and plan, a row program timed in three modes, work that
// overlaps with the host, and a trace. Every figure it prints was measured in that run.
//
//   example_engine [folder]     where trace.json and graph.dot go (default: here)
#include <metal_candle/metal_candle.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace mc = metal_candle;

namespace {

using Clock = std::chrono::steady_clock;
double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

const bool kQuick = std::getenv("METAL_CANDLE_QUICK") != nullptr;

void heading(const char* text) { std::printf("\n== %s\n\n", text); }

/// Indented; lines wrap at 100 columns.
void print_text(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::string indent = "  ";
    while (indent.size() + line.size() > 100) {
      const std::size_t space = line.rfind(' ', 100 - indent.size());
      const std::size_t cut = space == std::string::npos ? 100 - indent.size() : space;
      std::printf("%s%s\n", indent.c_str(), line.substr(0, cut).c_str());
      line.erase(0, space == std::string::npos ? cut : cut + 1);
      indent = "        ";
    }
    std::printf("%s%s\n", indent.c_str(), line.c_str());
  }
}

/// A profile table: its numbers are the last 59 columns, names before them may be long.
void print_profile(const std::string& text) {
  constexpr std::size_t kNumbers = 59, kName = 38;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t split = line.size() > kNumbers ? line.size() - kNumbers : 0;
    std::string name = line.substr(0, split);
    name.erase(name.find_last_not_of(' ') + 1);
    if (name.size() > kName) name = name.substr(0, kName - 3) + "...";
    std::printf("  %-*s%s\n", split ? static_cast<int>(kName) : 0, name.c_str(), line.substr(split).c_str());
  }
}

enum class Mode { planned, passes_off, eager };
constexpr Mode kModes[] = {Mode::planned, Mode::passes_off, Mode::eager};
const char* name_of(Mode mode) {
  if (mode == Mode::planned) return "planned";
  return mode == Mode::passes_off ? "passes off" : "eager";
}

void in_mode(Mode mode, const std::function<void()>& f) {
  std::unique_ptr<mc::EagerMode> eager;
  std::unique_ptr<mc::PassesOff> off;
  if (mode == Mode::eager) eager = std::make_unique<mc::EagerMode>();
  if (mode == Mode::passes_off) off = std::make_unique<mc::PassesOff>();
  f();
}

/// The best time of each mode in milliseconds; the modes take turns, so that all see the same machine.
std::vector<double> best_ms(const std::function<void()>& f) {
  std::vector<double> best(std::size(kModes), 1e30);
  const int turns = kQuick ? 2 : 15;
  for (int turn = 0; turn < turns; ++turn)
    for (std::size_t m = 0; m < std::size(kModes); ++m)
      in_mode(kModes[m], [&] {
        const auto begin = Clock::now();
        f();
        if (turn > 0) best[m] = std::min(best[m], ms_since(begin));
      });
  return best;
}

// ---- a network that learns ------------------------------------------------------------------------------------------

constexpr int kRows = 512, kIn = 64, kHidden = 256, kClasses = 10;

struct Batch {
  mc::Tensor x, wanted;  // [rows, in]; one-hot [rows, classes]
};

/// The task: which of ten random directions an input points along most.
Batch make_batch(std::uint64_t seed) {
  const mc::LazyTensor x = mc::randn({kRows, kIn}, {.key = mc::Key(seed)});
  const mc::LazyTensor directions = mc::randn({kIn, kClasses}, {.key = mc::Key(7)});
  const mc::LazyTensor label = mc::argmax(mc::matmul(x, directions), -1, /*keepdim=*/true);
  const mc::LazyTensor wanted = mc::cast(mc::equal(mc::iota({kRows, kClasses}, 1), label), mc::DType::f32);
  mc::eval({x, wanted});
  return {mc::Tensor(x), mc::Tensor(wanted)};
}

mc::ParamTree make_params() {
  mc::ParamTree p{{"norm", mc::ones({kIn})},
                  {"w1", mc::randn({kIn, kHidden}, {.key = mc::Key(1)}) * (1 / std::sqrt(float{kIn}))},
                  {"b1", mc::zeros({kHidden})},
                  {"w2", mc::randn({kHidden, kClasses}, {.key = mc::Key(2)}) * (1 / std::sqrt(float{kHidden}))},
                  {"b2", mc::zeros({kClasses})}};
  mc::eval(p.tensors());
  return p;
}

mc::LazyTensor loss_of(const mc::ParamTree& p, const Batch& batch) {
  mc::LazyTensor h;
  {
    const mc::Scope scope("hidden");
    h = mc::gelu(mc::matmul(mc::rms_norm(batch.x, p["norm"]), p["w1"]) + p["b1"]);
  }
  const mc::Scope scope("head");
  const mc::LazyTensor probability = mc::softmax(mc::matmul(h, p["w2"]) + p["b2"]);
  return -mc::mean(mc::sum(batch.wanted * mc::log(probability + 1e-9f), {-1}));
}

/// Records one step: the loss first, then the new parameters, which take the place of the old in `params`.
std::vector<mc::LazyTensor> record_step(mc::ParamTree& params, const Batch& batch, float rate) {
  const auto [loss, grads] = mc::value_and_grad([&](const mc::ParamTree& p) { return loss_of(p, batch); }, params);
  std::vector<mc::LazyTensor> roots{loss};
  for (auto& [name, p] : params) roots.push_back(p = p - grads[name] * rate);
  return roots;
}

bool learn(const std::string& folder) {
  heading("A network that learns: rms_norm, two layers, gelu, softmax; forward, backward and update");
  const Batch batch = make_batch(3);
  mc::ParamTree params = make_params();

  auto begin = Clock::now();
  std::vector<mc::LazyTensor> roots = record_step(params, batch, 1.0f);
  const double recording = ms_since(begin) * 1e3;
  const mc::ComputationGraph graph = mc::ComputationGraph::capture(roots);
  std::ofstream(folder + "/graph.dot") << graph.dot();
  std::printf("  recorded in %.0f us, nothing computed: a graph of %zu nodes over %zu tensors\n\n", recording,
              graph.nodes.size(), graph.leaves.size());
  print_text(mc::explain(roots));

  begin = Clock::now();
  mc::eval(roots);
  std::printf("\n  step  1   loss %.3f   %.2f ms, in which it was compiled\n", mc::Tensor(roots[0]).item<float>(),
              ms_since(begin));
  const float first = mc::Tensor(roots[0]).item<float>();

  const mc::Counters before = mc::counters();
  const int steps = 60;
  float loss = first;
  begin = Clock::now();
  double printing = 0;
  for (int step = 2; step <= steps; ++step) {
    const float rate = 0.5f * (1 + std::cos(3.14159f * static_cast<float>(step) / steps));  // another number each step
    roots = record_step(params, batch, rate);
    mc::eval(roots);
    loss = mc::Tensor(roots[0]).item<float>();
    if (step % 12 != 0) continue;
    const auto pause = Clock::now();
    std::printf("  step %2d   loss %.3f   %s\n", step, loss,
                std::string(static_cast<std::size_t>(loss * 24), '#').c_str());
    printing += ms_since(pause);
  }
  const double each = (ms_since(begin) - printing) / (steps - 1);
  const mc::Counters after = mc::counters();
  std::printf("\n  steps 2 to %d: %.2f ms each; plans compiled: %d, replayed: %d, requests for memory: %d\n", steps,
              each, static_cast<int>(after.plans_compiled - before.plans_compiled),
              static_cast<int>(after.replays - before.replays),
              static_cast<int>(after.memory_requests - before.memory_requests));

  const std::vector<double> ms = best_ms([&] {
    mc::ParamTree copy = params;
    mc::eval(record_step(copy, batch, 0.1f));
  });
  std::printf("  best step, recording included: planned %.2f ms, passes off %.2f ms, eager %.2f ms\n", ms[0], ms[1],
              ms[2]);
  return loss < 0.5f * first && after.plans_compiled == before.plans_compiled;
}

// ---- a row program --------------------------------------------------------------------------------------------------

void row_program() {
  const int rows = kQuick ? 256 : 4096, columns = 2048;
  heading("A row program that nobody wrote a kernel for: gelu(x * rsqrt(mean(x^2) + eps) * w)");
  const mc::Tensor x = mc::randn({rows, columns}, {.key = mc::Key(5)}).eval();
  const mc::Tensor w = mc::rand({columns}, {.key = mc::Key(6)}).eval();
  const auto program = [&] { return mc::gelu(x * mc::rsqrt(mc::mean(mc::square(x), {-1}, true) + 1e-5f) * w); };
  print_text(mc::explain({program()}));
  const std::vector<double> ms = best_ms([&] { program().eval(); });
  const double bytes = 2.0 * rows * columns * sizeof(float);
  std::printf("\n  [%d, %d] f32, best time of each, in turns; GB/s counts reading x and writing the result once\n\n",
              rows, columns);
  for (std::size_t m = 0; m < std::size(kModes); ++m) {
    const int width = static_cast<int>(std::lround(40 * ms[m] / *std::max_element(ms.begin(), ms.end())));
    std::printf("  %-11s %8.2f ms %6.1f GB/s  %5.1fx  %s\n", name_of(kModes[m]), ms[m], bytes / ms[m] * 1e-6,
                ms[m] / ms[0], std::string(static_cast<std::size_t>(width), '#').c_str());
  }
}

// ---- overlap --------------------------------------------------------------------------------------------------------

void overlap() {
  heading("Asynchronous: the host waits for its next batch while this one is computed");
  const std::int64_t n = kQuick ? 128 : 512;
  const int batches = kQuick ? 3 : 16;
  const mc::Tensor x = mc::randn({n, n}, {.key = mc::Key(8)}).eval(), w = mc::randn({n, n}, {.key = mc::Key(9)}).eval();
  const auto model = [&] {
    mc::LazyTensor h = x;
    for (int layer = 0; layer < 3; ++layer) h = mc::rms_norm(mc::gelu(mc::matmul(h, w)));
    return mc::mean(h);
  };
  model().eval();
  auto begin = Clock::now();
  for (int i = 0; i < batches; ++i) model().eval();
  const double computing = ms_since(begin);
  // A source of batches (a disk, a socket) that is about as fast as the computation.
  const auto wait_for_batch = [&] {
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(computing / batches));
  };

  begin = Clock::now();
  std::vector<float> one_by_one;
  for (int i = 0; i < batches; ++i) {
    wait_for_batch();
    one_by_one.push_back(model().eval().item<float>());
  }
  const double sync_ms = ms_since(begin);

  begin = Clock::now();
  std::vector<mc::LazyTensor> results;
  std::vector<mc::AsyncRun> runs;
  double submitting = 0;
  for (int i = 0; i < batches; ++i) {
    wait_for_batch();
    results.push_back(model());
    const auto call = Clock::now();
    runs.push_back(mc::eval_async({.roots = {results.back()}}));
    submitting += ms_since(call);
  }
  bool same = true;
  for (std::size_t i = 0; i < runs.size(); ++i) same = same && runs[i].get<float>(results[i]) == one_by_one[i];
  const double async_ms = ms_since(begin);
  std::printf("  %d batches, %.1f ms to wait for each; computing alone takes %.0f ms\n", batches, computing / batches,
              computing);
  std::printf("  eval %.0f ms, eval_async %.0f ms, of which the calls themselves %.2f ms; results %s\n", sync_ms,
              async_ms, submitting, same ? "bit-equal" : "DIFFER");
}

// ---- trace ----------------------------------------------------------------------------------------------------------

void trace(const std::string& folder) {
  heading("A trace: three training steps, and two branches that run side by side");
  const Batch batch = make_batch(4);
  mc::ParamTree params = make_params();
  mc::eval(record_step(params, batch, 0.1f));
  const mc::Tensor x = mc::randn({512, 512}, {.key = mc::Key(9)}).eval();
  const auto branches = [&] { return mc::softmax(mc::matmul(x, x)) + mc::rms_norm(mc::matmul(x, mc::transpose(x))); };
  branches().eval();

  const mc::Trace trace;
  for (int i = 0; i < 3; ++i) mc::eval(record_step(params, batch, 0.1f));
  branches().eval();
  trace.save(folder + "/trace.json");
  print_profile(trace.profile());
  std::printf("\n  %s/trace.json  open it in https://ui.perfetto.dev\n  %s/graph.dot   dot -Tsvg draws it\n",
              folder.c_str(), folder.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string folder = argc > 1 ? argv[1] : ".";
  const auto begin = Clock::now();
  std::printf("metal-candle: lazy tensors on %d threads\n", mc::threads());
  const bool learned = learn(folder);
  row_program();
  overlap();
  trace(folder);
  const mc::MemoryFigures memory = mc::memory();
  std::printf("\n%.1f s in all; largest use of memory %.0f MiB\n", ms_since(begin) / 1e3,
              static_cast<double>(memory.peak) / 0x1p20);
  if (!learned) std::fprintf(stderr, "the loss did not fall, or a step was compiled again\n");
  return learned ? 0 : 1;
}
