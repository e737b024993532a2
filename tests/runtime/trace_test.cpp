// Traces: what ran, where and for how long.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <thread>

#include "metal_candle/ops.hpp"
#include "metal_candle/scope.hpp"
#include "tests/runtime/probe.h"

namespace metal_candle {
namespace {

TEST(TraceTest, KnowsWhatRan) {
  const auto x = Tensor::ones({256, 256});
  LazyTensor y;
  {
    const Scope scope("block.1");
    y = matmul(x, x);
  }
  const LazyTensor z = sum(tanh(y));
  std::vector<Trace::Event> events;
  {
    const Trace trace;
    z.eval();
    events = trace.events();
  }
  ASSERT_FALSE(events.empty());
  double flops = 0;
  bool scoped = false;
  for (const Trace::Event& e : events) {
    EXPECT_FALSE(e.name.empty());
    EXPECT_LE(e.begin_ns, e.end_ns);
    flops += e.flops;
    scoped |= e.scope == "block.1";
  }
  EXPECT_GE(flops, 2.0 * 256 * 256 * 256);
  EXPECT_TRUE(scoped);
}

// A plan is found by structure: what replays it was recorded elsewhere.
TEST(TraceTest, ReplaysHaveTheScopesOfTheirOwnRecording) {
  const auto table = Tensor::from<float>({1, 2, 3, 4}, {4, 1});
  const auto recorded = [&](const std::string& name, int index) {
    const auto made = [&] { return take(table, Tensor::from<std::int32_t>({index}, {1})) * 2; };
    if (name.empty()) return made();
    const Scope scope(name);
    return made();
  };
  for (const std::string name : {"layer.0", "layer.1", "", "layer.2"}) {
    const std::string said = explain({recorded(name, 1)});
    EXPECT_EQ(said.find("# " + name) != std::string::npos, !name.empty()) << said;
    EXPECT_EQ(said.find("layer") != std::string::npos, !name.empty()) << said;
    const Trace trace;
    recorded(name, 1).eval();
    for (const Trace::Event& e : trace.events()) EXPECT_EQ(e.scope, name);
    const auto scope_of_failure = [&](auto&& run) -> std::string {
      try {
        run();
      } catch (const UserError& e) {
        return e.scope();
      }
      return "no error";
    };
    EXPECT_EQ(scope_of_failure([&] { recorded(name, 9).eval(); }), name);
    EXPECT_EQ(scope_of_failure([&] { eval_async({.roots = {recorded(name, 9)}}).wait(); }), name);
  }
}

TEST(TraceTest, OnlyWhileItLives) {
  const auto x = Tensor::ones({16});
  (x + 1).eval();
  const Trace outer;
  {
    const Trace inner;
    (x + 1).eval();
    EXPECT_EQ(inner.events().size(), 1u);
  }
  (x + 1).eval();
  EXPECT_EQ(outer.events().size(), 2u);
}

// Two independent operations, each of which waits until the other has begun: they finish only if both run at once.
std::atomic<int> arrived{0};
void meet(const KernelCall& c, int, std::int64_t) {
  ++arrived;
  for (int spins = 0; arrived < 2 && spins < 20000; ++spins)
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  *c.outputs[0].as<float>() = static_cast<float>(arrived);
}
const CpuKernel meet_kernel{.run = meet, .tasks = test::one_task};
const OpDef meet_def{.name = "meet",
                     .kind = OpKind::kernel,
                     .infer = [](const OpCall&, InferResult& r) { r.add(DType::f32, Shape{}); },
                     .decompose = nullptr,
                     .vjp = NoGrad{},
                     .samples = nullptr,
                     .cpu = &meet_kernel};

TEST(TraceTest, IndependentBranchesOverlap) {
  set_threads(2);
  const LazyTensor a = record(meet_def, {Tensor::ones({1 << 18})}), b = record(meet_def, {Tensor::zeros({1 << 18})});
  const Trace trace;
  arrived = 0;
  SCOPED_TRACE(explain({a, b}));
  eval({a, b});
  EXPECT_EQ(Tensor(a).item<float>(), 2);
  EXPECT_EQ(Tensor(b).item<float>(), 2);
  std::vector<Trace::Event> met;
  for (const Trace::Event& e : trace.events())
    if (e.name.find("meet") != std::string::npos) met.push_back(e);
  ASSERT_EQ(met.size(), 2u);
  EXPECT_NE(met[0].thread, met[1].thread);
  EXPECT_LT(std::max(met[0].begin_ns, met[1].begin_ns), std::min(met[0].end_ns, met[1].end_ns));
  set_threads(0);
}

TEST(TraceTest, ChromeJson) {
  const std::string path = testing::TempDir() + "trace_test.json";
  const Trace trace;
  {
    const Scope scope("a \"quoted\" name");  // names are no part of a plan's key: the first to compile it gives them
    (Tensor::ones({1234}) + 1).eval();
  }
  trace.save(path);
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  EXPECT_EQ(text.str(), trace.json());
  for (const char* part : {R"("traceEvents":[)", R"("ph":"X")", R"("thread_name")", R"(a \"quoted\" name)"})
    EXPECT_NE(text.str().find(part), std::string::npos) << part;
  std::remove(path.c_str());
  try {
    trace.save("/nonexistent/folder/trace.json");
    ADD_FAILURE() << "no error";
  } catch (const FileError& e) {
    EXPECT_EQ(e.fault(), FileFault::create);
    EXPECT_EQ(e.file(), "/nonexistent/folder/trace.json");
  }
}

TEST(TraceTest, Profile) {
  const auto x = Tensor::ones({1 << 18});
  const Trace trace;
  for (int i = 0; i < 3; ++i) (x * 2 + 1).eval();
  const std::string text = trace.profile(10);
  EXPECT_NE(text.find(trace.events()[0].name), std::string::npos) << text;
  EXPECT_NE(text.find(" 3 "), std::string::npos) << text;
  EXPECT_NE(text.find("copy: 10.0 GB/s"), std::string::npos) << text;
  EXPECT_NE(trace.profile().find("copy: "), std::string::npos);
}

double bytes_moved(const LazyTensor& y) {
  const Trace trace;
  y.eval();
  double bytes = 0;
  for (const Trace::Event& e : trace.events()) bytes += e.bytes;
  return std::round(bytes);
}

TEST(TraceTest, BytesAreThoseThatAreMoved) {
  const auto x = Tensor::ones({2000, 1000});
  const LazyTensor few = slice(x, 0, 0, 10), more = slice(x, 0, 5, 25), column = slice(x, 1, 3, 4);
  EXPECT_EQ(bytes_moved(x * 2), 2 * 8e6);
  EXPECT_EQ(bytes_moved(few * 2), 2 * 4e4);
  EXPECT_EQ(bytes_moved(few + slice(x, 0, 100, 110)), 3 * 4e4);
  EXPECT_EQ(bytes_moved(column * 2), 2 * 8e3);
  EXPECT_EQ(bytes_moved(slice(x, 0, 7, 8) * more), 2 * 8e4 + 4e3);
  EXPECT_EQ(bytes_moved(x + transpose(transpose(x))), 2 * 8e6);
  EXPECT_EQ(bytes_moved(few * few + sum(few)), 2 * 4e4) << "read twice by one step, and counted once";
}

TEST(TraceTest, NamesOfSeveralLinesAreOneRowOfTheProfile) {
  static const OpDef two_lines = [] {
    OpDef op = test::probe_def;
    op.name = "two\nlines\t\x01";
    return op;
  }();
  const Trace trace;
  record(two_lines, {Tensor::ones({8})}).eval();
  const std::string text = trace.profile(10);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3) << text;
  EXPECT_NE(text.find("two lines"), std::string::npos) << text;
  EXPECT_EQ(text.find('\x01'), std::string::npos) << text;
}

TEST(TraceTest, NamesThatAreNoTextAreWrittenAsJson) {
  const Trace trace;
  {
    const Scope scope("bad\xff \xc3\xa9 \xed\xa0\x80 \xf0\x9f\x99\x82 \xe2\x82 \"q\"\x01");
    (Tensor::ones({77}) + 1).eval();
  }
  const std::string said = trace.json();
  EXPECT_NE(said.find("bad\\ufffd \xc3\xa9 \\ufffd\\ufffd\\ufffd \xf0\x9f\x99\x82 \\ufffd\\ufffd \\\"q\\\"\\u0001"),
            std::string::npos)
      << said;
  EXPECT_EQ(said.find('\xff'), std::string::npos);
}

TEST(TraceTest, TextsFitAScreen) {
  std::vector<LazyTensor> leaves;
  for (int i = 0; i < 64; ++i) leaves.emplace_back(Tensor::ones({1 << 12}));
  LazyTensor y = leaves[0];
  for (std::size_t i = 1; i < leaves.size(); ++i) y = i % 3 == 0 ? tanh(y) * leaves[i] : sigmoid(y) + leaves[i];
  const Trace trace;
  const AsyncRun run = eval_async({.roots = {y}, .donate = leaves});
  const auto longest = [](const std::string& text) {
    std::size_t most = 0, begin = 0;
    for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', begin)) {
      most = std::max(most, end - begin);
      begin = end + 1;
    }
    return most;
  };
  run.wait();
  EXPECT_LE(longest(trace.profile(10)), 100u) << trace.profile(10);
  EXPECT_LE(longest(run.explain()), 260u) << run.explain();
}

}  // namespace
}  // namespace metal_candle
