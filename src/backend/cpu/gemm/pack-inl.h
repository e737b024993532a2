// Packing and conversion, compiled once for each instruction set (included inside its namespace).
//
// Every packing is a transposition of units to [step][lane] or a copy by rows; an operand whose unit stride is 1 either
// way goes by whole vectors, any other by scalars.

inline float widen_bf16(std::uint16_t x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

/// Exact, subnormals included, whatever the rounding and flushing modes: integer arithmetic and one exact subtraction.
inline float widen_f16(std::uint16_t x) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x & 0x8000u) << 16;
  const std::uint32_t rest = x & 0x7fffu;
  const std::uint32_t normal = (rest << 13) + (rest >= 0x7c00u ? 0x70000000u : 0x38000000u);
  const std::uint32_t tiny_bits = 0x38800000u + (rest << 13);  // 2^-14 · (1 + fraction), then take the 2^-14 away
  float tiny;
  std::memcpy(&tiny, &tiny_bits, 4);
  tiny -= 6.103515625e-05f;
  std::uint32_t tiny_result;
  std::memcpy(&tiny_result, &tiny, 4);
  const std::uint32_t bits = sign | (rest < 0x400u ? tiny_result : normal);
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

inline std::uint16_t narrow_bf16(float f) {
  std::uint32_t u;
  std::memcpy(&u, &f, 4);
  const std::uint32_t nan = (u >> 16) | 0x40u;
  const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

inline std::uint16_t narrow_f16(float f) {
  std::uint32_t u;
  std::memcpy(&u, &f, 4);
  const std::uint32_t sign = (u >> 16) & 0x8000u;
  u &= 0x7fffffffu;
  // Below 2^-14 the float adder rounds to multiples of 2^-24 for us: add 1/2, whose last bit is 2^-24.
  float small;
  std::memcpy(&small, &u, 4);
  small += 0.5f;
  std::uint32_t small_bits;
  std::memcpy(&small_bits, &small, 4);
  const std::uint32_t subnormal = small_bits - 0x3f000000u;
  const std::uint32_t normal = (u - 0x38000000u + 0xfffu + ((u >> 13) & 1u)) >> 13;
  const std::uint32_t special = u > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const std::uint32_t h = u < 0x38800000u ? subnormal : u >= 0x47800000u ? special : normal;
  return static_cast<std::uint16_t>(sign | (u < 0x47800000u && h > 0x7c00u ? 0x7c00u : h));
}

#undef GEMM_HAS_F16
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_NEON
#define GEMM_HAS_F16 1  // conversions in hardware; Highway's emulation elsewhere rounds differently
#else
#define GEMM_HAS_F16 0
#endif

void widen(PackKind kind, const char* source, std::int64_t count, float* target) {
  const auto* s = reinterpret_cast<const std::uint16_t*>(source);
  if (kind == PackKind::bf16_widen) {
    for (std::int64_t i = 0; i < count; ++i) target[i] = widen_bf16(s[i]);
    return;
  }
  std::int64_t i = 0;
#if GEMM_HAS_F16
  const hn::ScalableTag<float> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> d16;
  constexpr std::int64_t kStep = kLanes<std::uint32_t>;
  for (; i + kStep <= count; i += kStep)
    hn::StoreU(hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(s + i))), d, target + i);
#endif
  for (; i < count; ++i) target[i] = widen_f16(s[i]);
}

void narrow_row(GemmType type, const float* source, std::int64_t count, std::uint16_t* target) {
  std::int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  constexpr std::int64_t kStep = kLanes<std::uint32_t>;
  const hn::ScalableTag<std::uint32_t> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<std::uint16_t, decltype(d)> d16;
  for (; type == GemmType::bf16 && i + kStep <= count; i += kStep) {
    const auto u = hn::LoadU(d, reinterpret_cast<const std::uint32_t*>(source + i));
    const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(d, 1));
    const auto rounded = hn::ShiftRight<16>(hn::Add(u, hn::Add(odd, hn::Set(d, 0x7fff))));
    const auto nan = hn::Or(hn::ShiftRight<16>(u), hn::Set(d, 0x40));
    const auto size = hn::BitCast(di, hn::And(u, hn::Set(d, 0x7fffffff)));
    const auto is_nan = hn::MaskFromVec(hn::BitCast(d, hn::VecFromMask(di, hn::Gt(size, hn::Set(di, 0x7f800000)))));
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, hn::IfThenElse(is_nan, nan, rounded))), d16, target + i);
  }
