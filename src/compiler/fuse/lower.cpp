// Units as steps: products, kernel ops, and row programs through RowLowering.
#include "compiler/fuse/lower.h"

#include <algorithm>

#include "compiler/fuse/row_lowering.h"
#include "compiler/rewrite.h"
#include "graph/record.h"
#include "metal_candle/error.hpp"
#include "ops/table.h"

namespace metal_candle {
namespace {

MatmulOperand matmul_operand(const LowerContext& c, int in, int batch_rank) {
  const View& v = c.views[static_cast<std::size_t>(in)];
  const GraphNode& n = c.graph.nodes[static_cast<std::size_t>(in)];
  const GraphNode& base = c.graph.nodes[static_cast<std::size_t>(v.base)];
  const int r = n.shape.rank();
  MatmulOperand o;
  o.buffer = c.buffer_of(v.base);
  o.offset = v.offset;
  o.row_stride = n.shape[r - 2] == 1 ? n.shape[r - 1] : v.strides[r - 2];
  o.col_stride = n.shape[r - 1] == 1 ? 1 : v.strides[r - 1];
  o.constant = base.op->kind == OpKind::leaf && c.graph.leaves[static_cast<std::size_t>(base.leaf)].frozen;
  for (int d = 0; d < batch_rank; ++d) {
    const int at = r - 2 - batch_rank + d;
    o.batch_strides.push_back(at < 0 || n.shape[at] == 1 ? 0 : v.strides[at]);
  }
  return o;
}

PlanStep lower_matmul(const LowerContext& c, const Unit& unit) {
  const GraphNode& n = c.graph.nodes[static_cast<std::size_t>(unit.single)];
  auto shape_of = [&](int k) -> const Shape& {
    return c.graph.nodes[static_cast<std::size_t>(n.inputs[static_cast<std::size_t>(k)])].shape;
  };
  const auto dtype_of = [&](std::size_t k) { return c.graph.nodes[static_cast<std::size_t>(n.inputs[k])].dtype; };
  PlanStep step;
  step.kind = PlanStep::Kind::matmul;
  step.label = n.op == &matmul_lora_def ? "matmul+lora" : "matmul";
  step.scope = n.scope;
  MatmulStep& m = step.matmul;
  m.dtype = n.dtype;
  m.m = n.shape.dim(-2);
  m.n = n.shape.dim(-1);
  m.k = shape_of(0).dim(-1);
  const int batch_rank = n.shape.rank() - 2;
  for (int d = 0; d < batch_rank; ++d) m.batch.push_back(n.shape[d]);
  m.a = matmul_operand(c, n.inputs[0], batch_rank);
  m.b = matmul_operand(c, n.inputs[1], batch_rank);
  step.reads = {m.a.buffer, m.b.buffer};
  if (n.inputs.size() == 4) {
    m.k2 = shape_of(2).dim(-1);
    m.a2 = matmul_operand(c, n.inputs[2], batch_rank);
    m.b2 = matmul_operand(c, n.inputs[3], batch_rank);
    step.reads.push_back(m.a2.buffer);
    step.reads.push_back(m.b2.buffer);
  }
  const DType a = dtype_of(0), b = dtype_of(1);
  if (a != n.dtype || b != n.dtype) m.bytes = {a == DType::i8, b == DType::i8};
  const double element = static_cast<double>(size_of(n.dtype));
  step.flops = 2.0 * static_cast<double>(n.shape.numel()) * static_cast<double>(m.k + m.k2);
  step.bytes = static_cast<double>(bytes_of(shape_of(0), a) + bytes_of(shape_of(1), b));
  if (unit.members.empty()) {
    m.out = c.buffer_of(unit.single);
    step.writes = {m.out};
    step.bytes += element * static_cast<double>(n.shape.numel());
    return step;
  }
  RowLowering lowering(c, unit);
  std::vector<PlanStep> parts = lowering.run();
  PlanStep& fused = parts.back();
  if (parts.size() != 1) throw InternalError("an epilogue needs copies");
  m.epilogue = true;
  m.tile = lowering.tile();
  step.program = std::move(fused.program);
  step.label += "+" + fused.label;
  for (const int b : fused.reads)
    if (b != m.tile) step.reads.push_back(b);
  step.writes = fused.writes;
  step.flops += fused.flops;
  step.bytes += fused.bytes;
  return step;
}

/// The types of all outputs, from the op's own inference on stand-ins for the inputs.
InferResult infer_again(const LowerContext& c, const GraphNode& n) {
  const RecordHook hook = exchange_record_hook(nullptr);
  Tensors inputs;
  for (const int in : n.inputs) {
    const GraphNode& x = c.graph.nodes[static_cast<std::size_t>(in)];
    inputs.push_back(x.op->kind == OpKind::scalar ? (x.integral ? scalar(0) : scalar(0.0))
                                                  : record_typed(*n.op, x.dtype, x.shape, {}));
  }
  InferResult result;
  n.op->infer(OpCall{*n.op, inputs, n.attrs}, result);
  exchange_record_hook(hook);
  return result;
}

PlanStep lower_kernel(const LowerContext& c, const Unit& unit) {
  const GraphNode& n = c.graph.nodes[static_cast<std::size_t>(unit.single)];
  PlanStep step;
  step.kind = PlanStep::Kind::kernel;
  step.label = n.op->name;
  step.scope = n.scope;
  KernelStep& k = step.kernel;
  k.op = n.op;
  k.cpu = c.caps.kernel(n.op);
  if (!k.cpu)
    throw UserError(ErrorKind::device, std::string(n.op->name) + ": no kernel for this device and no decomposition",
                    std::string(n.op->name));
  k.attrs = n.attrs;
  for (const int in : n.inputs) {
    const View& v = c.views[static_cast<std::size_t>(in)];
    const GraphNode& x = c.graph.nodes[static_cast<std::size_t>(in)];
    k.inputs.push_back({c.buffer_of(v.base), x.dtype, x.shape, v.strides, v.offset});
    step.reads.push_back(k.inputs.back().buffer);
    step.bytes += static_cast<double>(bytes_of(x.shape, x.dtype));
  }
  // Kernels index their outputs, so those that nobody reads are there too, without memory.
  const InferResult types = infer_again(c, n);
  for (int i = 0; i < types.count; ++i) {
    const TensorType& t = types.types[static_cast<std::size_t>(i)];
    k.outputs.push_back({-1, t.dtype, t.shape, contiguous_strides(t.shape), 0});
  }
  auto bind = [&](int id, std::size_t at) {
    KernelStep::Operand& o = k.outputs.at(at);
    o.buffer = c.buffer_of(id);
    step.writes.push_back(o.buffer);
    step.bytes += static_cast<double>(bytes_of(o.shape, o.dtype));
  };
  if (types.count == 1) {
    bind(unit.single, 0);
    return step;
  }
  for (const int o : unit.outputs)
    bind(o, static_cast<std::size_t>(c.graph.nodes[static_cast<std::size_t>(o)].attrs[0]));
  return step;
}

}  // namespace

std::vector<PlanStep> lower_unit(const LowerContext& c, const Unit& unit) {
  if (unit.single < 0) return RowLowering(c, unit).run();
  const GraphNode& n = c.graph.nodes[static_cast<std::size_t>(unit.single)];
  if (n.op->kind == OpKind::matmul) return {lower_matmul(c, unit)};
  return {lower_kernel(c, unit)};
}

std::vector<int> last_stages(const KernelProgram& p) {
  std::vector<int> last(p.values.size());
  for (std::size_t i = 0; i < p.values.size(); ++i) last[i] = p.values[i].stage;
  for (std::size_t i = p.values.size(); i-- > 0;) {
    const KValue& v = p.values[i];
    const bool once = v.keep || !v.full || v.op == KOp::store || is_column_op(v.op);
    const int evaluated = once ? v.stage : last[i];
    const int gather = v.access >= 0 ? p.accesses[static_cast<std::size_t>(v.access)].gather : -1;
    for (const int id : {v.a, v.b, v.c, gather})
      if (id >= 0) last[static_cast<std::size_t>(id)] = std::max(last[static_cast<std::size_t>(id)], evaluated);
  }
  return last;
}

}  // namespace metal_candle
