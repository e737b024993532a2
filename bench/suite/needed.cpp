#include "suite/needed.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace bench {
namespace {

/// Forward and backward of one projection: the base weight gets no gradient.
void add_projection(std::vector<Needed>& all, const std::string& name, std::int64_t rows, std::int64_t in,
                    std::int64_t out, std::int64_t rank, mc::DType t, double times) {
  all.push_back({name + " y=xW", {rows, out, in, t, true}, times});
  all.push_back({name + " dx=dyW'", {rows, in, out, t, true, false, true}, times});
  all.push_back({name + " u=xA", {rows, rank, in, t}, times});
  all.push_back({name + " y+=uB", {rows, out, rank, t}, times});
  all.push_back({name + " du=dyB'", {rows, rank, out, t, false, false, true}, times});
  all.push_back({name + " dx+=duA'", {rows, in, rank, t, false, false, true}, times});
  all.push_back({name + " dA=x'du", {in, rank, rows, t, false, true}, times});
  all.push_back({name + " dB=u'dy", {rank, out, rows, t, false, true}, times});
}

}  // namespace

std::vector<Needed> products_of(const BlockShape& s, mc::DType t) {
  std::vector<Needed> all;
  const std::int64_t rows = s.sequences * s.tokens;
  add_projection(all, "q,o", rows, s.hidden, s.hidden, s.rank, t, 2);
  add_projection(all, "k,v", rows, s.hidden, s.kv(), s.rank, t, 2);
  add_projection(all, "gate,up", rows, s.hidden, s.inner, s.rank, t, 2);
  add_projection(all, "down", rows, s.inner, s.hidden, s.rank, t, 1);
  // Attention: S = qk' and y = pv, then dp = dy·v', dv = p'·dy, dq = ds·k, dk = ds'·q. A query sees its own key and
  // those before it, so (T+1)/2T of each product is needed. What a backward pass computes again is not counted.
  const std::int64_t n = s.tokens, d = s.head, batch = s.sequences * s.heads;
  const double half = static_cast<double>(n + 1) / static_cast<double>(2 * n);
  all.push_back({"qk', dyv'", {n, n, d, t, false, false, true, batch}, 2 * half});
  all.push_back({"pv, dsk", {n, d, n, t, false, false, false, batch}, 2 * half});
  all.push_back({"p'dy, ds'q", {n, d, n, t, false, true, false, batch}, 2 * half});
  return all;
}

BareProducts::BareProducts(Suite& suite, std::vector<Needed> products) : suite_(suite) {
  for (Needed& need : products) {
    Contest contest(suite);
    contest.local("own GEMM", own_product(need.product));
    if (const auto work = onednn_product(need.product)) contest.local("oneDNN", work);
    products_.push_back({std::move(need), std::move(contest)});
  }
}

void BareProducts::run(Contest& whole) {
  for (int i = 0; i < suite_.options.rounds(); ++i) {
    whole.round();
    for (Timed& p : products_) p.contest.round();
  }
}

BareProducts::Sum BareProducts::sum() const {
  Sum sum;
  for (const Timed& p : products_) {
    const double own = p.contest.seconds("own GEMM");
    sum.own += own * p.need.times;
    sum.onednn += (p.contest.has("oneDNN") ? p.contest.seconds("oneDNN") : own) * p.need.times;
    sum.better += p.contest.seconds(p.better()) * p.need.times;
    sum.flops += p.need.product.flops() * p.need.times;
  }
  return sum;
}

double BareProducts::times(const Contest& whole, const std::string& contestant) const {
  std::vector<double> ratios = whole.rounds(contestant);
  for (std::size_t round = 0; round < ratios.size(); ++round) {
    double products = 0;
    for (const Timed& p : products_) products += p.contest.rounds(p.better())[round] * p.need.times;
    ratios[round] /= products;
  }
  return median(std::move(ratios));
}

void BareProducts::report(const std::string& section) const {
  for (const Timed& p : products_) {
    Row row{section, fmt::format("  {} {}", p.need.name, p.need.product.str())};
    p.contest.describe(row);
    suite_.report.add(row.add("times", p.need.times));
  }
}

std::string longest_kernels(const std::function<void()>& work) {
  const mc::Trace trace;
  work();
  std::map<std::string, std::pair<double, int>> by_name;
  double total = 0;
  for (const mc::Trace::Event& e : trace.events()) {
    if (e.bytes <= 0 && e.flops <= 0) continue;
    const double us = static_cast<double>(e.end_ns - e.begin_ns) * 1e-3;
    by_name[e.name].first += us;
    by_name[e.name].second += 1;
    total += us;
  }
  std::vector<std::pair<double, std::string>> order;
  for (const auto& [name, cost] : by_name) order.emplace_back(cost.first, fmt::format("{} x{}", name, cost.second));
  std::sort(order.rbegin(), order.rend());
  std::string out = fmt::format("kernels {:.0f} us:", total);
  for (std::size_t i = 0; i < order.size() && i < 8; ++i)
    out += fmt::format(" {} {:.0f} us;", order[i].second, order[i].first);
  return out;
}

}  // namespace bench
