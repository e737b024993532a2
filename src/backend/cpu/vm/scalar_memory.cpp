// Loads and stores of any dtype, stride and gather; reductions of f64, i32 and i64; index values.
//
// These walk the addresses of KAccess literally, a row at a time. The common case of a contiguous array whose elements
// are what registers hold does not come here: kernels take such operands straight from memory.
#include <cstring>

#include "backend/cpu/bad_index.h"
#include "backend/cpu/vm/instr.h"
#include "backend/cpu/vm/scalar.h"

namespace metal_candle::cpu::vm {
namespace {

/// The address of one row after the other, without a division a row.
class RowWalk {
 public:
  RowWalk(const Access& a, std::int64_t row) : a_(a), at_(a.offset) {
    for (int d = a.dims - 1; d >= 0; --d) {
      index_[d] = row % a.extents[d];
      row /= a.extents[d];
      at_ += index_[d] * a.strides[d];
    }
  }
  std::int64_t offset() const { return at_; }
  void next() {
    for (int d = a_.dims - 1; d >= 0; --d) {
      at_ += a_.strides[d];
      if (++index_[d] < a_.extents[d]) return;
      at_ -= a_.extents[d] * a_.strides[d];
      index_[d] = 0;
    }
  }

 private:
  const Access& a_;
  std::int64_t at_;
  std::int64_t index_[kMaxDims];
};

/// Elements to add for a gathered index; false when it is out of range.
bool gathered(const Access& a, const void* indices, std::int64_t i, const Frame& f, std::int64_t& add) {
  const std::int64_t given =
      a.gather64 ? static_cast<const std::int64_t*>(indices)[i] : static_cast<const std::int32_t*>(indices)[i];
  const std::int64_t index = given < 0 ? given + a.gather_extent : given;
  const bool good = index >= 0 && index < a.gather_extent;
  if (!good && f.bad_index && f.bad_index->extent < 0) *f.bad_index = {given, a.gather_extent};
  add = good ? index * a.gather_stride : 0;
  return good;
}

template <class M, class E>
E widen(M x) {
  if constexpr (std::is_same_v<M, bf16> || std::is_same_v<M, f16>) return convert<E>(static_cast<float>(x));
  else if constexpr (std::is_same_v<M, bool>) return E(x ? 1 : 0);
  else return convert<E>(x);
}
template <class E, class M>
M narrow(E x) {
  if constexpr (std::is_same_v<M, bf16> || std::is_same_v<M, f16>) return M(convert<float>(x));
  else return convert<M>(x);
}

template <class M, class E>
void load_row(const M* from, std::int64_t stride, E* out, int n) {
  if (stride == 1) {
    if constexpr (std::is_same_v<M, E>) {
      // Line by line: what a library does for long copies waits for all of a row that is not near, and the core with it.
      constexpr int kLine = 64 / sizeof(E);
      int c = 0;
      for (; c + kLine <= n; c += kLine) std::memcpy(out + c, from + c, 64);
      for (; c < n; ++c) out[c] = from[c];
    } else {
      for (int c = 0; c < n; ++c) out[c] = widen<M, E>(from[c]);
    }
  } else {
    for (int c = 0; c < n; ++c) out[c] = widen<M, E>(from[c * stride]);
  }
}

template <class M, class E>
void load_full(const Instr& in, const Frame& f) {
  const Access& a = in.extra->access;
  E* out = at<E>(in.out, f);
  const M* base = static_cast<const M*>(f.buffers[a.buffer]);
  const char* index = at<const char>(in.b, f);
  const auto index_pitch = pitch(in.b, f);
  RowWalk row(a, f.row0);
  for (int r = 0; r < f.rows; ++r, row.next(), index += index_pitch, out = step(out, pitch(in.out, f))) {
    std::int64_t offset = row.offset() + f.col0 * a.col_stride, add = 0;
    if (a.gather == Access::kByElement) {
      for (int c = 0; c < f.cols; ++c) {
        // Out of range reads element 0 of the gathered extent; with no extent at all there is nothing to read.
        const bool good = gathered(a, index, c, f, add);
        out[c] = good || a.gather_extent > 0 ? widen<M, E>(base[offset + c * a.col_stride + add]) : E(0);
      }
      continue;
    }
    if (a.gather == Access::kByRow && !gathered(a, index, 0, f, add) && a.gather_extent <= 0) {
      std::fill(out, out + f.cols, E(0));
      continue;
    }
    load_row(base + offset + add, a.col_stride, out, f.cols);
  }
}

/// One element a row, rows lie along the columns of the frame.
template <class M, class E>
void load_rows(const Instr& in, const Frame& f) {
  const Access& a = in.extra->access;
  E* out = at<E>(in.out, f);
  const M* base = static_cast<const M*>(f.buffers[a.buffer]);
  const void* index = at<const void*>(in.b, f);
  RowWalk row(a, f.row0);
  for (int r = 0; r < f.cols; ++r, row.next()) {
    std::int64_t add = 0;
    const bool good = a.gather == Access::kNone || gathered(a, index, in.extra->step_b ? r : 0, f, add);
    out[r] = good || a.gather_extent > 0 ? widen<M, E>(base[row.offset() + add]) : E(0);
  }
}

template <class E, class M>
void store_full(const Instr& in, const Frame& f) {
  const Access& a = in.extra->access;
  const E* from = at<const E>(in.a, f);
  M* base = static_cast<M*>(f.buffers[a.buffer]);
  const char* index = at<const char>(in.b, f);
  const auto index_pitch = pitch(in.b, f);
  RowWalk row(a, f.row0);
  for (int r = 0; r < f.rows; ++r, row.next(), index += index_pitch, from = step(from, pitch(in.a, f))) {
    const std::int64_t offset = row.offset() + f.col0 * a.col_stride;
    std::int64_t add = 0;
    if (a.gather == Access::kByElement) {
      for (int c = 0; c < f.cols; ++c) {
        if (gathered(a, index, c, f, add)) base[offset + c * a.col_stride + add] = narrow<E, M>(from[c]);
      }
      continue;
    }
    if (a.gather == Access::kByRow && !gathered(a, index, 0, f, add)) continue;
    M* to = base + offset + add;
    if (a.col_stride == 1) {
      for (int c = 0; c < f.cols; ++c) to[c] = narrow<E, M>(from[c]);
    } else {
      for (int c = 0; c < f.cols; ++c) to[c * a.col_stride] = narrow<E, M>(from[c]);
    }
  }
}

template <class E, class M>
void store_rows(const Instr& in, const Frame& f) {
  const Access& a = in.extra->access;
  const E* from = at<const E>(in.a, f);
  M* base = static_cast<M*>(f.buffers[a.buffer]);
  const void* index = at<const void*>(in.b, f);
  RowWalk row(a, f.row0);
  for (int r = 0; r < f.cols; ++r, row.next()) {
    std::int64_t add = 0;
    if (a.gather != Access::kNone && !gathered(a, index, in.extra->step_b ? r : 0, f, add)) continue;
    base[row.offset() + add] = narrow<E, M>(from[in.extra->step_a ? r : 0]);
  }
}

// Reductions: eight accumulators, element i goes to number i mod 8; joined in order at the end of the row.
constexpr int kWays = 8;

template <class E>
struct Sum {
  static constexpr E identity = 0;
  static E join(E a, E b) { return (Lane<E>(a) + Lane<E>(b)).v; }
};
template <class E>
struct Prod {
  static constexpr E identity = 1;
  static E join(E a, E b) { return (Lane<E>(a) * Lane<E>(b)).v; }
};
template <class E>
struct Max {
  static constexpr E identity = Lane<E>::kFloat ? -std::numeric_limits<E>::infinity() : std::numeric_limits<E>::min();
  static E join(E a, E b) { return max(Lane<E>(a), Lane<E>(b)).v; }
};
template <class E>
struct Min {
  static constexpr E identity = Lane<E>::kFloat ? std::numeric_limits<E>::infinity() : std::numeric_limits<E>::max();
  static E join(E a, E b) { return min(Lane<E>(a), Lane<E>(b)).v; }
};

template <class R, class E>
void reduce(const Instr& in, const Frame& f) {
  const E* a = at<const E>(in.a, f);
  E *state = at<E>(in.b, f), *out = at<E>(in.out, f);
  for (int r = 0; r < f.rows; ++r) {
    if (f.col0 == 0) std::fill(state, state + kWays, R::identity);
    for (int c = 0; c < f.cols; ++c) {
      E& acc = state[(f.col0 + c) % kWays];
      acc = R::join(acc, a[c]);
    }
    if (f.col0 + f.cols == f.stage_cols) {
      E total = state[0];
      for (int i = 1; i < kWays; ++i) total = R::join(total, state[i]);
      *out = total;
    }
    a = step(a, pitch(in.a, f));
    state = step(state, kReduceState);
    out = step(out, pitch(in.out, f));
  }
}

template <class E, bool kMax>
void arg_reduce(const Instr& in, const Frame& f) {
  const E* a = at<const E>(in.a, f);
  char* state = at<char>(in.b, f);
  std::int32_t* out = at<std::int32_t>(in.out, f);
  for (int r = 0; r < f.rows; ++r) {
    E best = 0;
    std::int64_t where = -1;
    if (f.col0 > 0) {
      std::memcpy(&best, state, sizeof best);
      std::memcpy(&where, state + 8, sizeof where);
    }
    for (int c = 0; c < f.cols; ++c) {
      const bool better = kMax ? a[c] > best : a[c] < best;
      if (where < 0 || (best == best && (better || a[c] != a[c]))) best = a[c], where = f.col0 + c;
    }
    std::memcpy(state, &best, sizeof best);
    std::memcpy(state + 8, &where, sizeof where);
    if (f.col0 + f.cols == f.stage_cols) *out = where < 0 ? 0 : static_cast<std::int32_t>(where);
    a = step(a, pitch(in.a, f));
    state += kReduceState;
    out = step(out, pitch(in.out, f));
  }
}

template <class R, class E>
void accumulate(const Instr& in, const Frame& f) {
  const E* a = at<const E>(in.a, f);
  E* out = at<E>(in.out, f);
  for (int r = 0; r < f.rows; ++r, a = step(a, pitch(in.a, f))) {
    for (int c = 0; c < f.cols; ++c) out[c] = R::join(out[c], a[c]);
  }
}

template <class E>
Kernel find_reduce(Reduce op) {
  switch (op) {
    case Reduce::sum: return reduce<Sum<E>, E>;
    case Reduce::max: return reduce<Max<E>, E>;
    case Reduce::min: return reduce<Min<E>, E>;
    case Reduce::prod: return reduce<Prod<E>, E>;
    case Reduce::argmax: return arg_reduce<E, true>;
    case Reduce::argmin: return arg_reduce<E, false>;
    case Reduce::kCount: break;
  }
  return nullptr;
}
template <class E>
Kernel find_accumulate(Reduce op) {
  switch (op) {
    case Reduce::sum: return accumulate<Sum<E>, E>;
    case Reduce::max: return accumulate<Max<E>, E>;
    case Reduce::min: return accumulate<Min<E>, E>;
    case Reduce::prod: return accumulate<Prod<E>, E>;
    default: return nullptr;
  }
}

void row_index_kernel(const Instr& in, const Frame& f) {
  std::int64_t* out = at<std::int64_t>(in.out, f);
  for (int r = 0; r < f.cols; ++r) out[r] = (f.row0 + r) / in.extra->imm0 % in.extra->imm1;
}
void col_index_kernel(const Instr& in, const Frame& f) {
  std::int64_t* out = at<std::int64_t>(in.out, f);
  for (int r = 0; r < f.rows; ++r, out = step(out, pitch(in.out, f))) {
    for (int c = 0; c < f.cols; ++c) out[c] = f.col0 + c;
  }
}

template <class E>
Kernel find_load(DType dtype, bool row) {
  switch (dtype) {
    case DType::f32: return row ? load_rows<float, E> : load_full<float, E>;
    case DType::f64: return row ? load_rows<double, E> : load_full<double, E>;
    case DType::f16: return row ? load_rows<f16, E> : load_full<f16, E>;
    case DType::bf16: return row ? load_rows<bf16, E> : load_full<bf16, E>;
    case DType::i8: return row ? load_rows<std::int8_t, E> : load_full<std::int8_t, E>;
    case DType::u8: return row ? load_rows<std::uint8_t, E> : load_full<std::uint8_t, E>;
    case DType::i32: return row ? load_rows<std::int32_t, E> : load_full<std::int32_t, E>;
    case DType::i64: return row ? load_rows<std::int64_t, E> : load_full<std::int64_t, E>;
    case DType::boolean: return row ? load_rows<bool, E> : load_full<bool, E>;
  }
  return nullptr;
}
template <class E>
Kernel find_store(DType dtype, bool row) {
  switch (dtype) {
    case DType::f32: return row ? store_rows<E, float> : store_full<E, float>;
    case DType::f64: return row ? store_rows<E, double> : store_full<E, double>;
    case DType::f16: return row ? store_rows<E, f16> : store_full<E, f16>;
    case DType::bf16: return row ? store_rows<E, bf16> : store_full<E, bf16>;
    case DType::i8: return row ? store_rows<E, std::int8_t> : store_full<E, std::int8_t>;
    case DType::u8: return row ? store_rows<E, std::uint8_t> : store_full<E, std::uint8_t>;
    case DType::i32: return row ? store_rows<E, std::int32_t> : store_full<E, std::int32_t>;
    case DType::i64: return row ? store_rows<E, std::int64_t> : store_full<E, std::int64_t>;
    case DType::boolean: return row ? store_rows<E, bool> : store_full<E, bool>;
  }
  return nullptr;
}

template <class E>
void store_dense_from(const E* from, DType dtype, void* to, std::int64_t n) {
  const auto put = [&]<class M>(M* out) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = narrow<E, M>(from[i]);
  };
  switch (dtype) {
    case DType::f32: return put(static_cast<float*>(to));
    case DType::f64: return put(static_cast<double*>(to));
    case DType::f16: return put(static_cast<f16*>(to));
    case DType::bf16: return put(static_cast<bf16*>(to));
    case DType::i8: return put(static_cast<std::int8_t*>(to));
    case DType::u8: return put(static_cast<std::uint8_t*>(to));
    case DType::i32: return put(static_cast<std::int32_t*>(to));
    case DType::i64: return put(static_cast<std::int64_t*>(to));
    case DType::boolean: return put(static_cast<bool*>(to));
  }
}

}  // namespace

