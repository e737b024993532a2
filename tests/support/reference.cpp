#include "tests/support/reference.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <unordered_map>

#include "graph/node.h"
#include "metal_candle/op_def.hpp"
#include "metal_candle/tensor.hpp"
#include "ops/table.h"

namespace metal_candle::test {
namespace {

using Values = std::vector<double>;

/// An array being evaluated.
struct Array {
  Shape shape;
  DType dtype;
  Values values;
};

// ---- the bodies of elementwise.def over doubles -------------------------------------------------------------------

namespace body {
using std::abs, std::ceil, std::cos, std::erf, std::exp, std::expm1, std::floor, std::fma, std::log, std::log1p,
    std::pow, std::sin, std::sqrt, std::tanh;
double max(double a, double b) { return std::isnan(a) || a > b ? a : b; }
double min(double a, double b) { return std::isnan(a) || a < b ? a : b; }
double round(double x) { return std::nearbyint(x); }
double rsqrt(double x) { return 1 / std::sqrt(x); }
double sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }
double select(bool c, double a, double b) { return c ? a : b; }
double silu_grad(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }
double gelu_tanh_grad(double x) {
  const double b = 0.07135481627260025, a = 1.5957691216057308, s = sigmoid(x * (a + b * x * x));
  return s + x * s * (1 - s) * (a + 3 * b * x * x);
}

using T = double;
double apply(Elementwise op, [[maybe_unused]] T x, [[maybe_unused]] T z) {
  // clang-format off
  switch (op) {
#define MC_UNARY(name, domain, cost, formula, ...) case Elementwise::name: return formula;
#define MC_BINARY(name, domain, cost, formula, ...) case Elementwise::name: return formula;
#define MC_COMPARE(name, formula) case Elementwise::name: return formula;
#include "metal_candle/elementwise.def"
    case Elementwise::logical_and: return x != 0 && z != 0;
    case Elementwise::logical_or: return x != 0 || z != 0;
    case Elementwise::logical_xor: return (x != 0) != (z != 0);
    case Elementwise::kCount: break;
  }
  // clang-format on
  throw std::logic_error("no such elementwise op");
}
}  // namespace body

// ---- places -------------------------------------------------------------------------------------------------------

using Index = std::vector<std::int64_t>;

Index index_of(std::int64_t place, const Shape& shape) {
  Index index(static_cast<std::size_t>(shape.rank()));
  for (int i = shape.rank() - 1; i >= 0; --i) {
    index[static_cast<std::size_t>(i)] = place % shape[i];
    place /= shape[i];
  }
  return index;
}
std::size_t place_of(const Index& index, const Shape& shape) {
  std::int64_t place = 0;
  for (int i = 0; i < shape.rank(); ++i) place = place * shape[i] + index[static_cast<std::size_t>(i)];
  return static_cast<std::size_t>(place);
}
/// The element of `a` that broadcasting puts at `index`.
double broadcast_at(const Array& a, const Index& index) {
  Index own(index.end() - a.shape.rank(), index.end());
  for (int i = 0; i < a.shape.rank(); ++i)
    if (a.shape[i] == 1) own[static_cast<std::size_t>(i)] = 0;
  return a.values[place_of(own, a.shape)];
}
/// Fills `out` from the index of each element.
template <class F>
void fill(Array& out, F f) {
  out.values.resize(static_cast<std::size_t>(out.shape.numel()));
  for (std::size_t p = 0; p < out.values.size(); ++p)
    out.values[p] = f(index_of(static_cast<std::int64_t>(p), out.shape));
}

std::int64_t wrapped(double index, std::int64_t extent) {
  const auto i = static_cast<std::int64_t>(index);
  const std::int64_t from_front = i < 0 ? i + extent : i;
  if (from_front < 0 || from_front >= extent) throw std::out_of_range("an index is out of range");
  return from_front;
}

// ---- ops ----------------------------------------------------------------------------------------------------------

struct Call {
  const OpDef& op;
  const Attrs& attrs;
  std::vector<const Array*> in;
  int attr(int i) const { return static_cast<int>(attrs[i]); }
};

double converted(double v, DType to) {
  switch (to) {
    case DType::f32: return static_cast<float>(v);
    case DType::f16: return static_cast<float>(f16(static_cast<float>(v)));
    case DType::bf16: return static_cast<float>(bf16(static_cast<float>(v)));
    case DType::boolean: return v != 0;
    case DType::f64: return v;
    case DType::i8: return static_cast<std::int8_t>(static_cast<std::int64_t>(v));
    case DType::u8: return static_cast<std::uint8_t>(static_cast<std::int64_t>(v));
    case DType::i32: return static_cast<std::int32_t>(static_cast<std::int64_t>(v));
    default: return std::trunc(v);
  }
}

void elementwise(const Call& c, Array& out) {
  const auto in = [&](std::size_t i, const Index& at) { return broadcast_at(*c.in[i], at); };
  switch (c.op.code) {
    case ops::kWhere: return fill(out, [&](const Index& at) { return in(0, at) != 0 ? in(1, at) : in(2, at); });
    case ops::kLogicalNot: return fill(out, [&](const Index& at) { return in(0, at) == 0; });
    case ops::kCast: return fill(out, [&](const Index& at) { return converted(in(0, at), out.dtype); });
    case ops::kFull: return fill(out, [&](const Index& at) { return converted(in(0, at), out.dtype); });
    case ops::kIota: return fill(out, [&](const Index& at) { return at[static_cast<std::size_t>(c.attr(1))]; });
    case ops::kIdentity: return fill(out, [&](const Index& at) { return in(0, at); });
    default: break;
  }
  if (c.op.code >= static_cast<int>(Elementwise::kCount)) throw std::logic_error("no reference for a random op");
  fill(out, [&](const Index& at) {
    return body::apply(static_cast<Elementwise>(c.op.code), in(0, at), c.in.size() > 1 ? in(1, at) : 0);
  });
}

double lowest_of(DType dtype) {
  if (is_float(dtype)) return -std::numeric_limits<double>::infinity();
  switch (dtype) {
    case DType::i8: return std::numeric_limits<std::int8_t>::min();
    case DType::i32: return std::numeric_limits<std::int32_t>::min();
    case DType::i64: return static_cast<double>(std::numeric_limits<std::int64_t>::min());
    default: return 0;
  }
}

double reduce_row(std::uint16_t code, const Values& row, DType dtype) {
  const auto larger = [](double a, double b) { return std::isnan(b) ? false : std::isnan(a) || a > b; };
  const auto smaller = [](double a, double b) { return std::isnan(b) ? false : std::isnan(a) || a < b; };
  std::size_t best = 0;
  switch (code) {
    case ops::kSum: return std::accumulate(row.begin(), row.end(), 0.0);
    case ops::kProd: return std::accumulate(row.begin(), row.end(), 1.0, std::multiplies<>());
    case ops::kMax:
    case ops::kArgMax:
      for (std::size_t i = 1; i < row.size(); ++i) best = larger(row[i], row[best]) ? i : best;
      break;
    default:
      for (std::size_t i = 1; i < row.size(); ++i) best = smaller(row[i], row[best]) ? i : best;
  }
  if (code == ops::kArgMax || code == ops::kArgMin) return static_cast<double>(best);
  if (row.empty()) return code == ops::kMax ? lowest_of(dtype) : -lowest_of(dtype);
  return row[best];
}

void reduce(const Call& c, Array& out) {
  const Array& x = *c.in[0];
  std::vector<Values> rows(static_cast<std::size_t>(out.shape.numel()));
  for (std::size_t p = 0; p < x.values.size(); ++p) {
    Index at = index_of(static_cast<std::int64_t>(p), x.shape);
    for (const std::int64_t axis : c.attrs.values()) at[static_cast<std::size_t>(axis)] = 0;
    rows[place_of(at, out.shape)].push_back(x.values[p]);
  }
  for (const Values& row : rows) out.values.push_back(reduce_row(c.op.code, row, x.dtype));
}

void view(const Call& c, Array& out) {
  const Array& x = *c.in[0];
  const std::size_t rank = static_cast<std::size_t>(x.shape.rank());
  switch (c.op.code) {
    case ops::kReshape: out.values = x.values; return;
    case ops::kExpand: return fill(out, [&](const Index& at) { return broadcast_at(x, at); });
    case ops::kPermute:
      return fill(out, [&](const Index& at) {
        Index from(rank);
        for (std::size_t i = 0; i < rank; ++i) from[static_cast<std::size_t>(c.attrs[static_cast<int>(i)])] = at[i];
        return x.values[place_of(from, x.shape)];
      });
    default:
      return fill(out, [&](const Index& at) {
        Index from(rank);
        for (std::size_t i = 0; i < rank; ++i)
          from[i] = c.attrs[static_cast<int>(i)] + at[i] * c.attrs[static_cast<int>(rank + i)];
        return x.values[place_of(from, x.shape)];
      });
  }
}

void gather(const Call& c, Array& out) {
  const Array &x = *c.in[0], &indices = *c.in[1];
  fill(out, [&](const Index& at) {
    if (c.op.code == ops::kTakeAlongAxis) {
      Index from = at;
      const auto axis = static_cast<std::size_t>(c.attr(0));
      from[axis] = wrapped(indices.values[place_of(at, indices.shape)], x.shape[c.attr(0)]);
      return x.values[place_of(from, x.shape)];
    }
    const auto split = at.begin() + indices.shape.rank();
    Index from{wrapped(indices.values[place_of(Index(at.begin(), split), indices.shape)], x.shape[0])};
    from.insert(from.end(), split, at.end());
    return x.values[place_of(from, x.shape)];
  });
}

void matmul(const Call& c, Array& out) {
  const Array &a = *c.in[0], &b = *c.in[1];
  const std::int64_t depth = a.shape[a.shape.rank() - 1];
  fill(out, [&](const Index& at) {
    Index left = at, right = at;
    double sum = 0;
    for (std::int64_t k = 0; k < depth; ++k) {
      left.back() = k;
      right[right.size() - 2] = k;
      sum += broadcast_at(a, left) * broadcast_at(b, right);
    }
    return sum;
  });
}

// ---- ops that only move data --------------------------------------------------------------------------------------

void concat(const Call& c, Array& out) {
  const auto axis = static_cast<std::size_t>(c.attr(0));
  fill(out, [&](Index at) {
    std::size_t part = 0;
    while (at[axis] >= c.in[part]->shape[c.attr(0)]) at[axis] -= c.in[part++]->shape[c.attr(0)];
    return c.in[part]->values[place_of(at, c.in[part]->shape)];
  });
}

void pad(const Call& c, Array& out) {
  const Array& x = *c.in[0];
  fill(out, [&](Index at) {
    for (int i = 0; i < x.shape.rank(); ++i) {
      std::int64_t& e = at[static_cast<std::size_t>(i)];
      e -= c.attrs[i];
      if (e < 0 || e >= x.shape[i]) return c.in[1]->values[0];
    }
    return x.values[place_of(at, x.shape)];
  });
}

void scatter_add(const Call& c, Array& out) {
  const Array &base = *c.in[0], &indices = *c.in[1], &updates = *c.in[2];
  out.values = base.values;
  const std::size_t width = base.shape[0] ? base.values.size() / static_cast<std::size_t>(base.shape[0]) : 0;
  for (std::size_t i = 0; i < indices.values.size(); ++i) {
    const auto row = static_cast<std::size_t>(wrapped(indices.values[i], base.shape[0]));
    for (std::size_t j = 0; j < width; ++j) out.values[row * width + j] += updates.values[i * width + j];
  }
}

void set_rows(const Call& c, Array& out) {
  const Array &base = *c.in[0], &indices = *c.in[1], &rows = *c.in[2];
  out.values = base.values;
  const std::size_t width = base.shape[0] ? base.values.size() / static_cast<std::size_t>(base.shape[0]) : 0;
  for (std::size_t i = 0; i < indices.values.size(); ++i) {
    const double row = indices.values[i];
    if (row < 0 || row >= static_cast<double>(base.shape[0])) continue;
    for (std::size_t j = 0; j < width; ++j)
      out.values[static_cast<std::size_t>(row) * width + j] = rows.values[i * width + j];
  }
}

void cumsum(const Call& c, Array& out) {  // {axis, from the end?}
  const Array& x = *c.in[0];
  const auto axis = static_cast<std::size_t>(c.attr(0));
  fill(out, [&](Index at) {
    const std::int64_t here = at[axis], n = x.shape[c.attr(0)];
    double sum = 0;
    for (std::int64_t i = c.attr(1) ? here : 0; i < (c.attr(1) ? n : here + 1); ++i) {
      at[axis] = i;
      sum += x.values[place_of(at, x.shape)];
    }
    return sum;
  });
}

/// The order of a line of `x` along `axis` through `at`.
std::vector<std::int64_t> sorted_line(const Array& x, Index at, int axis, bool descending) {
  Values line;
  for (std::int64_t i = 0; i < x.shape[axis]; ++i) {
    at[static_cast<std::size_t>(axis)] = i;
    line.push_back(x.values[place_of(at, x.shape)]);
  }
  std::vector<std::int64_t> order(line.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) {
    const double a = line[static_cast<std::size_t>(i)], b = line[static_cast<std::size_t>(j)];
    const auto less = [](double p, double q) { return std::isnan(q) ? !std::isnan(p) : p < q; };
    return descending ? less(b, a) : less(a, b);
  });
  return order;
}

