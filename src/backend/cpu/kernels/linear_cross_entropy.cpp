#include "backend/cpu/kernels/linear_cross_entropy.h"

#include <cmath>
#include <cstring>

#include "backend/cpu/kernels/linear_cross_entropy_columns.h"
#include "backend/cpu/kernels/linear_cross_entropy_problem.h"

namespace metal_candle::cpu {
namespace cross_entropy {
namespace {

enum Output { kLoss, kLse, kU };
constexpr std::int64_t kFewClasses = 96, kMostClasses = 192;  // of a block
constexpr std::int64_t kFewSets = 2048;                       // bytes
constexpr std::int64_t kPanel = 32;                           // rows of x side by side
constexpr std::int64_t kSumColumns = 64;                      // components of a task that sums w over the classes

struct Shared {
  Carve carve;
  ActiveRows active;
  float* class_sums;  // Σ_j w[:, j], for smoothing
  Shared(const Problem& p, void* base) : carve(base), active(p, carve), class_sums(carve.take<float>(p.width)) {}
};

/// Classes of a block, part of a result's bits. Long sums into u pay as long as a block stays in the second cache or
/// nearly so. Even, so that pairs are the same.
std::int64_t classes_of(const Problem& p) {
  constexpr std::int64_t kBytes = 900 << 10, kStep = 32;
  return std::clamp(kBytes / (p.steps(p.width) * 4) / kStep * kStep, kFewClasses, kMostClasses);
}

/// A block of classes by rows, [class][width] in f32 or bf16: one side of the logits' product. The other product reads
/// them the same way round, bf16 in pairs of classes: its kernel makes them on the way where rows are read as they are,
/// each has a partner, and they are not so far apart that all lie in a few sets of the nearest cache.
struct ClassRows {
  std::int64_t most;              // classes
  float *copy, *turned, *paired;  // scratch: [most][width], [width][most], [most / 2][width]
  const float* rows = nullptr;    // `copy`, or w itself
  std::int64_t row_step = 0;      // in steps of a product
  std::int64_t first = 0, n = 0;
  bool direct = false, pairs_itself = false;  // read as they are; paired by the kernel

  ClassRows(const Problem& p, Carve& scratch)
      : most(classes_of(p)),
        copy(scratch.take<float>(most * p.steps(p.width))),
        turned(scratch.take<float>(in_columns(p.w) ? most * p.width : 0)),
        paired(scratch.take<float>(p.pairs ? most / 2 * p.width : 0)) {}

  /// [d, v] as it lies in memory: classes side by side.
  static bool in_columns(const Matrix& w) { return w.column == 1 && w.row != 1; }
  /// Whether rows of an embedding can be read as they are.
  static bool as_they_are(const Problem& p) {
    return p.w.row == 1 && p.d == p.width && (p.pairs ? p.w.column % 2 == 0 : p.w.dtype == DType::f32);
  }

  void load(const Problem& p, std::int64_t first_class) {
    first = first_class;
    n = std::min(most, p.v - first);
    rows = copy;
    direct = as_they_are(p);
    row_step = p.steps(p.width);
    if (direct) {
      rows = reinterpret_cast<const float*>(p.w.at(0, first));
      row_step = p.steps(p.w.column);
    } else if (in_columns(p.w)) {
      turn(p);
    } else {
      const attention::Rows classes{p.w.at(0, first), p.w.dtype, p.w.column, p.w.row, n, p.d};
      p.pairs ? attention::load_halves(classes, copy, p.width) : attention::load(classes, copy, p.width);
    }
    pairs_itself = p.pairs && direct && n % 2 == 0 && row_step * 4 % kFewSets != 0;
  }

  /// For u; late, when the rows have come to a cache.
  void pair(const Problem& p) {
    if (p.pairs && !pairs_itself)
      attention::row_kernels().pair_rows(reinterpret_cast<const std::uint16_t*>(rows), row_step * 2, n, p.width,
                                         paired);
  }

  /// Step c of the rows from class j of the block on, or of those behind the block, where they are read as they are.
  const float* behind(const Problem& p, std::int64_t j, std::int64_t c) const {
    return direct && first + j < p.v ? rows + std::min(j, n) * row_step + c : nullptr;
  }

