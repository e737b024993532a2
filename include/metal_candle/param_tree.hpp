// ParamTree: named tensors in a fixed order, path -> tensor.
//
//   mc::ParamTree p{{"w", mc::zeros({4, 8})}, {"b", mc::zeros({8})}};
//   for (auto& [path, tensor] : p) tensor = tensor - gradients[path] * 0.1f;
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "metal_candle/lazy_tensor.hpp"

namespace metal_candle {

/// An ordered map of parameters; the order is that of insertion and is the order of everything derived from it.
class ParamTree {
 public:
  using Entry = std::pair<std::string, LazyTensor>;

  ParamTree() = default;
  ParamTree(std::initializer_list<Entry> entries);
  /// Throws UserError when the path is there already.
  void insert(std::string path, LazyTensor tensor);
  /// Throws UserError naming the path when it is not there.
  const LazyTensor& operator[](std::string_view path) const;
  LazyTensor& operator[](std::string_view path);
  bool contains(std::string_view path) const;
  std::size_t size() const { return entries_.size(); }
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }
  auto begin() { return entries_.begin(); }
  auto end() { return entries_.end(); }
  std::vector<LazyTensor> tensors() const;
  /// The same paths with other tensors, in order; their number must match.
  ParamTree with(std::vector<LazyTensor> tensors) const;

 private:
  std::vector<Entry> entries_;
};

}  // namespace metal_candle
