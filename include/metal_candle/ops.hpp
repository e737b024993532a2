// The operations. Everything here records and returns at once; shapes and dtypes are checked by the call.
//
//   mc::LazyTensor h = mc::gelu(mc::linear(mc::rms_norm(x, norm), w, bias));
//   mc::LazyTensor loss = mc::mean(mc::square(h - target), {0, 1});
//   mc::Tensor value = loss.eval();                                   // one plan, fused
//
// Binary operations broadcast as numpy does and promote as `promote` says (dtype.hpp). Axes count from either end.
#pragma once

#include <concepts>
#include <initializer_list>
#include <optional>
#include <span>
#include <vector>

#include "metal_candle/lazy_tensor.hpp"
#include "metal_candle/random.hpp"
#include "metal_candle/tensor.hpp"

namespace metal_candle {

// ---- elementwise ---------------------------------------------------------------------------------------------------
#define MC_UNARY(name, ...) LazyTensor name(const LazyTensor& x);
#define MC_BINARY(name, ...)                                 \
  LazyTensor name(const LazyTensor& x, const LazyTensor& z); \
  LazyTensor name(const LazyTensor& x, Scalar z);            \
  LazyTensor name(Scalar x, const LazyTensor& z);
#define MC_COMPARE(name, ...)                                \
  LazyTensor name(const LazyTensor& x, const LazyTensor& z); \
  LazyTensor name(const LazyTensor& x, Scalar z);            \
  LazyTensor name(Scalar x, const LazyTensor& z);
#define MC_LOGIC(name, ...) LazyTensor name(const LazyTensor& x, const LazyTensor& z);
#include "metal_candle/elementwise.def"

LazyTensor operator-(const LazyTensor& x);
#define MC_OPERATOR(symbol)                                             \
  LazyTensor operator symbol(const LazyTensor& x, const LazyTensor& z); \
  LazyTensor operator symbol(const LazyTensor& x, Scalar z);            \
  LazyTensor operator symbol(Scalar x, const LazyTensor& z);
MC_OPERATOR(+)
MC_OPERATOR(-)
MC_OPERATOR(*)
MC_OPERATOR(/)
// Elementwise, like the functions `less`, `less_equal`, ...; equality is `equal` only, since == of handles reads as identity.
MC_OPERATOR(<)
MC_OPERATOR(<=)
MC_OPERATOR(>)
MC_OPERATOR(>=)
#undef MC_OPERATOR
// The handle becomes another tensor's; what the old one named is not written to. A Tensor always has its values, so it
// cannot become one that has not.
#define MC_ASSIGN(symbol)                                               \
  LazyTensor& operator symbol(LazyTensor& x, const LazyTensor& z);      \
  LazyTensor& operator symbol(LazyTensor& x, Scalar z);                 \
  LazyTensor& operator symbol(Tensor& x, const LazyTensor& z) = delete; \
  LazyTensor& operator symbol(Tensor& x, Scalar z) = delete;
MC_ASSIGN(+=)
MC_ASSIGN(-=)
MC_ASSIGN(*=)
MC_ASSIGN(/=)
#undef MC_ASSIGN

/// x to an integer power, which is structure: products for |exponent| <= 4, and for any power of an integer; one below 0
/// is of floats.
LazyTensor powi(const LazyTensor& x, int exponent);
// Exactly int, so that pow(x, 0.5) is not rounded to an integer on its way.
LazyTensor pow(const LazyTensor& x, std::same_as<int> auto exponent) { return powi(x, exponent); }
LazyTensor logical_not(const LazyTensor& x);
LazyTensor is_nan(const LazyTensor& x);
LazyTensor is_inf(const LazyTensor& x);
/// condition ? a : b; the condition is bool (or compared with zero).
LazyTensor where(const LazyTensor& condition, const LazyTensor& a, const LazyTensor& b);
LazyTensor where(const LazyTensor& condition, Scalar a, const LazyTensor& b);
LazyTensor where(const LazyTensor& condition, const LazyTensor& a, Scalar b);
/// min(max(x, low), high). As in PyTorch, no gradient flows where x is at a bound or beyond it.
LazyTensor clamp(const LazyTensor& x, Scalar low, Scalar high);
LazyTensor cast(const LazyTensor& x, DType dtype);
LazyTensor zero_like(const LazyTensor& x);
/// Derivatives of the named derivatives, composed of the table's ops.
LazyTensor second_silu(const LazyTensor& x);
LazyTensor second_gelu(const LazyTensor& x);
LazyTensor second_gelu_tanh(const LazyTensor& x);

// ---- making --------------------------------------------------------------------------------------------------------
LazyTensor zeros(const Shape& shape, DType dtype = DType::f32);
LazyTensor ones(const Shape& shape, DType dtype = DType::f32);
LazyTensor full(const Shape& shape, Scalar value, DType dtype = DType::f32);
/// The index along `axis` of each element.
LazyTensor iota(const Shape& shape, int axis, DType dtype = DType::i32);
LazyTensor arange(std::int64_t end, DType dtype = DType::i64);
/// begin, begin + step, ... up to but without end; the numbers are no slots, since the extent follows from them.
LazyTensor arange(std::int64_t begin, std::int64_t end, std::int64_t step = 1, DType dtype = DType::i64);

// ---- reductions (no axes: all of them) -------------------------------------------------------------------------------
// Sums and products of bools and 8-bit integers are i32, those of i32 and i64 their own type; all wrap.
LazyTensor sum(const LazyTensor& x, const Axes& axes = {}, bool keepdim = false);
LazyTensor mean(const LazyTensor& x, const Axes& axes = {}, bool keepdim = false);
/// Nothing at all has neither: an axis without elements is an error.
LazyTensor max(const LazyTensor& x, const Axes& axes = {}, bool keepdim = false);
LazyTensor min(const LazyTensor& x, const Axes& axes = {}, bool keepdim = false);
LazyTensor prod(const LazyTensor& x, const Axes& axes = {}, bool keepdim = false);
/// Variance with `correction` taken from the count (1: the unbiased estimate).
LazyTensor var(const LazyTensor& x, const Axes& axes = {}, bool keepdim = false, int correction = 1);
LazyTensor logsumexp(const LazyTensor& x, const Axes& axes = {}, bool keepdim = false);
/// Index (i32) of the first largest / smallest element along an axis.
LazyTensor argmax(const LazyTensor& x, int axis, bool keepdim = false);
LazyTensor argmin(const LazyTensor& x, int axis, bool keepdim = false);
/// The same among all elements, counted in row-major order.
LazyTensor argmax(const LazyTensor& x);
LazyTensor argmin(const LazyTensor& x);
/// Running sums; types as those of `sum`.
LazyTensor cumsum(const LazyTensor& x, int axis);

// ---- views: no data moves ----------------------------------------------------------------------------------------------
/// One extent may be -1 and is inferred.
LazyTensor reshape(const LazyTensor& x, std::initializer_list<std::int64_t> dims);
LazyTensor reshape(const LazyTensor& x, std::span<const std::int64_t> dims);
LazyTensor permute(const LazyTensor& x, const Axes& axes);
LazyTensor transpose(const LazyTensor& x, int a = -2, int b = -1);
/// Extents of 1, and axes in front, repeated. An extent of -1 stays as it is.
LazyTensor expand(const LazyTensor& x, std::initializer_list<std::int64_t> dims);
LazyTensor expand(const LazyTensor& x, const Shape& shape);
/// Elements begin, begin+step, ... below end along an axis; negative bounds count from the end and are clipped.
LazyTensor slice(const LazyTensor& x, int axis, std::int64_t begin, std::int64_t end, std::int64_t step = 1);
LazyTensor squeeze(const LazyTensor& x, int axis);
LazyTensor unsqueeze(const LazyTensor& x, int axis);
LazyTensor flatten(const LazyTensor& x, int first = 0, int last = -1);
/// Pieces of the given sizes along an axis; the sizes' sum must be the extent.
std::vector<LazyTensor> split(const LazyTensor& x, const std::vector<std::int64_t>& sizes, int axis);

// ---- moving data -------------------------------------------------------------------------------------------------------
// What is written into a tensor (scatter_add, set_rows, dynamic_update_slice) becomes of its type; floats do not go into
// integers, nor either into bools.
LazyTensor concat(const std::vector<LazyTensor>& parts, int axis);
LazyTensor stack(const std::vector<LazyTensor>& parts, int axis);
/// `before[i]` and `after[i]` elements of `value` around axis i.
LazyTensor pad(const LazyTensor& x, const std::vector<std::int64_t>& before, const std::vector<std::int64_t>& after,
               Scalar value = 0.0);
/// Rows of `table` [v, ...] at integer `indices`: result indices.shape + table.shape[1:]. Negative indices count from
/// the end; one out of range is an error at the wait.
LazyTensor take(const LazyTensor& table, const LazyTensor& indices);
LazyTensor embedding(const LazyTensor& table, const LazyTensor& ids);
/// a[..., indices[...], ...] along `axis`; the other axes of both match. Indices as those of `take`.
LazyTensor take_along_axis(const LazyTensor& a, const LazyTensor& indices, int axis);
/// `base` [v, ...] with updates[i, ...] added to row indices[i], for all i in order; indices as those of `take`.
LazyTensor scatter_add(const LazyTensor& base, const LazyTensor& indices, const LazyTensor& updates);
/// `base` [v, ...] with rows[i] in the place of row indices[i], for all i in order; an index outside of 0..v-1 drops its
/// row. In place when nobody else holds base. Gradients stop here.
LazyTensor set_rows(const LazyTensor& base, const LazyTensor& indices, const LazyTensor& rows);
/// `extent` elements along `axis` from `start` (a 0-d integer, or a number by `scalar`), moved inside if it reaches out.
LazyTensor dynamic_slice(const LazyTensor& x, int axis, const LazyTensor& start, std::int64_t extent);
/// The same from a start that is a number here: a slot, so that another start is not another plan.
LazyTensor dynamic_slice(const LazyTensor& x, int axis, std::int64_t start, std::int64_t extent);
/// `x` with `update` written along `axis` from `start`; in place when nobody else holds x.
LazyTensor dynamic_update_slice(const LazyTensor& x, const LazyTensor& update, int axis, const LazyTensor& start);
LazyTensor dynamic_update_slice(const LazyTensor& x, const LazyTensor& update, int axis, std::int64_t start);
struct Sorted {
  LazyTensor values, indices;  // indices are i32
};
/// Stable; NaN counts as largest.
Sorted sort(const LazyTensor& x, int axis = -1, bool descending = false);
/// The k largest along the last axis, largest first.
Sorted topk(const LazyTensor& x, std::int64_t k);

// ---- products and the ops of language models -----------------------------------------------------------------------------
/// [.., m, k] · [.., k, n]; batch extents broadcast; a 1-d side is a row or a column and its extent disappears. Either
/// side may be a transpose view: nothing is copied. Integers wrap; of i8, u8 and bool the result is i32, as sum's is.
LazyTensor matmul(const LazyTensor& a, const LazyTensor& b);
/// x·w + bias, w [in, out] (a transpose view of [out, in] is as good); bias broadcasts to the product or is undefined.
LazyTensor linear(const LazyTensor& x, const LazyTensor& w, const LazyTensor& bias = {});
/// (x·a)·b·scale, a [in, r], b [r, out]. Added to x·w it becomes part of that product.
LazyTensor lora_fused(const LazyTensor& x, const LazyTensor& a, const LazyTensor& b, Scalar scale);
LazyTensor softmax(const LazyTensor& x, int axis = -1);
LazyTensor log_softmax(const LazyTensor& x, int axis = -1);
/// x / sqrt(mean(x²) + eps) over the last axis, times weight where given.
LazyTensor rms_norm(const LazyTensor& x, double eps = 1e-5);
LazyTensor rms_norm(const LazyTensor& x, const LazyTensor& weight, double eps = 1e-5);
/// (x - mean) / sqrt(variance + eps) over the last axis, times weight and plus bias where given.
LazyTensor layer_norm(const LazyTensor& x, const LazyTensor& weight = {}, const LazyTensor& bias = {},
                      double eps = 1e-5);
/// Rotary embedding of x [.., t, h, d] at positions [t] or [.., t] (integers). Halves are rotated together (HF's
/// layout). inv_freq [d/2] overrides base^(-2i/d). Gradients go to x and to inv_freq.
LazyTensor rope(const LazyTensor& x, const LazyTensor& positions, double base = 10000.0,
                const LazyTensor& inv_freq = {});

struct AttentionOptions {
  double scale = 0;         // 0: 1/sqrt(head width)
  bool causal = true;       // a query sees keys at positions <= its own
  std::int64_t window = 0;  // > 0: and only those nearer than it; before the query and, if not causal, after it
  double softcap = 0;       // > 0: scores become cap·tanh(score/cap)
  // Offsets, lengths and positions are i32 or i64; a key position of more than 31 bits is an error at the wait.
  /// Ragged: queries and keys of several sequences packed one after the other, cut at [s+1] offsets. Without them the
  /// leading axis is one sequence. Of as many keys as queries the offsets need not be said twice.
  LazyTensor query_offsets = {}, key_offsets = {};
  /// Number of keys in use per sequence, [s] (a cache that is not full); default: all between the offsets.
  LazyTensor key_lengths = {};
  /// Position of each query [tq] and key [tk], or [b, t]; default: counted within the sequence, the queries being the
  /// last of the keys.
  LazyTensor query_positions = {}, key_positions = {};
  /// Added to the scores: [h or 1, tq, tk], with [b or 1] in front for [b, t, h, d]; axes that are missing in front or of
  /// extent 1 are repeated. A boolean mask as bias is 0 where it is true, else -inf.
  LazyTensor bias = {};
};
/// softmax(q·kᵀ·scale + …)·v without ever holding the scores. q [tq, h, d], k [tk, hk, d], v [tk, hk, dv] with h a
/// multiple of hk; also [b, t, h, d] for b equally long sequences. A query that sees no key gives zeros. Gradients go to
/// q, k, v and the bias.
LazyTensor attention(const LazyTensor& q, const LazyTensor& k, const LazyTensor& v,
                     const AttentionOptions& options = {});

enum class Reduction { none, mean, sum };
struct CrossEntropyOptions {
  std::int64_t ignore_index = -100;
  double label_smoothing = 0;
  Reduction reduction = Reduction::mean;  // mean: over the targets that are not ignored
};
/// logits [.., v], targets [..] integers; the loss of 16-bit logits is f32. A target that is neither ignored nor a class
/// is an error at the wait. Gradients go to the logits.
LazyTensor cross_entropy(const LazyTensor& logits, const LazyTensor& targets, const CrossEntropyOptions& options = {});
/// cross_entropy(x·w, targets) without ever holding the logits, but for derivatives of its gradient. x [.., d], w [d, v],
/// targets [..]. Gradients go to x and w.
LazyTensor linear_cross_entropy(const LazyTensor& x, const LazyTensor& w, const LazyTensor& targets,
                                const CrossEntropyOptions& options = {});

}  // namespace metal_candle