  void turn(const Problem& p) {
    const auto transpose = attention::row_kernels().transpose;
    const attention::Rows components{p.w.at(0, first), p.w.dtype, p.w.row, 1, p.d, n};
    if (!p.pairs) {
      attention::load(components, turned, most);
      return transpose(turned, most, p.d, most, copy, p.width, p.width);
    }
    float* const staged = turned + p.width / 2 * most;
    attention::load_row_pairs(components, most, staged, turned);
    transpose(turned, most, (p.d + 1) / 2, most, copy, p.width / 2, p.width / 2);
  }
};

/// Rows of a tile in an odd number of vectors: with a power of two, what lies above each other would share a few places
/// of the nearest cache.
std::int64_t line(std::int64_t rows) { return (round_up(rows, kSums) / kSums | 1) * kSums; }

struct Scratch {
  Carve carve;
  ClassRows w;
  float *x, *u, *scores, *maximum, *sums, *factor, *at_target, *row;  // x as panels [width][kPanel], or of pairs
  float* pairs;  // of scores: probabilities in bf16, without those of the targets
  Scratch(const Problem& p, void* base) : carve(base), w(p, carve) {
    const std::int64_t rows = p.tile_rows();
    x = carve.take<float>(round_up(rows, kPanel) * p.steps(p.width));
    u = carve.take<float>(rows * p.width);
    scores = carve.take<float>(line(rows) * w.most);
    maximum = carve.take<float>(rows);
    sums = carve.take<float>(rows);
    factor = carve.take<float>(rows);
    at_target = carve.take<float>(rows);
    row = carve.take<float>(p.width);
    pairs = carve.take<float>(p.pairs ? line(rows) * w.most / 2 : 0);
  }
};

// ---- first pass: which rows count; what smoothing needs -------------------------------------------------------------

template <class T>
void put(const KernelTensor& t, std::int64_t i, double value) {
  if (t.data) t.as<T>()[i] = static_cast<T>(value);
}
void put_row(const Problem& p, const KernelTensor& t, std::int64_t i, double value) {
  p.is_f64() ? put<double>(t, i, value) : put<float>(t, i, value);
}

void find_rows(const KernelCall& call, const Problem& p, const ActiveRows& active) {
  const KernelTensor& u = call.outputs[kU];
  const std::size_t bytes = static_cast<std::size_t>(p.d) * size_of(u.dtype);
  active.find(p, call, [&](std::int64_t row) {
    put_row(p, call.outputs[kLoss], row, 0);
    put_row(p, call.outputs[kLse], row, std::numeric_limits<double>::infinity());
    if (u.data) std::memset(u.as<char>() + static_cast<std::size_t>(row) * bytes, 0, bytes);
  });
}

void sum_classes(const Problem& p, std::int64_t block, float* sums) {
  const std::int64_t begin = block * kSumColumns, n = std::min(kSumColumns, p.d - begin);
  double total[kSumColumns] = {};
  visit(p.w.dtype, [&]<class T>() {
    const T* w = reinterpret_cast<const T*>(p.w.data);
    for (std::int64_t j = 0; j < p.v; ++j)
      for (std::int64_t c = 0; c < n; ++c) {
        const T value = w[(begin + c) * p.w.row + j * p.w.column];
        if constexpr (is_half<T>) total[c] += static_cast<float>(value);
        else total[c] += static_cast<double>(value);
      }
  });
  for (std::int64_t c = 0; c < n; ++c) sums[begin + c] = static_cast<float>(total[c]);
  if (begin + n == p.d) std::fill(sums + p.d, sums + p.width, 0.0f);
}

// ---- second pass: a tile of rows over all classes -------------------------------------------------------------------

class Forward {
 public:
  Forward(const KernelCall& call, const Problem& p, const Shared& shared, const Tile& tile)
      : call_(call),
        p_(p),
        shared_(shared),
        tile_(tile),
        columns_(round_up(tile.n, kSums)),
        line_(line(tile.n)),
        s_(p, call.scratch),
        wants_u_(call.outputs[kU].data != nullptr) {}

