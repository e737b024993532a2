// The gradient of w: a task takes a block of classes over all rows that count, makes the block's probabilities from
// lse, and gathers their product with x.
#include <cstring>

#include "backend/cpu/kernels/linear_cross_entropy.h"
#include "backend/cpu/kernels/linear_cross_entropy_problem.h"

namespace metal_candle::cpu {
namespace cross_entropy {
namespace {

using attention::kRowBlock;

constexpr std::int64_t kClasses = attention::kKeyBlock;  // of a block

enum Input { kLse = 3, kGrad = 4 };

/// A block of classes by components: [width][kClasses] in f32, or pairs of components [width / 2][kClasses].
struct ClassBlock {
  float *by_component, *staged;  // and what w is on the way there
  std::int64_t first = 0;
  int n = 0;
  std::int32_t* columns;  // [kClasses]: 0, 1 .. and kNever behind n, for the mask

  ClassBlock(const Problem& p, Carve& scratch)
      : by_component(scratch.take<float>(kClasses * p.width)),
        staged(scratch.take<float>(kClasses * p.width)),
        columns(scratch.take<std::int32_t>(kClasses)) {}

  void load(const Problem& p, std::int64_t first_class) {
    first = first_class;
    n = static_cast<int>(std::min(kClasses, p.v - first));
    for (int j = 0; j < kClasses; ++j) columns[j] = j < n ? j : static_cast<std::int32_t>(attention::kNever);
    if (p.pairs) return load_pairs(p);
    if (p.w.column == 1 && p.w.row != 1) {  // [d, v]: classes side by side
      attention::load({p.w.at(0, first), p.w.dtype, p.w.row, 1, p.d, n}, by_component, kClasses);
      std::fill(by_component + p.d * kClasses, by_component + p.width * kClasses, 0.0f);
      return;
    }
    attention::load_transposed({p.w.at(0, first), p.w.dtype, p.w.column, p.w.row, n, p.d}, p.width, staged,
                               by_component);
  }

  void load_pairs(const Problem& p) {
    if (p.w.column == 1 && p.w.row != 1) {
      const attention::Rows components{p.w.at(0, first), p.w.dtype, p.w.row, 1, p.d, n};
      attention::load_row_pairs(components, kClasses, staged, by_component);
      const std::int64_t written = (p.d + 1) / 2 * kClasses;
      std::fill(by_component + written, by_component + p.width / 2 * kClasses, 0.0f);
      return;
    }
    const attention::Rows classes{p.w.at(0, first), p.w.dtype, p.w.column, p.w.row, n, p.d};
    attention::load_transposed_pairs(classes, p.width, staged, by_component);
  }

