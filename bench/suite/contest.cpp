#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <limits>
#include <memory>
#include <thread>

#include "suite/machine.h"
#include "suite/suite.h"

namespace bench {
namespace {

constexpr double kSample = 1e-4;  // shorter calls are timed several at once
constexpr double kLong = 3;       // longer ones count from the first
constexpr auto kPause = std::chrono::milliseconds(15);
constexpr double kAgree = 1.25;  // what rounds may differ by; the memory of some hosts changes its speed by more
constexpr int kMostRounds = 3;   // times the usual number, where they disagree

}  // namespace

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

namespace {
bool processor_clock = false;
}

void count_processor_time(bool yes) { processor_clock = yes; }

double stopwatch() {
  timespec t;
  clock_gettime(processor_clock ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double median(std::vector<double> values) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

double median_call(const std::function<void()>& work, double budget) {
  double begin = stopwatch();
  work();  // not counted: PyTorch's first call after a pause was up to ten times slower than the second
  const double first = stopwatch() - begin;
  if (first > kLong) return first;
  const int inner = std::clamp(static_cast<int>(kSample / std::max(first, 1e-9)), 1, 10'000);
  std::vector<double> samples;
  const double end = now() + budget;
  do {
    begin = stopwatch();
    for (int i = 0; i < inner; ++i) work();
    samples.push_back((stopwatch() - begin) / inner);
  } while (now() < end);
  return median(std::move(samples));
}

Contest& Contest::local(const std::string& name, std::function<void()> work) {
  work();  // plans, packs, faults pages in
  work();
  contestants_.push_back({name, [work = std::move(work)](double budget) { return median_call(work, budget); }});
  return *this;
}

Contest& Contest::peer(const PeerConfig& config, const std::string& work) {
  Peer* peer = suite_.peers.get(config);
  if (!peer) return *this;
  const bool compiles = config.kind == PeerKind::torch_compile;
  const std::string answer =
      peer->ask("prepare " + work, compiles ? suite_.options.compile_seconds() : Peer::kPatience);
  if (const auto first = number_in(answer, "seconds")) {
    if (compiles) notes_.push_back(fmt::format("{}: first call {:.1f} s", config.name(), *first));
    contestants_.push_back({config.name(),
                            [peer, work](double budget) {
                              return number_in(peer->ask(fmt::format("run {} {}", work, budget)), "seconds")
                                  .value_or(std::numeric_limits<double>::quiet_NaN());
                            },
                            peer->pid()});
  } else if (!text_in(answer, "missing")) {
    notes_.push_back(fmt::format("{} failed: {}", config.name(), text_in(answer, "error").value_or("no answer")));
  }
  return *this;
}

Contest& Contest::torch(const std::string& work, bool compile) {
  for (const bool reuse : {false, true}) {
    peer({PeerKind::torch_eager, reuse}, work);
    if (compile) peer({PeerKind::torch_compile, reuse}, work);
  }
  return *this;
}

void Contest::take_turn(Contestant& c) const {
  double best = std::numeric_limits<double>::quiet_NaN(), least = std::numeric_limits<double>::infinity();
  for (int attempt = 0; attempt <= suite_.options.repeats(); ++attempt) {
    std::this_thread::sleep_for(attempt ? kPause * 10 : kPause);
    const auto before = processor_time();
    const double peer_before = c.pid ? processor_time_of(c.pid) : 0, begin = now();
    const double seconds = c.burst(suite_.options.burst_seconds());
    const double wall = now() - begin;
    const auto after = processor_time();
    const double own = after.mine - before.mine + (c.pid ? processor_time_of(c.pid) - peer_before : 0);
    // The counters tick every 10 ms, each processor's and each process's for itself.
    const double others = std::max(0.0, after.machine - before.machine - own - 0.04) / wall;
    if (others < least) {
      least = others;
      best = seconds;
    }
    if (attempt > 0) suite_.repeated += wall;
    if (suite_.options.cpu_time || others < 0.05 || suite_.repeated > suite_.options.repeat_seconds()) break;
  }
  c.rounds.push_back(best);
  c.disturbed = std::max(c.disturbed, least);
}

void Contest::round() {
  for (Contestant& c : contestants_) take_turn(c);
}

bool Contest::disagrees() const {
  return std::any_of(contestants_.begin(), contestants_.end(), [](const Contestant& c) {
    const auto [least, most] = std::minmax_element(c.rounds.begin(), c.rounds.end());
    return !c.pid && *most > kAgree * *least;
  });
}

void Contest::run() {
  const int rounds = suite_.options.rounds();
  for (int i = 0; i < rounds; ++i) round();
  for (int i = rounds; i < kMostRounds * rounds && disagrees() && suite_.further < suite_.options.repeat_seconds();
       ++i) {
    const double begin = now();
    round();
    suite_.further += now() - begin;
  }
}

const Contest::Contestant* Contest::find(const std::string& name) const {
  for (const Contestant& c : contestants_)
    if (c.name == name) return &c;
  return nullptr;
}

std::vector<double> Contest::rounds(const std::string& name) const {
  const Contestant* c = find(name);
  return c ? c->rounds : std::vector<double>{};
}

double Contest::seconds(const std::string& name) const { return median(rounds(name)); }

double Contest::ratio(const std::string& name, const std::string& other) const {
  const Contestant *a = find(name), *b = find(other);
  std::vector<double> ratios;
  for (std::size_t i = 0; a && b && i < a->rounds.size(); ++i) ratios.push_back(b->rounds[i] / a->rounds[i]);
  return median(std::move(ratios));
}

std::string Contest::fastest(const std::string& prefix) const {
  std::string best;
  for (const Contestant& c : contestants_)
    if (c.name.rfind(prefix, 0) == 0 && (best.empty() || median(c.rounds) < seconds(best))) best = c.name;
  return best;
}

void Contest::describe(Row& row) const {
  double disturbed = 0;
  for (const Contestant& c : contestants_) {
    row.add(c.name, median(c.rounds), "s");
    disturbed = std::max(disturbed, c.disturbed);
  }
  for (const std::string& n : notes_) row.note(n);
  if (disturbed > 0.1 && !suite_.options.cpu_time)
    row.note(fmt::format("other processes took up to {:.1f} processors meanwhile", disturbed));
}

}  // namespace bench
