#include <cmath>

#include "backend/cpu/kernels/linear_cross_entropy_problem.h"

namespace metal_candle::cpu::cross_entropy {
namespace {

double element(const Matrix& m, std::int64_t r, std::int64_t c) { return *reinterpret_cast<const double*>(m.at(r, c)); }

double logit(const Problem& p, std::int64_t row, std::int64_t j) {
  double sum = 0;
  for (std::int64_t c = 0; c < p.d; ++c) sum += element(p.x, row, c) * element(p.w, c, j);
  return sum;
}

double expected(const Problem& p, std::int64_t row, std::int64_t j) {
  return p.floor + (p.target(row) == j ? 1 - p.rule.smoothing : 0);
}

}  // namespace

void plain_forward(const KernelCall& call, const Problem& p, std::int64_t row) {
  double top = -std::numeric_limits<double>::infinity(), sum = 0, loss = 0;
  for (std::int64_t j = 0; j < p.v; ++j) top = std::max(top, logit(p, row, j));
  for (std::int64_t j = 0; j < p.v; ++j) sum += std::exp(logit(p, row, j) - top);
  const double lse = top + std::log(sum);
  double* u = call.outputs[2].data ? call.outputs[2].as<double>() + row * p.d : nullptr;
  for (std::int64_t c = 0; u && c < p.d; ++c) u[c] = 0;
  for (std::int64_t j = 0; j < p.v; ++j) {
    const double x = logit(p, row, j), error = std::exp(x - lse) - expected(p, row, j);
    loss += expected(p, row, j) * (lse - x);
    for (std::int64_t c = 0; u && c < p.d; ++c) u[c] += error * element(p.w, c, j);
  }
  if (call.outputs[0].data) call.outputs[0].as<double>()[row] = loss;
  if (call.outputs[1].data) call.outputs[1].as<double>()[row] = lse;
}

void plain_grad(const KernelCall& call, const Problem& p, const ActiveRows& active, std::int64_t j) {
  double* dw = call.outputs[0].as<double>() + j * p.d;
  const KernelTensor &lse = call.inputs[3], &g = call.inputs[4];
  for (std::int64_t c = 0; c < p.d; ++c) dw[c] = 0;
  for (std::int64_t i = 0; i < *active.count; ++i) {
    const std::int64_t row = active.rows[i];
    const double p_j = std::exp(logit(p, row, j) - lse.as<const double>()[row * lse.strides[0]]);
    const double error = (p_j - expected(p, row, j)) * g.as<const double>()[row * g.strides[0]];
    for (std::int64_t c = 0; c < p.d; ++c) dw[c] += error * element(p.x, row, c);
  }
}

}  // namespace metal_candle::cpu::cross_entropy
