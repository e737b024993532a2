// The benchmarks: what a section gets, and the contest in which everything that it compares takes turns.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "suite/peer.h"
#include "suite/report.h"

namespace bench {

struct Options {
  bool full = false;
  int threads = 2;
  /// With one thread: time is the processor's, which other programs on the machine disturb least.
  bool cpu_time = false;
  std::string json;
  std::string model;  // a real one, a GGUF file; empty where there is none
  int rounds() const { return full ? 7 : 3; }
  double burst_seconds() const { return full ? 0.35 : 0.12; }
  /// How often a burst that other processes disturbed is repeated, and the seconds of a run that may go into that, and
  /// as many into further rounds.
  int repeats() const { return full ? 8 : 3; }
  double repeat_seconds() const { return full ? 180 : 30; }
  /// How long a peer may compile one piece of work.
  double compile_seconds() const { return full ? 600 : 420; }
};

struct Suite {
  Options options;
  Report report;
  Peers peers;
  double repeated = 0;  // seconds spent so far on repeating bursts
  double further = 0;   // and on further rounds
};

double now();
/// `now`, or the process's processor time where the run wants that.
double stopwatch();
void count_processor_time(bool yes);
double median(std::vector<double> values);
/// Median seconds a call in a burst of about `budget` seconds; short calls are timed several at once.
double median_call(const std::function<void()>& work, double budget);

/// Contestants take turns, a short burst each, several rounds, so that all of them see the same machine. Whoever is
/// not running sleeps: there is a pause after each burst, longer than the thread pools go on spinning. A burst during
/// which other processes took processor time is repeated a few times, and the least disturbed one counts.
class Contest {
 public:
  explicit Contest(Suite& suite) : suite_(suite) {}
  /// Work of this process.
  Contest& local(const std::string& name, std::function<void()> work);
  /// Work of a peer, as bench/peers names it; does nothing where the peer cannot run or lacks the work.
  Contest& peer(const PeerConfig& config, const std::string& work);
  /// PyTorch eager and, where asked for, compiled; both with and without reuse of its heap. What compiling and the
  /// first call took together becomes a note.
  Contest& torch(const std::string& work, bool compile);
  /// A turn of each; `run` is as many rounds as the options say, and up to three times as many where rounds of this
  /// process's own work disagree.
  void round();
  void run();

  bool has(const std::string& name) const { return find(name) != nullptr; }
  /// Seconds a call of each round so far; empty when there is no such contestant.
  std::vector<double> rounds(const std::string& name) const;
  /// The median of the rounds; NaN when there is no such contestant.
  double seconds(const std::string& name) const;
  /// How many times as fast `name` is as `other`: the median of the rounds' ratios.
  double ratio(const std::string& name, const std::string& other) const;
  /// Of the contestants whose name begins so, the fastest; empty when there is none.
  std::string fastest(const std::string& prefix) const;
  /// Each contestant's time, and a note if other processes could not be kept out.
  void describe(Row& row) const;

 private:
  struct Contestant {
    std::string name;
    std::function<double(double)> burst;  // budget -> median seconds a call
    int pid = 0;
    std::vector<double> rounds;
    double disturbed = 0;  // processors that others took, the worst of the rounds
  };
  const Contestant* find(const std::string& name) const;
  void take_turn(Contestant& c) const;
  bool disagrees() const;

  Suite& suite_;
  std::vector<Contestant> contestants_;
  std::vector<std::string> notes_;
};

/// The sections. Each adds its rows to the report.
void limits(Suite& suite);
void linear(Suite& suite);
void integers(Suite& suite);
void rows(Suite& suite);
void row_programs(Suite& suite);
void cross_entropy(Suite& suite);
void lora(Suite& suite);
void gemv(Suite& suite);
void tiny(Suite& suite);
void plan(Suite& suite);
void seeds(Suite& suite);
void block(Suite& suite);
void block_memory(Suite& suite);
void training(Suite& suite);
/// The Trainer's rows of that section.
void trainer(Suite& suite);
void generation(Suite& suite);
void embeddings(Suite& suite);
void embeddings_bf16(Suite& suite);
void training_compiled(Suite& suite);
void load(Suite& suite);
void tokenize(Suite& suite);
void demo(Suite& suite);

}  // namespace bench