#endif
#if GEMM_HAS_F16
  const hn::ScalableTag<float> df;
  const hn::Rebind<hwy::float16_t, decltype(df)> dh;
  for (; type == GemmType::f16 && i + kStep <= count; i += kStep)
    hn::StoreU(hn::DemoteTo(dh, hn::LoadU(df, source + i)), dh, reinterpret_cast<hwy::float16_t*>(target + i));
#endif
  for (; i < count; ++i) target[i] = type == GemmType::bf16 ? narrow_bf16(source[i]) : narrow_f16(source[i]);
}

void narrow(GemmType type, const float* source, std::int64_t source_row, std::int64_t rows, std::int64_t cols,
            void* target, std::int64_t target_row) {
  for (std::int64_t r = 0; r < rows; ++r)
    narrow_row(type, source + r * source_row, cols, static_cast<std::uint16_t*>(target) + r * target_row);
}

template <class T>
inline T load_unit(const char* p) {
  T t;
  std::memcpy(&t, p, sizeof t);
  return t;
}

/// lanes contiguous units. Whole vectors, then a masked one where masks cost nothing.
template <class T>
inline void copy_units(const char* source, std::int64_t lanes, char* target) {
  const hn::ScalableTag<T> d;
  constexpr std::int64_t kStep = kLanes<T>;
  const T* s = reinterpret_cast<const T*>(source);
  T* t = reinterpret_cast<T*>(target);
  std::int64_t i = 0;
  for (; i + kStep <= lanes; i += kStep) hn::StoreU(hn::LoadU(d, s + i), d, t + i);
  if (i == lanes) return;
#if HWY_TARGET == HWY_AVX3
  const auto mask = hn::FirstN(d, static_cast<std::size_t>(lanes - i));
  hn::BlendedStore(hn::MaskedLoad(mask, d, s + i), mask, d, t + i);
#else
  for (; i < lanes; ++i) std::memcpy(t + i, s + i, sizeof(T));
#endif
}

/// Rows of the source are far apart: no hardware prefetch sees the next one coming.
constexpr std::int64_t kPackAhead = 16;
constexpr std::int64_t kLinesAhead = 2;  // of each of many rows that are read side by side
inline void prefetch_lanes(const char* source, std::int64_t bytes) {
  for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(source + i);
}

#if HWY_TARGET != HWY_SCALAR
/// Rows 0 to 3 of 32-bit units, transposed within each 128-bit block: block b of output i is column i of the rows' blocks b.
template <class D, class Load>
inline void transpose_blocks(D d, Load row, char* target, std::int64_t target_step) {
  const hn::Repartition<std::uint64_t, D> d64;
  const auto r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3);
  const auto a = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1)), b = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3));
  const auto e = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1)), f = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
  const auto put = [&](auto v, int i) {
    hn::StoreU(v, d64, reinterpret_cast<std::uint64_t*>(target + i * target_step));
  };
  put(hn::InterleaveLower(d64, a, b), 0);
  put(hn::InterleaveUpper(d64, a, b), 1);
  put(hn::InterleaveLower(d64, e, f), 2);
  put(hn::InterleaveUpper(d64, e, f), 3);
}

/// 4 lanes × 4 steps of 32-bit units.
inline void transpose4(const char* source, std::int64_t lane_bytes, char* target, std::int64_t target_step) {
  const hn::Full128<std::uint32_t> d;
  const auto row = [&](int i) { return hn::LoadU(d, reinterpret_cast<const std::uint32_t*>(source + i * lane_bytes)); };
  transpose_blocks(d, row, target, target_step);
}
#else
inline void transpose4(const char* source, std::int64_t lane_bytes, char* target, std::int64_t target_step) {
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) std::memcpy(target + i * target_step + j * 4, source + j * lane_bytes + i * 4, 4);
}
#endif