void sort(const Call& c, bool top, std::vector<Array>& out) {
  const Array& x = *c.in[0];
  const int axis = top ? x.shape.rank() - 1 : c.attr(0);
  const bool descending = top || c.attr(1) != 0;
  fill(out[1], [&](const Index& at) {
    return static_cast<double>(
        sorted_line(x, at, axis, descending)[static_cast<std::size_t>(at[static_cast<std::size_t>(axis)])]);
  });
  fill(out[0], [&](Index at) {
    at[static_cast<std::size_t>(axis)] = static_cast<std::int64_t>(out[1].values[place_of(at, out[1].shape)]);
    return x.values[place_of(at, x.shape)];
  });
}

// ---- the walk -----------------------------------------------------------------------------------------------------

class Evaluation {
 public:
  const std::vector<Array>& of(const LazyTensor& root) {
    std::vector<Node*> path{root.node()};
    held_.push_back(root);
    while (!path.empty()) {
      Node* node = path.back();
      const std::size_t before = path.size();
      if (!done_.contains(node))
        for (int i = 0; i < node->input_count; ++i)
          if (Node* in = node->input(i).load(); in && !done_.contains(in)) path.push_back(in);
      if (path.size() != before) continue;
      path.pop_back();
      if (!done_.contains(node)) done_.emplace(node, compute(node));
    }
    return done_.at(root.node());
  }