  attention::ScoreBlock scores(float* at, int rows_of) const {
    attention::ScoreBlock b{.scores = at,
                            .rows = rows_of,
                            .begin = 0,
                            .end = static_cast<int>(round_up(n, kSums)),
                            .masked = n % kSums != 0,
                            .key_positions = columns,
                            .sight = {}};
    for (auto& s : b.sight) s = {0, static_cast<std::int32_t>(attention::kNever - 1)};
    b.scale = static_cast<float>(attention::kLog2e);
    return b;
  }
};

/// logits [n][kClasses] of a tile. The components go in pieces whose part of w stays in the nearest cache.
void logits(const Problem& p, const float* x, std::int64_t n, const ClassBlock& w, float* out) {
  constexpr std::int64_t kPiece = 128;
  const std::int64_t steps = p.steps(p.width);
  for (std::int64_t c = 0; c < steps; c += kPiece)
    attention::multiply({.a = x + c,
                         .a_row = steps,
                         .a_step = 1,
                         .b = w.by_component + c * kClasses,
                         .b_step = kClasses,
                         .c = out,
                         .c_row = kClasses,
                         .m = n,
                         .n = round_up(w.n, kSums),
                         .k = std::min(kPiece, steps - c),
                         .accumulate = c > 0,
                         .pairs = p.pairs});
}

struct Scratch {
  Carve carve;
  ClassBlock w;
  float *x, *dw, *p, *error, *lse, *zero;
  float *x_pairs, *error_pairs;  // pairs of rows, where products go over pairs
  Scratch(const Problem& problem, void* base) : carve(base), w(problem, carve) {
    const std::int64_t rows = problem.tile_rows();
    x = carve.take<float>(rows * problem.steps(problem.width));
    dw = carve.take<float>(kClasses * problem.width);
    p = carve.take<float>(rows * kClasses);
    error = carve.take<float>(rows * kClasses);
    lse = carve.take<float>(rows);
    zero = carve.take<float>(kRowBlock);
    x_pairs = carve.take<float>(problem.pairs ? rows / 2 * problem.width : 0);
    error_pairs = carve.take<float>(problem.pairs ? rows / 2 * kClasses : 0);
  }
};

float row_value(const KernelTensor& t, std::int64_t row) { return t.as<const float>()[row * t.strides[0]]; }

/// (softmax - expected)·g of a tile's rows, in s.error.
void make_error(const KernelCall& call, const Problem& p, const Tile& t, Scratch& s) {
  for (std::int64_t i = 0; i < t.n; ++i) {
    s.lse[i] = static_cast<float>(row_value(call.inputs[kLse], t.rows[i]) * attention::kLog2e);
    std::fill(s.error + i * kClasses, s.error + (i + 1) * kClasses, row_value(call.inputs[kGrad], t.rows[i]));
  }
  for (std::int64_t i = 0; i < t.n; i += kRowBlock) {
    const auto block = s.w.scores(s.p + i * kClasses, static_cast<int>(std::min(kRowBlock, t.n - i)));
    attention::row_kernels().softmax_grad(block, s.error + i * kClasses, s.lse + i, s.zero, nullptr);
  }
  for (std::int64_t i = 0; i < t.n; ++i) {
    const float g = row_value(call.inputs[kGrad], t.rows[i]), floor = g * static_cast<float>(p.floor);
    float* error = s.error + i * kClasses;
    for (int j = 0; floor != 0 && j < s.w.n; ++j) error[j] -= floor;
    const std::int64_t target = p.target(t.rows[i]) - s.w.first;
    if (target >= 0 && target < s.w.n) error[target] -= g * static_cast<float>(1 - p.rule.smoothing);
  }
}

void classes(const KernelCall& call, const Problem& p, const ActiveRows& active, std::int64_t block) {
  Scratch s(p, call.scratch);
  s.w.load(p, block * kClasses);
  std::fill(s.dw, s.dw + kClasses * p.width, 0.0f);
  std::fill(s.zero, s.zero + kRowBlock, 0.0f);
  // Tiles of a fixed size: the order of a sum over rows depends on the rows that count, on nothing else.
  for (std::int64_t begin = 0; begin < *active.count; begin += p.tile_rows()) {
    const Tile t{active.rows + begin, std::min<std::int64_t>(p.tile_rows(), *active.count - begin)};
    load_rows(p, t, s.x);
    logits(p, s.x, t.n, s.w, s.p);
    make_error(call, p, t, s);
    if (p.pairs) {
      attention::row_kernels().halve(s.error, t.n, nullptr, s.error_pairs);
      attention::row_kernels().pair_rows(reinterpret_cast<const std::uint16_t*>(s.x), p.width, t.n, p.width, s.x_pairs);
    }
    attention::multiply({.a = p.pairs ? s.error_pairs : s.error,
                         .a_row = 1,
                         .a_step = kClasses,
                         .b = p.pairs ? s.x_pairs : s.x,
                         .b_step = p.width,
                         .c = s.dw,
                         .c_row = p.width,
                         .m = s.w.n,
                         .n = p.width,
                         .k = p.pairs ? (t.n + 1) / 2 : t.n,
                         .accumulate = true,
                         .pairs = p.pairs});
  }
  const KernelTensor& out = call.outputs[0];
  for (int j = 0; j < s.w.n; ++j)
    attention::store(s.dw + j * p.width, p.d, out.dtype,
                     out.as<char>() + (s.w.first + j) * p.d * static_cast<std::int64_t>(size_of(out.dtype)));
}

std::int64_t tasks(const KernelCall& call, int pass) {
  const Problem p(call);
  if (pass == 0) return 1;
  return p.is_f64() ? p.v : (p.v + kClasses - 1) / kClasses;
}
std::size_t scratch(const KernelCall& call) {
  const Problem p(call);
  return p.is_f64() ? 0 : Scratch(p, nullptr).carve.used();
}
std::size_t shared_bytes(const KernelCall& call) {
  Carve carve(nullptr);
  ActiveRows(Problem(call), carve);
  return carve.used();
}

void run(const KernelCall& call, int pass, std::int64_t task) {
  const Problem p(call);
  Carve carve(call.shared);
  const ActiveRows active(p, carve);
  if (pass == 0) active.find(p, call, [](std::int64_t) {});
  else if (p.is_f64()) plain_grad(call, p, active, task);
  else classes(call, p, active, task);
}

}  // namespace
}  // namespace cross_entropy

const CpuKernel linear_cross_entropy_grad_kernel{.run = cross_entropy::run,
                                                 .tasks = cross_entropy::tasks,
                                                 .passes = 2,
                                                 .scratch = cross_entropy::scratch,
                                                 .shared = cross_entropy::shared_bytes,
                                                 .takes_strides = true};

}  // namespace metal_candle::cpu