#if HWY_TARGET == HWY_AVX3
/// 16 lanes × 4 steps: four of the above side by side, one in each 128-bit block.
inline void transpose16(const char* source, std::int64_t lane_bytes, char* target, std::int64_t target_step) {
  const hn::ScalableTag<std::uint32_t> d;
  const auto rows = [&](int i) {
    const auto at = [&](int lane) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + lane * lane_bytes));
    };
    __m512i v = _mm512_castsi128_si512(at(i));
    v = _mm512_inserti32x4(v, at(4 + i), 1);
    v = _mm512_inserti32x4(v, at(8 + i), 2);
    return hn::Vec<decltype(d)>{_mm512_inserti32x4(v, at(12 + i), 3)};
  };
  transpose_blocks(d, rows, target, target_step);
}
#endif

template <class T>
void pack_scalar(const char* source, std::int64_t lane_bytes, std::int64_t step_bytes, std::int64_t lane0,
                 std::int64_t lane1, std::int64_t step0, std::int64_t step1, std::int64_t width, char* target) {
  for (std::int64_t s = step0; s < step1; ++s)
    for (std::int64_t l = lane0; l < lane1; ++l)
      std::memcpy(target + (s * width + l) * static_cast<std::int64_t>(sizeof(T)),
                  source + l * lane_bytes + s * step_bytes, sizeof(T));
}

#if HWY_TARGET == HWY_AVX3
constexpr std::int64_t kLanesApart = 16;
#else
constexpr std::int64_t kLanesApart = 8;
#endif

inline void transpose_lines(const char* source, std::int64_t lane_bytes, std::int64_t lane0, std::int64_t lane1,
                            std::int64_t step0, std::int64_t step1, std::int64_t width, char* target) {
  std::int64_t l = lane0;
#if HWY_TARGET == HWY_AVX3
  for (; l + 16 <= lane1; l += 16)
    for (std::int64_t s = step0; s < step1; s += 4)
      transpose16(source + l * lane_bytes + s * 4, lane_bytes, target + (s * width + l) * 4, width * 4);
#endif
  for (; l < lane1; l += 4)
    for (std::int64_t s = step0; s < step1; s += 4)
      transpose4(source + l * lane_bytes + s * 4, lane_bytes, target + (s * width + l) * 4, width * 4);
}

template <class T>
void pack_units(const char* source, std::int64_t lane_bytes, std::int64_t step_bytes, std::int64_t lanes,
                std::int64_t steps, std::int64_t width, char* target) {
  constexpr std::int64_t kUnit = sizeof(T);
  if (lane_bytes == kUnit || lanes == 1) {
    for (std::int64_t s = 0; s < steps; ++s) {
      prefetch_lanes(source + (s + kPackAhead) * step_bytes, lanes * kUnit);
      copy_units<T>(source + s * step_bytes, lanes, target + s * width * kUnit);
    }
  } else if (kUnit == 4 && step_bytes == kUnit) {
    const std::int64_t lanes4 = lanes & ~std::int64_t{3}, steps4 = steps & ~std::int64_t{3};
    // A line of each lane at a time; but many lanes a power of two apart would push each other out of L1.
    const std::int64_t together =
        lane_bytes % 1024 == 0 && steps > 16 ? kLanesApart : std::max<std::int64_t>(lanes4, 1);
    for (std::int64_t l0 = 0; l0 < lanes4; l0 += together)
      for (std::int64_t s0 = 0; s0 < steps4; s0 += 16) {
        const std::int64_t l1 = std::min(l0 + together, lanes4), ahead = s0 + kLinesAhead * 16;
        for (std::int64_t l = l0; ahead < steps4 && l < l1; ++l)
          __builtin_prefetch(source + l * lane_bytes + ahead * kUnit);
        transpose_lines(source, lane_bytes, l0, l1, s0, std::min(s0 + 16, steps4), width, target);
      }
    pack_scalar<T>(source, lane_bytes, step_bytes, 0, lanes, steps4, steps, width, target);
    pack_scalar<T>(source, lane_bytes, step_bytes, lanes4, lanes, 0, steps4, width, target);
  } else {
    pack_scalar<T>(source, lane_bytes, step_bytes, 0, lanes, 0, steps, width, target);
  }
}

