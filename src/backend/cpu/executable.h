// A lowered plan: rounds of tasks.
//
// A step is one or more rounds of tasks (step.h). The steps of a phase are independent, so round r of the phase is the
// tasks of all its steps' rounds r behind each other, and a run is a flat list of rounds for the thread pool. Small
// plans run in the caller: no locks, no atomics, memory of the thread's own.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/step.h"
#include "backend/cpu/workspace.h"

namespace metal_candle::cpu {

class CpuExecutable final : public Executable {
 public:
  CpuExecutable(std::shared_ptr<const Plan> plan, std::shared_ptr<SharedWorkspace> workspace);
  void run(const Bindings& bindings, std::vector<TaskTime>* times) override;
  /// Temporaries and scratch beyond what there is.
  std::size_t bytes_to_grow() const;
  void foretell(const Bindings& bindings, PackingForecast& forecast) const;
  bool tiny() const override { return tiny_; }

 private:
  // One step's round inside a round of the run; tasks count from `first`.
  struct Unit {
    std::uint32_t first, tasks;
    int step, pass;
  };
  // A buffer whose address changes from run to run.
  struct Source {
    int buffer;
    PlanBuffer::Where where;
    int index;
  };
  struct Failure {
    std::size_t step = 0;
    std::string what = {};  // empty: none failed
  };

  void lower_steps();
  void place_shared();
  void find_sources();
  void build_rounds();
  void add_round(std::vector<int>& steps, int pass);
  void join_rounds();
  bool fetches(std::size_t round) const;

  void run_in(Workspace& workspace, const Bindings& bindings);
  void resolve(const Bindings& bindings, char* arena);
  void move_arena(char* arena);
  void bind_steps(int threads);
  void run_alone();
  void run_task(int thread, int round, std::uint32_t task);
  void run_unit(int thread, const Unit& unit, std::int64_t task);
  bool fetch_ahead(int round);
  void find_fetching();
  Failure take_failures();
  void report_failures(const Bindings& bindings);
  void collect_times(std::vector<TaskTime>& times);
  int useful_threads() const;

  std::shared_ptr<const Plan> plan_;
  std::shared_ptr<SharedWorkspace> workspace_;
  std::vector<std::unique_ptr<Step>> steps_;
  std::vector<Step*> binding_steps_;
  std::vector<int> fallible_steps_;
  bool tiny_ = false;
  double nanoseconds_ = 0;

  std::vector<Source> sources_, arena_sources_;
  std::vector<std::size_t> shared_offsets_;  // per step, behind the plan's own arena
  std::size_t arena_bytes_ = 0, scratch_bytes_ = 0;

  std::vector<Unit> units_;
  std::vector<std::uint32_t> round_units_;  // where each round's units begin; one more at the end
  std::vector<std::uint32_t> round_tasks_;
  std::vector<bool> serial_;  // per round: one task, which is all tasks of its units, in order
  std::uint32_t most_tasks_ = 0;
  std::vector<int> next_fetching_;  // per round: the next one with something worth fetching, or -1

  // Per run.
  std::uint64_t constants_ = 0;  // of the run before
  std::vector<void*> buffers_;
  RunFrame frame_;
  char* arena_ = nullptr;
  char* scratch_ = nullptr;
  // What a thread's scratch was used for last in this run.
  struct alignas(64) Last {
    const Unit* unit = nullptr;
    std::int64_t task = -1;
  };
  std::vector<Last> last_;  // by thread
  bool traced_ = false;
  std::atomic<std::uint64_t> fetched_{0};     // round + 1 in the upper half, pieces of it in the lower one
  std::vector<std::vector<TaskTime>> times_;  // by thread
};

}  // namespace metal_candle::cpu