void store_dense(RegType type, const void* from, DType dtype, void* to, std::int64_t n) {
  switch (type) {
    case RegType::f32: return store_dense_from(static_cast<const float*>(from), dtype, to, n);
    case RegType::f64: return store_dense_from(static_cast<const double*>(from), dtype, to, n);
    case RegType::i32: return store_dense_from(static_cast<const std::int32_t*>(from), dtype, to, n);
    case RegType::i64: return store_dense_from(static_cast<const std::int64_t*>(from), dtype, to, n);
  }
}

Kernel any_load(DType dtype, RegType type, bool row) {
  switch (type) {
    case RegType::f32: return find_load<float>(dtype, row);
    case RegType::f64: return find_load<double>(dtype, row);
    case RegType::i32: return find_load<std::int32_t>(dtype, row);
    case RegType::i64: return find_load<std::int64_t>(dtype, row);
  }
  return nullptr;
}
Kernel any_store(RegType type, DType dtype, bool row) {
  switch (type) {
    case RegType::f32: return find_store<float>(dtype, row);
    case RegType::f64: return find_store<double>(dtype, row);
    case RegType::i32: return find_store<std::int32_t>(dtype, row);
    case RegType::i64: return find_store<std::int64_t>(dtype, row);
  }
  return nullptr;
}
Kernel scalar_reduce(Reduce op, RegType type) {
  switch (type) {
    case RegType::f32: return find_reduce<float>(op);
    case RegType::f64: return find_reduce<double>(op);
    case RegType::i32: return find_reduce<std::int32_t>(op);
    case RegType::i64: return find_reduce<std::int64_t>(op);
  }
  return nullptr;
}
Kernel scalar_accumulate(Reduce op, RegType type) {
  switch (type) {
    case RegType::f32: return find_accumulate<float>(op);
    case RegType::f64: return find_accumulate<double>(op);
    case RegType::i32: return find_accumulate<std::int32_t>(op);
    case RegType::i64: return find_accumulate<std::int64_t>(op);
  }
  return nullptr;
}
Kernel row_index() { return row_index_kernel; }
Kernel col_index() { return col_index_kernel; }

}  // namespace metal_candle::cpu::vm
