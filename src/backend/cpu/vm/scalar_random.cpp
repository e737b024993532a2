// Random numbers in f64, one after the other.
#include <cmath>
#include <numbers>

#include "backend/cpu/vm/instr.h"
#include "backend/cpu/vm/philox.h"

namespace metal_candle::cpu::vm {
namespace {

using Words = std::uint32_t[4][1];

std::uint64_t pair(const Words& w, int high, int low) { return std::uint64_t{w[high][0]} << 32 | w[low][0]; }

double uniform(const Words& w) { return static_cast<double>(pair(w, 0, 1) >> 11) * 0x1p-53; }
double normal(const Words& w) {
  const double u = static_cast<double>(pair(w, 0, 2) >> 12) * 0x1p-52 + 0x1p-53;
  const double turn = static_cast<double>(static_cast<std::int64_t>(pair(w, 1, 3))) * 0x1p-63;
  return std::sqrt(-2 * std::log(u)) * std::cos(std::numbers::pi * turn);
}

template <double (*kMake)(const Words&)>
void draw(const Instr& in, const Frame& f) {
  double* out = at<double>(in.out, f);
  const std::uint64_t *a = at<const std::uint64_t>(in.a, f), *b = at<const std::uint64_t>(in.b, f);
  for (int r = 0; r < f.rows; ++r) {
    for (int c = 0; c < f.cols; ++c) {
      const std::uint64_t key[] = {a[c * in.extra->step_a]}, counter[] = {b[c * in.extra->step_b]};
      Words words;
      philox(key, counter, words);
      out[c] = kMake(words);
    }
    out = step(out, pitch(in.out, f));
    a = step(a, pitch(in.a, f));
    b = step(b, pitch(in.b, f));
  }
}

}  // namespace

Kernel scalar_random(bool is_normal) { return is_normal ? draw<normal> : draw<uniform>; }

}  // namespace metal_candle::cpu::vm
