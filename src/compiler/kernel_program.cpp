#include "compiler/kernel_program.h"

#include <array>
#include <sstream>

#include "metal_candle/elementwise.hpp"

namespace metal_candle {

RegType reg_type(DType dtype) {
  switch (dtype) {
    case DType::f64: return RegType::f64;
    case DType::i64: return RegType::i64;
    case DType::f32:
    case DType::f16:
    case DType::bf16: return RegType::f32;
    default: return RegType::i32;
  }
}

namespace {

constexpr std::array<std::string_view, 4> kTypes = {"f32", "f64", "i32", "i64"};
constexpr std::array<std::string_view, 22> kOps = {
    "load",        "literal",       "slot",           "map",           "select",     "logical_not", "cast",
    "row_index",   "col_index",     "random_uniform", "random_normal", "reduce_sum", "reduce_max",  "reduce_min",
    "reduce_prod", "reduce_argmax", "reduce_argmin",  "store",         "col_sum",    "col_max",     "col_min",
    "col_prod"};

void print_access(std::ostream& out, const KAccess& a) {
  out << " b" << a.buffer << ':' << name(a.dtype) << '[' << a.offset;
  for (auto s : a.row_strides) out << ", " << s;
  out << "; " << a.col_stride << ']';
  if (a.gather >= 0) out << " + %" << a.gather << '*' << a.gather_stride << " < " << a.gather_extent;
  if (a.stream) out << " stream";
}

void print_value(std::ostream& out, const KernelProgram& p, int i) {
  const KValue& v = p.values[i];
  out << "    %" << i << (v.full ? "" : "r") << " = ";
  if (v.op == KOp::map) {
    out << info(static_cast<Elementwise>(v.code)).name;
  } else {
    out << kOps[static_cast<std::size_t>(v.op)];
  }
  out << '.' << kTypes[static_cast<std::size_t>(v.type)];
  for (int operand : {v.a, v.b, v.c}) {
    if (operand >= 0) out << " %" << operand;
  }
  if (v.op == KOp::literal) {
    if (v.type == RegType::f32 || v.type == RegType::f64) out << ' ' << v.literal;
    else out << ' ' << v.literal_int;
  }
  if (v.op == KOp::slot) out << " s" << v.slot;
  if (v.op == KOp::cast) out << " to " << name(v.to);
  if (v.op == KOp::row_index) out << " /" << v.imm0 << " %" << v.imm1;
  if (v.access >= 0) print_access(out, p.accesses[v.access]);
  if (v.keep) out << " keep";
  out << '\n';
}

}  // namespace

std::string KernelProgram::str() const {
  std::ostringstream out;
  out << "rows " << rows << " [";
  for (std::size_t i = 0; i < row_dims.size(); ++i) out << (i ? ", " : "") << row_dims[i];
  out << ']';
  if (batch != 1 || col_chunks != 1) out << " batch " << batch << " chunks " << col_chunks;
  out << '\n';
  for (std::size_t s = 0; s < stages.size(); ++s) {
    out << "  stage " << s << " cols " << stages[s].cols << '\n';
    for (int i = stages[s].begin; i < stages[s].end; ++i) print_value(out, *this, i);
  }
  return out.str();
}

}  // namespace metal_candle