 private:
  static std::vector<Array> data(Node* node) {
    return {{node->shape, node->dtype, Tensor(LazyTensor::share(node)).to_f64()}};
  }
  static Array number(Node* node) {
    const bool whole = node->scalar_flags & Node::kScalarInt;
    return {Shape{}, node->dtype, {whole ? static_cast<double>(node->scalar_i) : node->scalar_f}};
  }

  std::vector<Array> compute(Node* node) {
    if (node->op->kind == OpKind::scalar) return {number(node)};
    bool any = node->input_count == 0 && node->op->kind != OpKind::leaf;
    for (int i = 0; i < node->input_count; ++i) any |= node->input(i).load() != nullptr;
    if (!any) return data(node);
    if (node->op->kind == OpKind::output)
      return {done_.at(node->input(0).load())[static_cast<std::size_t>(node->attributes()[0])]};
    if (node->op->decompose) return decomposed(node);

    const Array own_number = node->scalar_flags & Node::kScalarOperand ? number(node) : Array{};
    Call call{*node->op, node->attributes(), {}};
    for (int i = 0; i < node->input_count; ++i) {
      Node* in = node->input(i).load();
      call.in.push_back(in ? &done_.at(in)[0] : &own_number);
    }
    std::vector<Array> out{{node->shape, node->dtype, {}}};
    run(call, out);
    return out;
  }

