#include "backend/cpu/kernels/linear_cross_entropy.h"

#include <cmath>
#include <cstring>

#include "backend/cpu/kernels/linear_cross_entropy_problem.h"

namespace metal_candle::cpu {
namespace cross_entropy {
namespace {

enum Output { kLoss, kLse, kU };
constexpr std::int64_t kSumColumns = 64;  // components of a task that sums w over the classes

struct Shared {
  Carve carve;
  ActiveRows active;
  float* class_sums;  // Σ_j w[:, j], for smoothing
  Shared(const Problem& p, void* base) : carve(base), active(p, carve), class_sums(carve.take<float>(p.width)) {}
};

struct Scratch {
  Carve carve;
  ClassBlock w;
  float *x, *u, *scores, *maximum, *sums, *at_target, *row;
  std::uint16_t* halves;  // of scores: probabilities in bf16, without those of the targets
  Scratch(const Problem& p, void* base) : carve(base), w(p, carve) {
    const std::int64_t rows = p.tile_rows();
    x = carve.take<float>(rows * p.steps(p.width));
    u = carve.take<float>(rows * p.width);
    scores = carve.take<float>(rows * kClasses);
    maximum = carve.take<float>(rows);
    sums = carve.take<float>(rows * kSums);
    at_target = carve.take<float>(rows);
    row = carve.take<float>(p.width);
    halves = p.pairs ? carve.take<std::uint16_t>(rows * kClasses) : nullptr;
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
        s_(p, call.scratch),
        wants_u_(call.outputs[kU].data != nullptr) {}

  void run() {
    load_rows(p_, tile_, s_.x);
    if (wants_u_) std::fill(s_.u, s_.u + tile_.n * p_.width, 0.0f);
    std::fill(s_.maximum, s_.maximum + tile_.n, -std::numeric_limits<float>::infinity());
    std::fill(s_.sums, s_.sums + tile_.n * kSums, 0.0f);
    for (std::int64_t first = 0; first < p_.v; first += kClasses) visit_classes(first);
    for (std::int64_t i = 0; i < tile_.n; ++i) write(i);
  }

 private:
  void visit_classes(std::int64_t first) {
    s_.w.load(p_, first, wants_u_);
    logits(p_, s_.x, tile_.n, s_.w, s_.scores);
    for (std::int64_t i = 0; i < tile_.n; ++i) {
      const std::int64_t t = p_.target(tile_.rows[i]) - first;
      if (t >= 0 && t < s_.w.n) s_.at_target[i] = s_.scores[i * kClasses + t];
    }
    for (std::int64_t i = 0; i < tile_.n; i += kRowBlock) {
      auto block = s_.w.scores(s_.scores + i * kClasses, static_cast<int>(std::min(kRowBlock, tile_.n - i)));
      if (s_.halves && wants_u_) block.halves = s_.halves + i * kClasses;
      float factor[kRowBlock];
      if (attention::row_kernels().softmax(block, s_.maximum + i, s_.sums + i * kSums, factor) && wants_u_)
        attention::row_kernels().scale_rows(s_.u + i * p_.width, p_.width, block.rows, factor);
    }
    if (wants_u_) add_to_u();
  }

  void add_to_u() {
    // A target's probability, rounded, would cover what is left of it when 1 is taken away: `write_u` adds it.
    for (std::int64_t i = 0; p_.pairs && i < tile_.n; ++i) {
      const std::int64_t t = p_.target(tile_.rows[i]) - s_.w.first;
      if (t >= 0 && t < s_.w.n) s_.halves[i * kClasses + t] = 0;
    }
    attention::multiply({.a = p_.pairs ? reinterpret_cast<const float*>(s_.halves) : s_.scores,
                         .a_row = p_.steps(kClasses),
                         .a_step = 1,
                         .b = s_.w.rows,
                         .b_step = s_.w.row_step,
                         .c = s_.u,
                         .c_row = p_.width,
                         .m = tile_.n,
                         .n = p_.width,
                         .k = p_.pairs ? (s_.w.n + 1) / 2 : s_.w.n,
                         .accumulate = true,
                         .pairs = p_.pairs});
  }

  void write(std::int64_t i) {
    const std::int64_t row = tile_.rows[i];
    const float* sums = s_.sums + i * kSums;
    float sum = 0;
    for (int c = 0; c < kSums; ++c) sum += sums[c];
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
