#include "runtime/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include "base/fork.h"
#include "base/thread_pool.h"
#include "metal_candle/error.hpp"
#include "metal_candle/runtime.hpp"

namespace metal_candle {
namespace {

/// A step of one run: its tasks' events share the number `step`.
struct RecordedEvent {
  Trace::Event event;
  std::uint64_t step;
};
struct TraceData {
  std::mutex mutex;
  std::vector<RecordedEvent> events;
};

std::atomic<int> traces_alive{0};
std::atomic<std::uint64_t> steps_seen{0};
struct Registry {
  Registry() { base::at_fork(base::ForkOrder::last, mutex); }
  std::mutex mutex;
  std::vector<TraceData*> traces;
};
Registry& registry() {
  static auto* r = new Registry;
  return *r;
}

void add_events(TraceData& data, const Plan& plan, const Bindings& bindings, const std::vector<TaskTime>& times,
                std::uint64_t first_step) {
  std::vector<int> tasks(plan.steps.size(), 0);
  for (const TaskTime& t : times) ++tasks[static_cast<std::size_t>(t.step)];
  std::lock_guard lock(data.mutex);
  for (const TaskTime& t : times) {
    const auto i = static_cast<std::size_t>(t.step);
    const PlanStep& step = plan.steps[i];
    const std::string* const scope = bindings.scope(plan, i);
    data.events.push_back({{.name = step.label,
                            .scope = scope ? *scope : std::string(),
                            .thread = t.thread,
                            .begin_ns = t.begin_ns,
                            .end_ns = t.end_ns,
                            .bytes = step.bytes / tasks[i],
                            .flops = step.flops / tasks[i]},
                           first_step + i});
  }
}

/// How many bytes from `i` on are one character of UTF-8; 0: they are none.
std::size_t character(const std::string& text, std::size_t i) {
  const auto byte = [&](std::size_t k) { return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u; };
  const unsigned lead = byte(i);
  if (lead < 0x80) return 1;
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  for (std::size_t k = 1; k < length; ++k)
    if ((byte(i + k) & 0xc0) != 0x80) return 0;
  // Too long a form, a surrogate, past the last character.
  const unsigned second = byte(i + 1);
  const bool wrong = (lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
                     (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f);
  return wrong ? 0 : length;
}

/// As a JSON string has it. A scope's name may hold any bytes: those that are no UTF-8 become replacement characters.
std::string escaped(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const char c = text[i];
    const std::size_t length = character(text, i);
    if (length == 0) out += "\\ufffd";
    else if (static_cast<unsigned char>(c) < 0x20) out += fmt::format("\\u{:04x}", static_cast<int>(c));
    else if (c == '"' || c == '\\') (out += '\\') += c;
    else out.append(text, i, length);
    i += std::max<std::size_t>(length, 1);
  }
  return out;
}

/// As a column of a table has it: an op's name may hold any bytes.
std::string on_one_line(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  return text;
}

TraceData& of(const std::shared_ptr<void>& data) { return *static_cast<TraceData*>(data.get()); }

std::vector<RecordedEvent> copy_events(const std::shared_ptr<void>& data) {
  std::lock_guard lock(of(data).mutex);
  return of(data).events;
}

/// GB/s of reading and writing memory: the best of a few copies on all threads.
double measured_ceiling() {
  constexpr std::size_t kBytes = std::size_t{32} << 20;
  const int n = base::threads();
  std::vector<char> from(kBytes, 1), to(kBytes);
  const std::size_t part = kBytes / static_cast<std::size_t>(n);
  double best = 0;
  for (int turn = 0; turn < 5; ++turn) {
    const auto begin = std::chrono::steady_clock::now();
    base::parallel_for(static_cast<std::uint32_t>(n), n, [&](std::uint32_t task, int) {
      std::memcpy(to.data() + task * part, from.data() + task * part, part);
    });
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - begin;
    best = std::max(best, 2.0 * static_cast<double>(kBytes) / time.count());
  }
  return best;
}

struct Row {
  int count = 0;
  double ns = 0, bytes = 0, flops = 0;
};

/// Per kernel: how often it ran, and for how long from its first task's begin to its last task's end.
std::map<std::string, Row> rows_of(const std::vector<RecordedEvent>& events) {
  struct Span {
    const std::string* name;
    std::int64_t begin, end;
  };
  std::map<std::uint64_t, Span> spans;
  std::map<std::string, Row> rows;
  for (const RecordedEvent& r : events) {
    auto [it, fresh] = spans.try_emplace(r.step, Span{&r.event.name, r.event.begin_ns, r.event.end_ns});
    it->second.begin = std::min(it->second.begin, r.event.begin_ns);
    it->second.end = std::max(it->second.end, r.event.end_ns);
    Row& row = rows[r.event.name];
    row.bytes += r.event.bytes;
    row.flops += r.event.flops;
    if (fresh) ++row.count;
  }
  for (const auto& [step, span] : spans) rows[*span.name].ns += static_cast<double>(span.end - span.begin);
  return rows;
}

}  // namespace

bool tracing() { return traces_alive.load(std::memory_order_relaxed) > 0; }

void run_traced(const PlanEntry& entry, const Bindings& bindings) {
  std::vector<TaskTime> times;
  entry.executable->run(bindings, &times);
  const std::uint64_t first = steps_seen.fetch_add(entry.plan->steps.size());
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  for (TraceData* data : r.traces) add_events(*data, *entry.plan, bindings, times, first);
}

Trace::Trace() : data_(std::make_shared<TraceData>()) {
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  r.traces.push_back(&of(data_));
  traces_alive.fetch_add(1);
}

Trace::~Trace() {
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  std::erase(r.traces, &of(data_));
  traces_alive.fetch_sub(1);
}

std::vector<Trace::Event> Trace::events() const {
  std::vector<Event> out;
  for (RecordedEvent& r : copy_events(data_)) out.push_back(std::move(r.event));
  return out;
}

std::string Trace::json() const {
  const std::vector<Event> all = events();
  std::int64_t start = all.empty() ? 0 : all.front().begin_ns;
  int lanes = 0;
  for (const Event& e : all) {
    start = std::min(start, e.begin_ns);
    lanes = std::max(lanes, e.thread + 1);
  }
  std::string out = "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n";
  out += R"({"ph":"M","name":"process_name","pid":1,"tid":0,"args":{"name":"metal-candle cpu"}})";
  for (int i = 0; i < lanes; ++i)
    out += fmt::format(
        ",\n"
        R"({{"ph":"M","name":"thread_name","pid":1,"tid":{0},"args":{{"name":"thread {0}"}}}})",
        i);
  for (const Event& e : all)
    out += fmt::format(
        ",\n"
        R"({{"ph":"X","name":"{}","pid":1,"tid":{},"ts":{:.3f},"dur":{:.3f},)"
        R"("args":{{"scope":"{}","bytes":{:.0f},"flops":{:.0f}}}}})",
        escaped(e.name), e.thread, static_cast<double>(e.begin_ns - start) / 1e3,
        static_cast<double>(e.end_ns - e.begin_ns) / 1e3, escaped(e.scope), e.bytes, e.flops);
  return out + "\n]}\n";
}

void Trace::save(const std::string& path) const {
  const std::string text = json(), temporary = path + ".partial";
  std::FILE* file = std::fopen(temporary.c_str(), "wb");
  bool good = file != nullptr;
  if (file) {
    good = std::fwrite(text.data(), 1, text.size(), file) == text.size();
    good = std::fclose(file) == 0 && good;
  }
  if (good && std::rename(temporary.c_str(), path.c_str()) == 0) return;
  const std::string why = std::strerror(errno);
  std::remove(temporary.c_str());
  throw FileError(FileFault::create, path, "", "cannot be written: " + why);
}

std::string Trace::profile(double ceiling_gbs) const {
  const std::vector<RecordedEvent> events = copy_events(data_);
  const std::map<std::string, Row> rows = rows_of(events);
  std::vector<std::pair<std::string, Row>> sorted(rows.begin(), rows.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second.ns > b.second.ns; });
  const double ceiling = ceiling_gbs > 0 ? ceiling_gbs : measured_ceiling();
  std::string out = fmt::format("{:<36} {:>7} {:>11} {:>10} {:>8} {:>8} {:>9}\n", "kernel", "count", "time us", "MB",
                                "GB/s", "of copy", "GFLOP/s");
  for (const auto& [name, row] : sorted) {
    const double gbs = row.ns > 0 ? row.bytes / row.ns : 0;
    out += fmt::format("{:<36.36} {:>7} {:>11.1f} {:>10.3f} {:>8.2f} {:>8.3f} {:>9.2f}\n", on_one_line(name), row.count,
                       row.ns / 1e3, row.bytes / 1e6, gbs, gbs / ceiling, row.ns > 0 ? row.flops / row.ns : 0);
  }
  return out + fmt::format("copy: {:.1f} GB/s\n", ceiling);
}

}  // namespace metal_candle