/// Rows of bf16 become half as many rows of pairs: row 2s and row 2s + 1, element by element. Only AVX-512 has kernels for
/// pairs, and no panel of theirs is wider than 32.
#if HWY_TARGET == HWY_AVX3
template <bool kWhole>
inline void interleave_rows(const char* source, std::int64_t row, std::int64_t pairs, std::int64_t lanes, char* target,
                            std::int64_t target_row) {
  alignas(64) static constexpr std::uint16_t kFront[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                           37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                           11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i front = _mm512_load_si512(kFront), back = _mm512_add_epi16(front, _mm512_set1_epi16(16));
  const auto mask = static_cast<__mmask32>((std::uint64_t{1} << lanes) - 1);
  const auto low = static_cast<__mmask16>(mask), high = static_cast<__mmask16>(mask >> 16);
  for (; pairs > 0; --pairs, source += 2 * row, target += target_row) {
    __builtin_prefetch(source + kPackAhead * row);
    __builtin_prefetch(source + (kPackAhead + 1) * row);
    const __m512i a = kWhole ? _mm512_loadu_si512(source) : _mm512_maskz_loadu_epi16(mask, source);
    const __m512i b = kWhole ? _mm512_loadu_si512(source + row) : _mm512_maskz_loadu_epi16(mask, source + row);
    const __m512i x = _mm512_permutex2var_epi16(a, front, b);
    if (kWhole) _mm512_storeu_si512(target, x);
    else _mm512_mask_storeu_epi32(target, low, x);
    if (!kWhole && high == 0) continue;
    const __m512i y = _mm512_permutex2var_epi16(a, back, b);
    if (kWhole) _mm512_storeu_si512(target + 64, y);
    else _mm512_mask_storeu_epi32(target + 64, high, y);
  }
}
#endif

/// Pairs (k, k+1) of bf16 become one unit; without a k + 1 the upper half is zero.
void pack_pairs(const PackArgs& p) {
  const std::int64_t pairs = p.k / 2;
  const std::int64_t lane_bytes = p.lane_stride * 2, k_bytes = p.k_stride * 2;
  if (p.k_stride == 1) {
    pack_units<std::uint32_t>(p.source, lane_bytes, 4, p.lanes, pairs, p.width, p.target);
#if HWY_TARGET == HWY_AVX3
  } else if (p.lane_stride == 1 && p.lanes <= 32) {
    if (p.lanes == 32) interleave_rows<true>(p.source, k_bytes, pairs, 32, p.target, p.width * 4);
    else interleave_rows<false>(p.source, k_bytes, pairs, p.lanes, p.target, p.width * 4);
#endif
  } else {
    for (std::int64_t s = 0; s < pairs; ++s)
      for (std::int64_t l = 0; l < p.lanes; ++l) {
        const char* low = p.source + l * lane_bytes + 2 * s * k_bytes;
        std::memcpy(p.target + (s * p.width + l) * 4, low, 2);
        std::memcpy(p.target + (s * p.width + l) * 4 + 2, low + k_bytes, 2);
      }
  }
  if (p.k % 2 == 0) return;
  for (std::int64_t l = 0; l < p.lanes; ++l) {
    const std::uint32_t unit = load_unit<std::uint16_t>(p.source + l * lane_bytes + (p.k - 1) * k_bytes);
    std::memcpy(p.target + (pairs * p.width + l) * 4, &unit, 4);
  }
}

void pack_widened(PackKind kind, const PackArgs& p) {
  for (std::int64_t s = 0; s < p.k; ++s) {
    const char* source = p.source + s * p.k_stride * 2;
    char* target = p.target + s * p.width * 4;
    if (p.lane_stride == 1) {
      widen(kind, source, p.lanes, reinterpret_cast<float*>(target));
      continue;
    }
    for (std::int64_t l = 0; l < p.lanes; ++l) {
      const auto x = load_unit<std::uint16_t>(source + l * p.lane_stride * 2);
      const float f = kind == PackKind::bf16_widen ? widen_bf16(x) : widen_f16(x);
      std::memcpy(target + l * 4, &f, 4);
    }
  }
}

/// Steps of two bytes, widened to 16 bits.
template <class Byte>
void pack_widened_pairs(const PackArgs& p) {
  const auto* source = reinterpret_cast<const Byte*>(p.source);
  const std::int64_t pairs = p.k / 2;
  for (std::int64_t s = 0; s <= pairs; ++s) {
    if (2 * s == p.k) break;
    const std::int64_t second = s < pairs ? p.k_stride : 0;
    for (std::int64_t l = 0; l < p.lanes; ++l) {
      const Byte* from = source + l * p.lane_stride + 2 * s * p.k_stride;
      const std::int16_t pair[2] = {from[0], s < pairs ? std::int16_t{from[second]} : std::int16_t{0}};
      std::memcpy(p.target + (s * p.width + l) * 4, pair, 4);
    }
  }
}

#if HWY_TARGET != HWY_SCALAR
/// 16 lanes of four rows of bytes: units of four.
inline void interleave_quads(const char* const rows[4], char* target) {
  const hn::Full128<std::uint8_t> d;
  const hn::Full128<std::uint16_t> d16;
  const auto row = [&](int i) { return hn::LoadU(d, reinterpret_cast<const std::uint8_t*>(rows[i])); };
  const auto r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3);
  const auto a = hn::BitCast(d16, hn::InterleaveLower(d, r0, r1)), b = hn::BitCast(d16, hn::InterleaveLower(d, r2, r3));
  const auto e = hn::BitCast(d16, hn::InterleaveUpper(d, r0, r1)), f = hn::BitCast(d16, hn::InterleaveUpper(d, r2, r3));
  const auto put = [&](auto v, int i) { hn::StoreU(v, d16, reinterpret_cast<std::uint16_t*>(target + i * 16)); };
  put(hn::InterleaveLower(d16, a, b), 0);
  put(hn::InterleaveUpper(d16, a, b), 1);
  put(hn::InterleaveLower(d16, e, f), 2);
  put(hn::InterleaveUpper(d16, e, f), 3);
}

