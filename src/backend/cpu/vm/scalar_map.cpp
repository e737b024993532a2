// Elementwise kernels of f64, i32 and i64, casts, selects and row values spread out: loops over single values.
//
// f64 is there to be right, not fast; what integers do, compilers turn into vectors.
#include "backend/cpu/vm/instr.h"
#include "backend/cpu/vm/scalar.h"

namespace metal_candle::cpu::vm {
namespace {

constexpr bool FLOAT = true, NUMERIC = false;

// A struct an op; `apply` is a template over Lane<E>, instantiated only where the op is defined.
#define MC_UNARY(name, domain, cost, body, ...) \
  struct Op_##name {                            \
    static constexpr bool float_only = domain;  \
    template <class T>                          \
    static T apply(T x) {                       \
      return body;                              \
    }                                           \
  };
#define MC_BINARY(name, domain, cost, body, ...) \
  struct Op_##name {                             \
    static constexpr bool float_only = domain;   \
    template <class T>                           \
    static T apply(T x, T z) {                   \
      return body;                               \
    }                                            \
  };
#define MC_COMPARE(name, body)                  \
  struct Op_##name {                            \
    static constexpr bool float_only = false;   \
    template <class T>                          \
    static Lane<std::int32_t> apply(T x, T z) { \
      return Lane<std::int32_t>(body);          \
    }                                           \
  };
#define MC_LOGIC(name, body) MC_BINARY(name, NUMERIC, SIMPLE, body)
#include "metal_candle/elementwise.def"

template <class Op, class E>
void unary(const Instr& in, const Frame& f) {
  E* out = at<E>(in.out, f);
  const E* a = at<const E>(in.a, f);
  for (int r = 0; r < f.rows; ++r, out = step(out, pitch(in.out, f)), a = step(a, pitch(in.a, f))) {
    for (int c = 0; c < f.cols; ++c) out[c] = Op::apply(Lane<E>(a[c])).v;
  }
}

template <class Op, class E, Form kForm>
void binary(const Instr& in, const Frame& f) {
  using Out = decltype(Op::apply(Lane<E>(), Lane<E>()).v);
  Out* out = at<Out>(in.out, f);
  const E *a = at<const E>(in.a, f), *b = at<const E>(in.b, f);
  for (int r = 0; r < f.rows; ++r) {
    const Lane<E> a0(kForm == kSV ? *a : E(0)), b0(kForm == kVS ? *b : E(0));
    for (int c = 0; c < f.cols; ++c) {
      out[c] = Op::apply(kForm == kSV ? a0 : Lane<E>(a[c]), kForm == kVS ? b0 : Lane<E>(b[c])).v;
    }
    out = step(out, pitch(in.out, f));
    a = step(a, pitch(in.a, f));
    b = step(b, pitch(in.b, f));
  }
}

template <class Op, class E>
Kernel unary_kernel() {
  if constexpr (Op::float_only && !std::is_floating_point_v<E>) return nullptr;
  else return unary<Op, E>;
}
template <class Op, class E>
Kernel binary_kernel(Form form) {
  if constexpr (Op::float_only && !std::is_floating_point_v<E>) {
    return nullptr;
  } else {
    return form == kVV   ? binary<Op, E, kVV>
           : form == kVS ? binary<Op, E, kVS>
           : form == kSV ? binary<Op, E, kSV>
                         : nullptr;
  }
}

template <class E>
Kernel find_map(Elementwise op, Form form) {
  switch (op) {
    // clang-format off
#define MC_UNARY(name, ...) case Elementwise::name: return unary_kernel<Op_##name, E>();
#define MC_BINARY(name, ...) case Elementwise::name: return binary_kernel<Op_##name, E>(form);
#define MC_COMPARE(name, body) case Elementwise::name: return binary_kernel<Op_##name, E>(form);
#define MC_LOGIC(name, body) case Elementwise::name: return binary_kernel<Op_##name, E>(form);
#include "metal_candle/elementwise.def"
    // clang-format on
    case Elementwise::kCount: break;
  }
  return nullptr;
}

template <class E, Form kForm>
void select_kernel(const Instr& in, const Frame& f) {
  constexpr bool b_row = kForm == kSV || kForm == kSS, c_row = kForm == kVS || kForm == kSS;
  E* out = at<E>(in.out, f);
  const std::int32_t* a = at<const std::int32_t>(in.a, f);
  const E *b = at<const E>(in.b, f), *e = at<const E>(in.c, f);
  for (int r = 0; r < f.rows; ++r) {
    for (int c = 0; c < f.cols; ++c) {
      const E x = b_row ? *b : b[c], z = c_row ? *e : e[c];
      out[c] = a[c] != 0 ? x : z;
    }
    out = step(out, pitch(in.out, f));
    a = step(a, pitch(in.a, f));
    b = step(b, pitch(in.b, f));
    e = step(e, pitch(in.c, f));
  }
}