  std::vector<Array> decomposed(Node* node) {
    const LiteralScope literal;
    Tensors inputs;
    for (int i = 0; i < node->input_count; ++i) inputs.push_back(LazyTensor::share(node->input(i).load()));
    std::vector<Array> out;
    for (const LazyTensor& y : node->op->decompose({*node->op, inputs, node->attributes()})) out.push_back(of(y)[0]);
    return out;
  }

  static void run(const Call& c, std::vector<Array>& out) {
    switch (c.op.kind) {
      case OpKind::elementwise: return elementwise(c, out[0]);
      case OpKind::reduce: return reduce(c, out[0]);
      case OpKind::view: return view(c, out[0]);
      case OpKind::gather: return gather(c, out[0]);
      case OpKind::matmul: return matmul(c, out[0]);
      default: break;
    }
    if (&c.op == &ops::concat_def) return concat(c, out[0]);
    if (&c.op == &ops::pad_def) return pad(c, out[0]);
    if (&c.op == &ops::scatter_add_def) return scatter_add(c, out[0]);
    if (&c.op == &ops::set_rows_def) return set_rows(c, out[0]);
    if (&c.op == &ops::cumsum_def) return cumsum(c, out[0]);
    if (&c.op == &ops::sort_def || &c.op == &ops::topk_def) {
      Shape shape = c.in[0]->shape;
      if (&c.op == &ops::topk_def) shape[shape.rank() - 1] = c.attrs[0];
      out.assign(2, {shape, c.in[0]->dtype, {}});
      return sort(c, &c.op == &ops::topk_def, out);
    }
    throw std::logic_error("no reference for " + std::string(c.op.name));
  }

  std::unordered_map<Node*, std::vector<Array>> done_;
  std::vector<LazyTensor> held_;
};

}  // namespace

std::vector<double> reference(const LazyTensor& tensor) { return Evaluation().of(tensor)[0].values; }

}  // namespace metal_candle::test
