// Graphs too large to be fused at once are cut in windows. What belongs in one kernel lies in one of them, wherever the
// roots that read it stand.
#include <gtest/gtest.h>

#include <numeric>
#include <string>

#include "compiler/fuse/windows.h"
#include "graph/capture.h"
#include "graph/epoch.h"
#include "metal_candle/metal_candle.hpp"

namespace metal_candle {
namespace {

constexpr int kLayers = 2500;  // of four nodes

/// x = sin(x)·W a layer, and beside the last x from each layer what only its own root reads: cos(x) + x.
std::vector<LazyTensor> wide_chain() {
  const Tensor w = Tensor::full({4, 4}, 0.3);
  LazyTensor x = Tensor::ones({2, 4});
  std::vector<LazyTensor> roots(1);
  for (int i = 0; i < kLayers; ++i) {
    roots.push_back(cos(x) + x);
    x = matmul(sin(x), w);
  }
  roots[0] = x;
  return roots;
}

ComputationGraph captured(const std::vector<LazyTensor>& roots) {
  const GraphReader reader;
  Capture capture;
  capture.run(roots);
  return capture.graph();
}

std::vector<View> views_of(ComputationGraph& g) {
  return resolve_views(g, [](const OpDef*) -> const CpuKernel* { return nullptr; });
}

TEST(Windows, WhatALaterRootReadsIsPartOfTheKernelThatItIsMadeIn) {
  const std::string plan = explain(wide_chain());
  const auto steps = std::stoi(plan.substr(plan.find(": ") + 2));
  EXPECT_LE(steps, kLayers + 10) << plan.substr(0, 200);  // a product and its epilogue a layer
}

TEST(Windows, AreTheWholeGraphInTopologicalOrder) {
  ComputationGraph g = captured(wide_chain());
  const std::size_t most = 512;
  const Windows w = cut_in_windows(g, views_of(g), most);
  ASSERT_EQ(w.order.size(), g.nodes.size());
  std::vector<int> place(g.nodes.size(), -1);
  for (std::size_t at = 0; at < w.order.size(); ++at) {
    const auto i = static_cast<std::size_t>(w.order[at]);
    ASSERT_EQ(place[i], -1) << i << " is there twice";
    place[i] = static_cast<int>(at);
    for (const int in : g.nodes[i].inputs) ASSERT_GE(place[static_cast<std::size_t>(in)], 0) << in << " comes too late";
  }
  std::size_t begin = 0;
  for (const std::size_t end : w.ends) {
    EXPECT_GT(end, begin);
    EXPECT_LE(end - begin, most);
    begin = end;
  }
  EXPECT_EQ(begin, g.nodes.size());
}

TEST(Windows, AGraphOfOneKeepsItsOrder) {
  ComputationGraph g = captured({sin(Tensor::ones({3})) + 1.0});
  const Windows w = cut_in_windows(g, views_of(g), g.nodes.size());
  std::vector<int> same(g.nodes.size());
  std::iota(same.begin(), same.end(), 0);
  EXPECT_EQ(w.order, same);
  EXPECT_EQ(w.ends, std::vector<std::size_t>{g.nodes.size()});
}

TEST(Windows, ValuesAreThoseOfSmallGraphs) {
  const std::vector<LazyTensor> all = wide_chain(), one_by_one = wide_chain();
  eval(all);
  for (const std::size_t i : {std::size_t{1}, std::size_t{1200}, std::size_t{kLayers}})
    EXPECT_EQ(Tensor(all[i]).to_vector<float>(), one_by_one[i].eval().to_vector<float>()) << i;
}

}  // namespace
}  // namespace metal_candle