/// Rows of bytes, lanes side by side; `rows` of them exist.
inline void quads_of_rows(const char* source, std::int64_t row, std::int64_t rows, std::int64_t lanes, char* target) {
  alignas(16) char tail[4][16] = {}, units[64];
  const char* from[4];
  std::int64_t l = 0;
  for (std::int64_t j = 0; j < 4; ++j) from[j] = j < rows ? source + j * row : tail[j];
  for (; l + 16 <= lanes; l += 16) {
    interleave_quads(from, target + 4 * l);
    for (std::int64_t j = 0; j < rows; ++j) from[j] += 16;
  }
  if (l == lanes) return;
  for (std::int64_t j = 0; j < rows; ++j) {
    std::memcpy(tail[j], from[j], static_cast<std::size_t>(lanes - l));
    from[j] = tail[j];
  }
  interleave_quads(from, units);
  std::memcpy(target + 4 * l, units, static_cast<std::size_t>(4 * (lanes - l)));
}
#endif

void pack_quads(const PackArgs& p) {
  std::int64_t step = 0;
  if (p.k_stride == 1) {
    step = p.k / 4;
    pack_units<std::uint32_t>(p.source, p.lane_stride, 4, p.lanes, step, p.width, p.target);
  }
#if HWY_TARGET != HWY_SCALAR
  for (; p.lane_stride == 1 && step * 4 < p.k; ++step) {
    const char* source = p.source + 4 * step * p.k_stride;
    for (int j = 0; j < 4; ++j) prefetch_lanes(source + (kPackAhead + j) * p.k_stride, p.lanes);
    quads_of_rows(source, p.k_stride, std::min<std::int64_t>(4, p.k - 4 * step), p.lanes,
                  p.target + step * p.width * 4);
  }
#endif
  for (; step * 4 < p.k; ++step)
    for (std::int64_t l = 0; l < p.lanes; ++l) {
      char unit[4] = {};
      for (std::int64_t j = 0; j < std::min<std::int64_t>(4, p.k - 4 * step); ++j)
        unit[j] = p.source[l * p.lane_stride + (4 * step + j) * p.k_stride];
      std::memcpy(p.target + (step * p.width + l) * 4, unit, 4);
    }
}

