// What a product of bytes needs beside micro kernels, included like micro-inl.h and after an `Ops` that has load_some,
// store_some (of the first lanes) and top_bits (0x80 in every byte), too.

/// 128 times the sum of each of the left operand's rows, or -128 times if it is unsigned: a row goes by vectors where its
/// units lie side by side; elsewhere lanes are rows.
template <class Ops>
struct QuadSums {
  using V = typename Ops::V;
  static constexpr std::int64_t kUnits = Ops::kBytes / 4;

  static std::uint32_t along(const char* p, std::int64_t steps) {
    V sum = Ops::zero();
    std::int64_t s = 0;
    for (; s + kUnits <= steps; s += kUnits) sum = Ops::fma(Ops::load(p + 4 * s), Ops::top_bits(), sum);
    if (s < steps) sum = Ops::fma(Ops::load_some(p + 4 * s, steps - s), Ops::top_bits(), sum);
    std::uint32_t lanes[kUnits], total = 0;
    Ops::store(sum, reinterpret_cast<char*>(lanes));
    for (const std::uint32_t lane : lanes) total += lane;
    return total;
  }
  static V across(const char* p, std::int64_t step, std::int64_t steps, std::int64_t rows) {
    V sum = Ops::zero();
    for (; steps > 0; --steps, p += step) sum = Ops::fma(Ops::load_some(p, rows), Ops::top_bits(), sum);
    return sum;
  }
  static void run(const QuadRows& q, std::int32_t* sums) {
    if (q.step == 4) {
      for (std::int64_t r = 0; r < q.rows; ++r) sums[r] = static_cast<std::int32_t>(along(q.data + r * q.row, q.steps));
      return;
    }
    for (std::int64_t r = 0; r < q.rows; r += kUnits) {
      const std::int64_t rows = q.rows - r < kUnits ? q.rows - r : kUnits;
      Ops::store_some(across(q.data + r * q.row, q.step, q.steps, rows), reinterpret_cast<char*>(sums + r), rows);
    }
  }
};

template <class SignedLeft, class UnsignedLeft, int k1, int k2, int k4, int k8>
void add_quads(KernelSet& set) {
  constexpr int lanes = SignedLeft::kBytes / 4;
  set.quads[0] = make_family<UnsignedLeft, k1, k2, k4, k8>(lanes, 4, 4);
  set.quads[1] = make_family<SignedLeft, k1, k2, k4, k8>(lanes, 4, 4);
  set.sum_quads[0] = &QuadSums<UnsignedLeft>::run;
  set.sum_quads[1] = &QuadSums<SignedLeft>::run;
}
