// Writes kernel programs by hand, for tests and benches of the backends.
#pragma once

#include <algorithm>
#include <utility>

#include "compiler/kernel_program.h"
#include "metal_candle/elementwise.hpp"

namespace metal_candle {

class ProgramBuilder {
 public:
  KernelProgram p;

  explicit ProgramBuilder(std::vector<std::int64_t> row_dims) {
    p.row_dims = std::move(row_dims);
    p.rows = 1;
    for (auto d : p.row_dims) p.rows *= d;
  }
  ProgramBuilder& stage(std::int64_t cols) {
    end_stage();
    p.stages.push_back({cols, static_cast<int>(p.values.size()), 0});
    return *this;
  }
  KernelProgram done() {
    end_stage();
    return p;
  }

  /// A dense [rows, cols] array in buffer b.
  KAccess dense(int b, DType dtype = DType::f32) const {
    KAccess a{.buffer = b, .dtype = dtype, .row_strides = {}, .col_stride = 1};
    a.row_strides.resize(p.row_dims.size());
    std::int64_t stride = p.stages.back().cols;
    for (int d = static_cast<int>(p.row_dims.size()) - 1; d >= 0; --d) {
      a.row_strides[d] = stride;
      stride *= p.row_dims[d];
    }
    return a;
  }
  KAccess column_weights(int b, DType dtype = DType::f32) const {
    return {
        .buffer = b, .dtype = dtype, .row_strides = std::vector<std::int64_t>(p.row_dims.size(), 0), .col_stride = 1};
  }
  /// One element a row.
  KAccess per_row(int b, DType dtype = DType::f32) const {
    KAccess a = dense(b, dtype);
    for (auto& s : a.row_strides) s /= p.stages.back().cols ? p.stages.back().cols : 1;
    a.col_stride = 0;
    return a;
  }

  int load(KAccess a, bool full = true) {
    const RegType type = reg_type(a.dtype);
    return add({.op = KOp::load, .type = type, .full = full, .access = access(std::move(a))});
  }
  int literal(double x, RegType type = RegType::f32) {
    return add({.op = KOp::literal, .type = type, .literal = x, .literal_int = static_cast<std::int64_t>(x)});
  }
  int slot(int s, RegType type = RegType::f32) {
    p.slots = std::max(p.slots, s + 1);
    return add({.op = KOp::slot, .type = type, .slot = s});
  }
  int map(Elementwise op, int a, int b = -1) {
    const bool truth = op >= Elementwise::equal;
    return add({.op = KOp::map,
                .code = static_cast<std::uint16_t>(op),
                .type = truth ? RegType::i32 : type(a),
                .full = full(a) || (b >= 0 && full(b)),
                .a = a,
                .b = b});
  }
  int select(int c, int a, int b) {
    return add({.op = KOp::select, .type = type(a), .full = full(a) || full(b) || full(c), .a = c, .b = a, .c = b});
  }
  int cast(int a, DType to) { return add({.op = KOp::cast, .type = reg_type(to), .full = full(a), .a = a, .to = to}); }
  int logical_not(int a) { return add({.op = KOp::logical_not, .type = RegType::i32, .full = full(a), .a = a}); }
  int row_index(std::int64_t div = 1, std::int64_t mod = std::int64_t{1} << 40) {
    return add({.op = KOp::row_index, .type = RegType::i64, .imm0 = div, .imm1 = mod});
  }
  int col_index() { return add({.op = KOp::col_index, .type = RegType::i64, .full = true}); }
  int random(bool normal, int key, int counter, RegType type = RegType::f32) {
    return add({.op = normal ? KOp::random_normal : KOp::random_uniform,
                .type = type,
                .full = full(key) || full(counter),
                .a = key,
                .b = counter});
  }
  int reduce(KOp op, int a) {
    const bool arg = op == KOp::reduce_argmax || op == KOp::reduce_argmin;
    return add({.op = op, .type = arg ? RegType::i32 : type(a), .a = a});
  }
  void store(int a, KAccess to) {
    add({.op = KOp::store, .type = type(a), .full = full(a), .a = a, .access = access(std::move(to))});
  }
  void col(KOp op, int a, int buffer, DType dtype = DType::f32) {
    add({.op = op,
         .type = type(a),
         .full = true,
         .a = a,
         .access = access({.buffer = buffer, .dtype = dtype, .row_strides = {}, .col_stride = 1})});
  }
  void keep(int v) { p.values[v].keep = true; }
  RegType type(int v) const { return p.values[v].type; }
  bool full(int v) const { return p.values[v].full; }

 private:
  int add(KValue v) {
    v.stage = static_cast<std::int16_t>(p.stages.size() - 1);
    p.values.push_back(v);
    return static_cast<int>(p.values.size()) - 1;
  }
  int access(KAccess a) {
    p.buffers = std::max(p.buffers, a.buffer + 1);
    if (a.row_strides.empty()) a.row_strides.resize(p.row_dims.size());
    p.accesses.push_back(std::move(a));
    return static_cast<int>(p.accesses.size()) - 1;
  }
  void end_stage() {
    if (!p.stages.empty()) p.stages.back().end = static_cast<int>(p.values.size());
  }
};

}  // namespace metal_candle