  void run() {
    load_x();
    if (wants_u_) std::fill(s_.u, s_.u + tile_.n * p_.width, 0.0f);
    std::fill(s_.maximum, s_.maximum + columns_, -std::numeric_limits<float>::infinity());
    std::fill(s_.sums, s_.sums + columns_, 0.0f);
    for (std::int64_t first = 0; first < p_.v; first += s_.w.most) visit_classes(first);
    for (std::int64_t i = 0; i < tile_.n; ++i) write(i);
  }

 private:
  /// The tile's rows side by side. They pass through where u will be.
  void load_x() {
    load_rows(p_, tile_, s_.u);
    const std::int64_t steps = p_.steps(p_.width);
    for (std::int64_t row = 0; row < tile_.n; row += kPanel)
      attention::row_kernels().transpose(s_.u + row * steps, steps, std::min(kPanel, tile_.n - row), steps,
                                         s_.x + row * steps, kPanel, std::min(kPanel, columns_ - row));
  }

  void visit_classes(std::int64_t first) {
    s_.w.load(p_, first);
    logits();
    for (std::int64_t i = 0; i < tile_.n; ++i) {
      const std::int64_t t = p_.target(tile_.rows[i]) - first;
      if (t >= 0 && t < s_.w.n) s_.at_target[i] = s_.scores[t * line_ + i];
    }
    const Logits block{s_.scores, s_.w.n, columns_, line_};
    column_kernels().softmax(block, s_.maximum, s_.sums, s_.factor);
    if (!wants_u_) return;
    for (std::int64_t i = 0; i < tile_.n; ++i)
      if (s_.factor[i] != 1) attention::row_kernels().scale_rows(s_.u + i * p_.width, p_.width, 1, s_.factor + i);
    if (p_.pairs) pair(block);
    s_.w.pair(p_);
    add_to_u();
  }

  /// scores [class][row]. A few classes stay in the nearest cache, panels of x come from the next one, which holds a
  /// whole tile of at most kWhole steps, or a piece of it; the classes behind are asked for meanwhile. In pieces of 144
  /// steps, of which x stayed in the nearest cache, it was a tenth slower: the scores were taken up again each time.
  void logits() {
    constexpr std::int64_t kWhole = 1024;
    const std::int64_t steps = p_.steps(p_.width), few = attention::tall_rows(p_.pairs);
    const std::int64_t piece = steps <= kWhole ? steps : kWhole / 2;
    for (std::int64_t c = 0; c < steps; c += piece)
      for (std::int64_t j = 0; j < s_.w.n; j += few)
        for (std::int64_t column = 0; column < columns_; column += kPanel)
          attention::multiply({.a = s_.w.rows + j * s_.w.row_step + c,
                               .a_row = s_.w.row_step,
                               .a_step = 1,
                               .b = s_.x + column * steps + c * kPanel,
                               .b_step = kPanel,
                               .c = s_.scores + j * line_ + column,
                               .c_row = line_,
                               .m = std::min(few, s_.w.n - j),
                               .n = std::min(kPanel, columns_ - column),
                               .k = std::min(piece, steps - c),
                               .accumulate = c > 0,
                               .pairs = p_.pairs,
                               .tall = true,
                               .next_a = column == 0 ? s_.w.behind(p_, j + few, c) : nullptr});
  }

  void pair(const Logits& block) {
    column_kernels().pair(block, s_.pairs);
    // A target's probability, rounded, would cover what is left of it when 1 is taken away: `write_u` adds it.
    for (std::int64_t i = 0; i < tile_.n; ++i) {
      const std::int64_t t = p_.target(tile_.rows[i]) - s_.w.first;
      if (t >= 0 && t < s_.w.n) reinterpret_cast<std::uint16_t*>(s_.pairs + t / 2 * line_ + i)[t % 2] = 0;
    }
  }

  void add_to_u() {
    const ClassRows& w = s_.w;
    const bool paired = p_.pairs && !w.pairs_itself;
    const std::int64_t step = paired ? p_.width : w.pairs_itself ? 2 * w.row_step : w.row_step;
    attention::multiply({.a = p_.pairs ? s_.pairs : s_.scores,
                         .a_row = 1,
                         .a_step = line_,
                         .b = paired ? w.paired : w.rows,
                         .b_step = step,
                         .c = s_.u,
                         .c_row = p_.width,
                         .m = tile_.n,
                         .n = p_.width,
                         .k = p_.pairs ? (w.n + 1) / 2 : w.n,
                         .accumulate = true,
                         .pairs = p_.pairs,
                         .tall = true,
                         .b_in_rows = w.pairs_itself});
  }

