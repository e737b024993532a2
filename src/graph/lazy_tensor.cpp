#include "metal_candle/lazy_tensor.hpp"

#include "graph/node.h"
#include "graph/record.h"
#include "metal_candle/error.hpp"
#include "metal_candle/tensor.hpp"

namespace metal_candle {
namespace {

const Node& checked(const Node* node) {
  if (!node) throw UserError(ErrorKind::argument, "an empty tensor handle was used");
  return *node;
}

}  // namespace

LazyTensor LazyTensor::from_tensor(const Tensor& tensor) {
  checked(tensor.node());
  return tensor;
}

DType LazyTensor::dtype() const { return checked(node_).dtype; }
const Shape& LazyTensor::shape() const { return checked(node_).shape; }
Device LazyTensor::device() const { return checked(node_).device; }
bool LazyTensor::is_evaluated() const { return checked(node_).evaluated(); }
std::string_view LazyTensor::op_name() const { return checked(node_).op->name; }

}  // namespace metal_candle
