// Plans made by hand, and the memory for running them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/thread_pool.h"
#include "tests/backend/vm_builder.h"

namespace metal_candle {

using Where = PlanBuffer::Where;

inline std::vector<float> numbers(std::int64_t count, int seed) {
  std::vector<float> v(static_cast<std::size_t>(count));
  std::uint32_t x = 12345u + static_cast<std::uint32_t>(seed) * 977u;
  for (auto& y : v) {
    x = x * 1664525u + 1013904223u;
    y = static_cast<float>(static_cast<int>(x >> 20) - 2048) / 1024.0f;
  }
  return v;
}

/// A plan, and the memory for running it.
struct HandPlan {
  std::shared_ptr<Plan> plan = std::make_shared<Plan>();
  std::vector<Storage*> leaves;
  std::vector<void*> leaf_data, output_data;
  std::deque<std::vector<std::uint64_t>> memory;
  std::vector<std::uint64_t> slots;
  std::unique_ptr<Backend> backend = make_cpu_backend();
  std::unique_ptr<Executable> executable, large_executable;

  HandPlan() = default;
  HandPlan(const HandPlan&) = delete;
  HandPlan& operator=(const HandPlan&) = delete;
  ~HandPlan() {
    for (auto* s : leaves) s->release();
  }
  int add(PlanBuffer b) {
    plan->buffers.push_back(b);
    return static_cast<int>(plan->buffers.size()) - 1;
  }
  template <class T>
  int leaf(const std::vector<T>& values) {
    const std::size_t bytes = values.size() * sizeof(T);
    leaves.push_back(Storage::make(bytes));
    leaves.back()->frozen = true;
    if (bytes > 0) std::memcpy(leaves.back()->data, values.data(), bytes);
    leaf_data.push_back(leaves.back()->data);
    return add({.where = Where::leaf, .index = plan->leaves++, .bytes = bytes});
  }
  int output(std::size_t bytes) {
    plan->output_bytes.push_back(bytes);
    return add({.where = Where::output, .index = static_cast<int>(plan->output_bytes.size()) - 1, .bytes = bytes});
  }
  int temporary(std::size_t bytes) {
    const std::size_t offset = plan->arena_bytes;
    plan->arena_bytes += (bytes + 63) / 64 * 64;
    return add({.where = Where::arena, .bytes = bytes, .offset = offset});
  }
  int slot(double value) {
    slots.push_back(std::bit_cast<std::uint64_t>(value));
    return add({.where = Where::slot, .index = plan->slots++, .bytes = 8});
  }
  PlanStep& step(PlanStep::Kind kind, int phase, const char* label) {
    plan->steps.emplace_back();
    plan->steps.back().kind = kind;
    plan->steps.back().phase = phase;
    plan->steps.back().label = label;
    plan->phases = std::max(plan->phases, phase + 1);
    return plan->steps.back();
  }
  PlanStep& fused(KernelProgram p, int phase) {
    PlanStep& s = step(PlanStep::Kind::fused, phase, "fused");
    p.buffers = static_cast<int>(plan->buffers.size());
    s.program = std::move(p);
    return s;
  }

  void run(std::vector<TaskTime>* times = nullptr) {
    if (!executable) executable = backend->lower(plan);
    memory.clear();
    output_data.clear();
    for (auto bytes : plan->output_bytes) {
      memory.emplace_back(bytes / 8 + 1, 0xa5a5a5a5a5a5a5a5u);
      output_data.push_back(memory.back().data());
    }
    executable->run({leaves, leaf_data, output_data, slots}, times);
  }
  template <class T = float>
  std::vector<T> result(std::size_t i = 0) const {
    const T* data = static_cast<const T*>(output_data[i]);
    return {data, data + plan->output_bytes[i] / sizeof(T)};
  }
  /// Runs on several numbers of threads, twice each, in the caller alone and as if the plan were a large one; all must
  /// give the same bytes.
  void run_everywhere() {
    const int before = base::threads();
    run();
    const std::vector<std::vector<std::uint64_t>> first(memory.begin(), memory.end());
    const auto large = std::make_shared<Plan>(*plan);
    for (PlanStep& s : large->steps) s.flops = 1e9;
    executable.swap(large_executable);
    executable = backend->lower(large);
    for (int threads : {1, 2, 4}) {
      base::set_threads(threads);
      for (int repeat = 0; repeat < 2; ++repeat) {
        run();
        const std::vector<std::vector<std::uint64_t>> bytes(memory.begin(), memory.end());
        EXPECT_EQ(bytes, first) << threads << " threads";
      }
    }
    executable.swap(large_executable);
    base::set_threads(before);
  }
};

}  // namespace metal_candle