  void write(std::int64_t i) {
    const std::int64_t row = tile_.rows[i];
    const float sum = s_.sums[i];
    const double lse = (static_cast<double>(s_.maximum[i]) + std::log2(static_cast<double>(sum))) * attention::kLn2;
    double loss = lse - (1 - p_.rule.smoothing) * static_cast<double>(s_.at_target[i]);
    if (p_.rule.smoothing != 0) loss -= p_.floor * static_cast<double>(dot_with_sums(row));
    put<float>(call_.outputs[kLoss], row, loss);
    put<float>(call_.outputs[kLse], row, lse);
    if (!wants_u_) return;
    const double at_target = p_.pairs ? std::exp(static_cast<double>(s_.at_target[i]) - lse) : 0;
    write_u(row, s_.u + i * p_.width, sum, static_cast<float>(1 - p_.rule.smoothing - at_target));
  }

  float dot_with_sums(std::int64_t row) {
    attention::load({p_.x.at(row, 0), p_.x.dtype, 0, p_.x.column, 1, p_.d}, s_.row, p_.width);
    return attention::row_kernels().dot(s_.row, shared_.class_sums, p_.width);
  }

  /// `hit`: what the target's row of w is taken away with.
  void write_u(std::int64_t row, float* u, float sum, float hit) {
    const KernelTensor& out = call_.outputs[kU];
    attention::load({p_.w.at(0, p_.target(row)), p_.w.dtype, 0, p_.w.row, 1, p_.d}, s_.row, p_.width);
    const float inverse = 1 / sum, floor = static_cast<float>(p_.floor);
    for (std::int64_t c = 0; c < p_.d; ++c) u[c] = u[c] * inverse - hit * s_.row[c];
    for (std::int64_t c = 0; floor != 0 && c < p_.d; ++c) u[c] -= floor * shared_.class_sums[c];
    attention::store(u, p_.d, out.dtype, out.as<char>() + row * p_.d * static_cast<std::int64_t>(size_of(out.dtype)));
  }

  const KernelCall& call_;
  const Problem& p_;
  const Shared& shared_;
  Tile tile_;
  std::int64_t columns_, line_;  // whole vectors of rows, and the distance of what lies above each other
  Scratch s_;
  bool wants_u_;
};

std::int64_t tasks(const KernelCall& call, int pass) {
  const Problem p(call);
  if (pass == 1) return p.is_f64() ? p.n : p.tiles(p.n);
  return 1 + (p.rule.smoothing != 0 && !p.is_f64() ? (p.width + kSumColumns - 1) / kSumColumns : 0);
}

std::size_t scratch(const KernelCall& call) {
  const Problem p(call);
  return p.is_f64() ? 0 : Scratch(p, nullptr).carve.used();
}
std::size_t shared_bytes(const KernelCall& call) { return Shared(Problem(call), nullptr).carve.used(); }

void run(const KernelCall& call, int pass, std::int64_t task) {
  const Problem p(call);
  const Shared shared(p, call.shared);
  if (pass == 0) {
    if (task == 0) find_rows(call, p, shared.active);
    else sum_classes(p, task - 1, shared.class_sums);
    return;
  }
  if (p.is_f64()) {
    if (task < *shared.active.count) plain_forward(call, p, shared.active.rows[task]);
    return;
  }
  const Tile t = tile(p, shared.active, task);
  if (t.n > 0) Forward(call, p, shared, t).run();
}

}  // namespace
}  // namespace cross_entropy

const CpuKernel linear_cross_entropy_kernel{.run = cross_entropy::run,
                                            .tasks = cross_entropy::tasks,
                                            .passes = 2,
                                            .scratch = cross_entropy::scratch,
                                            .shared = cross_entropy::shared_bytes,
                                            .takes_strides = true};

}  // namespace metal_candle::cpu