template <class E>
void fill(const Instr& in, const Frame& f) {
  E* out = at<E>(in.out, f);
  const E* a = at<const E>(in.a, f);
  for (int r = 0; r < f.rows; ++r, out = step(out, pitch(in.out, f)), a = step(a, pitch(in.a, f))) {
    std::fill(out, out + f.cols, *a);
  }
}

template <class E>
void not_kernel(const Instr& in, const Frame& f) {
  std::int32_t* out = at<std::int32_t>(in.out, f);
  const E* a = at<const E>(in.a, f);
  for (int r = 0; r < f.rows; ++r, out = step(out, pitch(in.out, f)), a = step(a, pitch(in.a, f))) {
    for (int c = 0; c < f.cols; ++c) out[c] = a[c] == E(0);
  }
}

/// From one register type to another, through the dtype in between.
template <class From, class Through, class To>
void cast(const Instr& in, const Frame& f) {
  To* out = at<To>(in.out, f);
  const From* a = at<const From>(in.a, f);
  for (int r = 0; r < f.rows; ++r, out = step(out, pitch(in.out, f)), a = step(a, pitch(in.a, f))) {
    for (int c = 0; c < f.cols; ++c) {
      if constexpr (std::is_same_v<Through, bf16> || std::is_same_v<Through, f16>) {
        out[c] = convert<To>(static_cast<float>(Through(convert<float>(a[c]))));
      } else {
        out[c] = convert<To>(convert<Through>(a[c]));
      }
    }
  }
}

template <class From, class Through>
Kernel cast_through(RegType type) {
  switch (type) {
    case RegType::f32: return cast<From, Through, float>;
    case RegType::f64: return cast<From, Through, double>;
    case RegType::i32: return cast<From, Through, std::int32_t>;
    case RegType::i64: return cast<From, Through, std::int64_t>;
  }
  return nullptr;
}

template <class From>
Kernel cast_from(DType to, RegType type) {
  switch (to) {
    case DType::f32: return cast_through<From, float>(type);
    case DType::f64: return cast_through<From, double>(type);
    case DType::f16: return cast_through<From, f16>(type);
    case DType::bf16: return cast_through<From, bf16>(type);
    case DType::i8: return cast_through<From, std::int8_t>(type);
    case DType::u8: return cast_through<From, std::uint8_t>(type);
    case DType::i32: return cast_through<From, std::int32_t>(type);
    case DType::i64: return cast_through<From, std::int64_t>(type);
    case DType::boolean: return cast_through<From, bool>(type);
  }
  return nullptr;
}

template <class E>
Kernel find_select(Form form) {
  constexpr Kernel kernels[] = {select_kernel<E, kVV>, select_kernel<E, kVS>, select_kernel<E, kSV>,
                                select_kernel<E, kSS>};
  return kernels[form];
}

}  // namespace

Kernel scalar_map(Elementwise op, RegType type, Form form) {
  switch (type) {
    case RegType::f64: return find_map<double>(op, form);
    case RegType::i32: return find_map<std::int32_t>(op, form);
    case RegType::i64: return find_map<std::int64_t>(op, form);
    case RegType::f32: break;
  }
  return nullptr;
}

Kernel scalar_select(RegType type, Form form) {
  return reg_size(type) == 8 ? find_select<std::int64_t>(form) : find_select<std::int32_t>(form);
}
Kernel scalar_fill(RegType type) { return reg_size(type) == 8 ? fill<std::int64_t> : fill<std::int32_t>; }

Kernel logical_not(RegType type) {
  switch (type) {
    case RegType::f32: return not_kernel<float>;
    case RegType::f64: return not_kernel<double>;
    case RegType::i32: return not_kernel<std::int32_t>;
    case RegType::i64: return not_kernel<std::int64_t>;
  }
  return nullptr;
}

Kernel scalar_cast(RegType from, DType to, RegType type) {
  switch (from) {
    case RegType::f32: return cast_from<float>(to, type);
    case RegType::f64: return cast_from<double>(to, type);
    case RegType::i32: return cast_from<std::int32_t>(to, type);
    case RegType::i64: return cast_from<std::int64_t>(to, type);
  }
  return nullptr;
}

}  // namespace metal_candle::cpu::vm
