// The micro kernel: kRows × kVectors accumulators stay in registers while k runs. Included into a namespace per
// instruction set, after that set's `Ops` (V, kBytes, zero, load, broadcast, fma, store; if kNarrows, also narrow, which
// rounds a vector to bf16 and stores it, and narrow_pair, which does so with two; if kTakesLess, also minus).
//
// Addresses of A's rows: three rows share a base register (base, base + s, base + 2·s are x86 addressing modes), so 14
// rows need five. Unrolling is forced because accumulators in an array that is not fully unrolled live in memory.

template <class Ops, int kRows, int kVectors>
void micro_kernel(const MicroArgs& p) {
  using V = typename Ops::V;
  constexpr int kPanels = (kVectors + 1) / 2;
  constexpr int kBases = (kRows + 2) / 3;
  const std::int64_t c_row = p.c_row;
  char* const c = p.c;
  V acc[kRows][kVectors];
  if (p.accumulate) {
#pragma GCC unroll 32
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Ops::load(c + r * c_row + v * Ops::kBytes);
  } else {
#pragma GCC unroll 32
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Ops::zero();
  }
  if constexpr (Ops::kTakesLess) {
    if (p.less != nullptr) {
#pragma GCC unroll 32
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) acc[r][v] = Ops::minus(acc[r][v], p.less[r]);
    }
  }
  for (const MicroArgs* q = &p; q != nullptr; q = q->next) {
    // Copies: stores through char* would make the compiler read them again.
    const std::int64_t a_row = q->a_row, a_step = q->a_step, b_step = q->b_step, ahead = q->ahead;
    const char* a[kBases];
#pragma GCC unroll 16
    for (int i = 0; i < kBases; ++i) a[i] = q->a + 3 * i * a_row;
    const char* b[kPanels];
#pragma GCC unroll 4
    for (int i = 0; i < kPanels; ++i) b[i] = q->b + i * q->b_panel;
    const char* fetched = q->next_a;
    for (std::int64_t step = q->steps; step > 0; --step) {
      // The hardware follows a panel of B too closely behind, and rows of B in place not at all.
      if constexpr (kRows >= 6 || kVectors == 2) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; v += 64 / Ops::kBytes)
          __builtin_prefetch(b[v / 2] + ahead + (v % 2) * Ops::kBytes);
      }
      // Nor does it follow so many rows of A.
      if constexpr (kRows >= 6 && kVectors == 2) {
        if (fetched != nullptr && step % 16 == 0) {
          for (int r = 0; r < kRows; ++r) __builtin_prefetch(fetched + r * a_row);
          fetched += 64;
        }
      }
      V bv[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) bv[v] = Ops::load(b[v / 2] + (v % 2) * Ops::kBytes);
#pragma GCC unroll 32
      for (int r = 0; r < kRows; ++r) {
        const V av = Ops::broadcast(a[r / 3] + (r % 3) * a_row);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) acc[r][v] = Ops::fma(av, bv[v], acc[r][v]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < kBases; ++i) a[i] += a_step;
#pragma GCC unroll 4
      for (int i = 0; i < kPanels; ++i) b[i] += b_step;
    }
  }
  if constexpr (Ops::kNarrows) {
    if (p.narrow) {
#pragma GCC unroll 32
      for (int r = 0; r < kRows; ++r) {
        if constexpr (kVectors == 1) Ops::narrow(acc[r][0], c + r * c_row);
#pragma GCC unroll 4
        for (int v = 0; v + 2 <= kVectors; v += 2)
          Ops::narrow_pair(acc[r][v], acc[r][v + 1], c + r * c_row + v * (Ops::kBytes / 2));
      }
      return;
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Ops::store(acc[r][v], c + r * c_row + v * Ops::kBytes);
}

template <class Ops, int kVectors, class Rows>
struct MicroTable;
template <class Ops, int kVectors, int... kRow>
struct MicroTable<Ops, kVectors, std::integer_sequence<int, kRow...>> {
  static constexpr MicroKernel kernels[] = {&micro_kernel<Ops, kRow + 1, kVectors>...};
};

/// Register counts decide the rows: accumulators + one step of B + the broadcast must fit.
template <class Ops, int k1, int k2, int k4, int k8>
MicroFamily make_family(int lanes, int unit_bytes, int k_per_step) {
  MicroFamily f;
  f.lanes = lanes;
  f.unit_bytes = unit_bytes;
  f.k_per_step = k_per_step;
  f.narrows = Ops::kNarrows;
  const int rows[kWidths] = {k1, k2, k4, k8};
  for (int i = 0; i < kWidths; ++i) f.max_rows[i] = rows[i];
  f.by_width[0] = MicroTable<Ops, 1, std::make_integer_sequence<int, k1>>::kernels;
  f.by_width[1] = MicroTable<Ops, 2, std::make_integer_sequence<int, k2>>::kernels;
  f.by_width[2] = MicroTable<Ops, 4, std::make_integer_sequence<int, k4>>::kernels;
  f.by_width[3] = MicroTable<Ops, 8, std::make_integer_sequence<int, k8>>::kernels;
  return f;
}
