// Names for errors, explain and traces: what is recorded while a Scope lives carries its path.
//
//   const mc::Scope layer("layer.3");
//   const auto q = [&] { const mc::Scope scope("q"); return mc::matmul(x, wq); }();   // recorded as layer.3.q
#pragma once

#include <string>
#include <string_view>

namespace metal_candle {

/// RAII, per thread, nests with '.': inside Scope("layer.3") a Scope("attn") records as "layer.3.attn". Names never
/// become part of a plan's key. Opening a scope whose path was seen before does not allocate.
class Scope {
 public:
  explicit Scope(std::string_view name);
  ~Scope();
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

  /// The path open on this thread; null where none is. The string lives until the process ends.
  static const std::string* current();

 private:
  const std::string* outer_;
};

}  // namespace metal_candle