/// Turns the highest bit of each byte over.
void turn_bytes(char* target, std::int64_t units) {
  for (std::int64_t i = 0; i < units; ++i) {
    const std::uint32_t turned = load_unit<std::uint32_t>(target + 4 * i) ^ 0x80808080u;
    std::memcpy(target + 4 * i, &turned, 4);
  }
}

std::int64_t k_per_step(PackKind kind) {
  switch (kind) {
    case PackKind::bf16_pairs:
    case PackKind::i8_pairs:
    case PackKind::u8_pairs: return 2;
    case PackKind::quads:
    case PackKind::quads_off: return 4;
    default: return 1;
  }
}

void pack_panel(PackKind kind, const PackArgs& p) {
  const std::int64_t unit = kind == PackKind::copy64 ? 8 : kind == PackKind::copy16 ? 2 : 4;
  const std::int64_t k_per_step = HWY_NAMESPACE::k_per_step(kind);
  const std::int64_t steps = (p.k + k_per_step - 1) / k_per_step, all = p.k_padded / k_per_step;
  if (p.lanes < p.width) std::memset(p.target, 0, static_cast<std::size_t>(all * p.width * unit));
  else if (steps < all)
    std::memset(p.target + steps * p.width * unit, 0, static_cast<std::size_t>((all - steps) * p.width * unit));
  switch (kind) {
    case PackKind::copy16:
      return pack_units<std::uint16_t>(p.source, p.lane_stride * 2, p.k_stride * 2, p.lanes, p.k, p.width, p.target);
    case PackKind::copy32:
      return pack_units<std::uint32_t>(p.source, p.lane_stride * 4, p.k_stride * 4, p.lanes, p.k, p.width, p.target);
    case PackKind::copy64:
      return pack_units<std::uint64_t>(p.source, p.lane_stride * 8, p.k_stride * 8, p.lanes, p.k, p.width, p.target);
    case PackKind::bf16_pairs: return pack_pairs(p);
    case PackKind::bf16_widen:
    case PackKind::f16_widen: return pack_widened(kind, p);
    case PackKind::i8_pairs: return pack_widened_pairs<std::int8_t>(p);
    case PackKind::u8_pairs: return pack_widened_pairs<std::uint8_t>(p);
    case PackKind::quads: return pack_quads(p);
    case PackKind::quads_off: pack_quads(p); return turn_bytes(p.target, all * p.width);
  }
}

template <class Byte>
void widen_bytes(const char* source, std::int64_t count, char* target) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int16_t wide = reinterpret_cast<const Byte*>(source)[i];
    std::memcpy(target + 2 * i, &wide, 2);
  }
}

void pack_rows(PackKind kind, const PackArgs& p, std::int64_t target_stride) {
  for (std::int64_t l = 0; l < p.lanes; ++l) {
    char* target = p.target + l * target_stride;
    switch (kind) {
      case PackKind::copy16: break;
      case PackKind::copy32: copy_units<std::uint32_t>(p.source + l * p.lane_stride * 4, p.k, target); break;
      case PackKind::copy64: copy_units<std::uint64_t>(p.source + l * p.lane_stride * 8, p.k, target); break;
      case PackKind::bf16_pairs:
        copy_units<std::uint16_t>(p.source + l * p.lane_stride * 2, p.k, target);
        if (p.k % 2 != 0) std::memset(target + p.k * 2, 0, 2);
        break;
      case PackKind::bf16_widen:
      case PackKind::f16_widen:
        widen(kind, p.source + l * p.lane_stride * 2, p.k, reinterpret_cast<float*>(target));
        break;
      case PackKind::i8_pairs: widen_bytes<std::int8_t>(p.source + l * p.lane_stride, p.k, target); break;
      case PackKind::u8_pairs: widen_bytes<std::uint8_t>(p.source + l * p.lane_stride, p.k, target); break;
      case PackKind::quads: std::memcpy(target, p.source + l * p.lane_stride, static_cast<std::size_t>(p.k)); break;
      case PackKind::quads_off: break;  // of panels only
    }
    if (kind >= PackKind::i8_pairs) {
      const std::int64_t bytes = kind == PackKind::quads ? 1 : 2;
      std::memset(target + p.k * bytes, 0, static_cast<std::size_t>((p.k_padded - p.k) * bytes));
    }
  }
}
