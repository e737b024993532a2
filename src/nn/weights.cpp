// Weights: a base tree shared by all copies, and beside it what an adapter adds or replaces.
#include <fmt/format.h>

#include "metal_candle/error.hpp"
#include "metal_candle/nn.hpp"

namespace metal_candle::nn {
namespace {

std::string joined(std::string_view module, std::string_view leaf) {
  std::string path;
  path.reserve(module.size() + leaf.size());
  path.append(module).append(leaf);
  return path;
}

LazyTensor as_type(const LazyTensor& x, DType dtype) { return x.dtype() == dtype ? x : cast(x, dtype); }

[[noreturn]] void fail(const std::string& why, ErrorKind kind = ErrorKind::argument) {
  throw UserError(kind, fmt::format("weights: {}", why));
}

/// FNV-1a: a module's own number, the same in every run.
std::uint64_t number_of(std::string_view module) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : module) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

/// A linear layer's weight is [out, in], an embedding's [vocabulary, width]: the term's outer extents in either order.
bool fits(const LoraTerm& term, const Shape& weight) {
  if (term.a.rank() != 2 || term.b.rank() != 2 || weight.rank() != 2 || term.a.dim(0) != term.b.dim(1)) return false;
  const std::int64_t in = term.a.dim(1), out = term.b.dim(0);
  return (weight[0] == out && weight[1] == in) || (weight[0] == in && weight[1] == out);
}

}  // namespace

Weights::Weights(const ParamTree& base) {
  auto map = std::make_shared<Map<LazyTensor>>();
  map->reserve(base.size());
  for (const auto& [path, tensor] : base) map->emplace(path, tensor);
  base_ = std::move(map);
}

Weights& Weights::adapt(std::string_view module, LoraTerm term) {
  if (!term.a.defined() || !term.b.defined()) fail(fmt::format("a term for \"{}\" has an empty tensor", module));
  const Shape& weight = (*this)[joined(module, ".weight")].shape();
  if (!fits(term, weight))
    fail(fmt::format("a term of a {}, b {} for \"{}\", whose weight is {}", term.a.shape().str(), term.b.shape().str(),
                     module, weight.str()),
         ErrorKind::shape);
  auto it = terms_.find(module);
  if (it == terms_.end()) it = terms_.emplace(std::string(module), std::vector<LoraTerm>{}).first;
  it->second.push_back(std::move(term));
  return *this;
}

Weights& Weights::replace(std::string_view path, LazyTensor tensor) {
  if (!tensor.defined()) fail(fmt::format("an empty tensor for \"{}\"", path));
  const Shape& shape = (*this)[path].shape();
  if (tensor.shape() != shape)
    fail(fmt::format("\"{}\" is {}, not {}", path, shape.str(), tensor.shape().str()), ErrorKind::shape);
  replaced_.insert_or_assign(std::string(path), std::move(tensor));
  return *this;
}

Weights& Weights::lora_dropout(double p, Key key) {
  if (!(p >= 0 && p < 1)) fail(fmt::format("a dropout of {} is not in [0, 1)", p));
  dropout_ = p;
  key_ = key;
  return *this;
}

Weights& Weights::clear() {
  replaced_.clear();
  terms_.clear();
  dropout_ = 0;
  return *this;
}

const LazyTensor* Weights::find(std::string_view path) const {
  if (!replaced_.empty())
    if (const auto it = replaced_.find(path); it != replaced_.end()) return &it->second;
  if (!base_) return nullptr;
  const auto it = base_->find(path);
  return it == base_->end() ? nullptr : &it->second;
}

const LazyTensor& Weights::operator[](std::string_view path) const {
  if (const LazyTensor* found = find(path)) return *found;
  fail(fmt::format("there is no \"{}\"", path));
}

bool Weights::contains(std::string_view path) const { return find(path) != nullptr; }

const std::vector<LoraTerm>* Weights::terms(std::string_view module) const {
  if (terms_.empty()) return nullptr;
  const auto it = terms_.find(module);
  return it == terms_.end() ? nullptr : &it->second;
}

LazyTensor Weights::dropped(std::string_view module, const LazyTensor& x) const {
  return dropout_ > 0 ? dropout(x, dropout_, key_.fold(number_of(module))) : x;
}

// The term is added to the bare product: that is the form which becomes one product of two segments.
LazyTensor Weights::linear(std::string_view module, const LazyTensor& x) const {
  LazyTensor y = matmul(x, transpose((*this)[joined(module, ".weight")]));
  if (const auto* all = terms(module)) {
    const DType type = y.dtype();
    const LazyTensor in = dropped(module, x);
    for (const LoraTerm& term : *all)
      y = y + lora_fused(in, as_type(transpose(term.a), type), as_type(transpose(term.b), type), term.scale);
  }
  const LazyTensor* bias = find(joined(module, ".bias"));
  return bias ? y + *bias : y;
}

LazyTensor Weights::embedding(std::string_view module, const LazyTensor& ids) const {
  LazyTensor y = take((*this)[joined(module, ".weight")], ids);
  if (const auto* all = terms(module))
    for (const LoraTerm& term : *all)
      y = y + as_type(matmul(take(transpose(term.a), ids), transpose(term.b)) * term.scale, y.dtype());
  return y;
}

Weights::Product Weights::product(std::string_view module, const LazyTensor& x) const {
  const LazyTensor& weight = (*this)[joined(module, ".weight")];
  const auto* all = terms(module);
  if (!all) return {x, weight};
  const LazyTensor in = dropped(module, x);
  std::vector<LazyTensor> left{x}, right{weight};
  for (const LoraTerm& term : *all) {
    left.push_back(as_type(matmul(in, as_type(transpose(term.a), x.dtype())) * term.scale, x.dtype()));
    right.push_back(as_type(term.b, weight.dtype()));
  }
  return {concat(left, -1), concat(right, -1)};
}

}  // namespace metal_candle::nn
