// Checkpoints: a run that was stopped, killed or damaged and then resumed is the run that was not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <set>
#include <thread>

#include "io/files.h"
#include "metal_candle/metal_candle.hpp"
#include "metal_candle/trainer.hpp"
#include "tests/support/tiny_llama.h"
#include "tests/training/training_support.h"
#include "training/checkpoint.h"
#include "training/hash.h"

extern char** environ;

namespace metal_candle {
namespace {

namespace fs = std::filesystem;
using test::TempFolder;
using test::text_of;

constexpr std::int64_t kSteps = 6;

/// Everything that has a state: dropout, an order that is drawn, micro-batches, evaluations, a schedule.
TrainOptions full_options(const fs::path& output, bool resume) {
  TrainOptions o{.output = output, .learning_rate = 0.02, .schedule = ScheduleKind::cosine, .warmup = 2};
  o.lora.rank = 4;
  o.lora.alpha = 8;
  o.lora.dropout = 0.2;
  o.batch_size = 3;
  o.accumulate = 2;
  o.steps = kSteps;
  o.eval_every = 2;
  o.save_every = 1;
  o.resume = resume;
  return o;
}
std::unique_ptr<Trainer> full_trainer(const fs::path& output, bool resume) {
  std::vector<Sample> rows = test::tiny_rows(20), valid(rows.begin() + 16, rows.end());
  rows.resize(16);
  return std::make_unique<Trainer>(test::tiny_llama(), Dataset(rows), Dataset(valid), full_options(output, resume));
}

/// All that a finished run has written and that must not depend on how it came about.
std::map<std::string, std::string> remains(const fs::path& output) {
  std::map<std::string, std::string> files;
  const std::string last = "checkpoints/step-" + std::to_string(kSteps) + "/";
  for (const std::string name : {"adapter_config.json", "adapter_model.safetensors", "training_log.jsonl", "loss.svg"})
    files[name] = text_of(output / name);
  for (const std::string name :
       {"adapter_model.safetensors", "optimizer.safetensors", "state.json", "training_log.jsonl", "manifest.json"})
    files[last + name] = text_of(output / last / name);
  return files;
}
void expect_same(const fs::path& output, const std::map<std::string, std::string>& want, const std::string& how) {
  for (const auto& [name, bytes] : remains(output)) {
    EXPECT_FALSE(bytes.empty()) << name;
    EXPECT_TRUE(bytes == want.at(name)) << how << ": " << name << " differs";
  }
}
const std::map<std::string, std::string>& uninterrupted() {
  static const auto files = [] {
    const TempFolder folder;
    full_trainer(folder.path, false)->run();
    return remains(folder.path);
  }();
  return files;
}

TEST(Resume, AfterAStopGivesTheSameBytes) {
  for (const std::int64_t stop : {1, 2, 5}) {
    const TempFolder folder;
    const auto first = full_trainer(folder.path, true);
    const TrainResult r = first->run({.step = [&](const StepEvent& e) {
      if (e.step == stop) first->request_stop();
    }});
    EXPECT_EQ(r.status, TrainResult::Status::stopped);
    const auto second = full_trainer(folder.path, true);
    EXPECT_EQ(second->step(), stop);
    EXPECT_EQ(second->run().status, TrainResult::Status::done);
    expect_same(folder.path, uninterrupted(), "stopped after " + std::to_string(stop));
  }
}

TEST(Resume, OfAFinishedRunChangesNothing) {
  const TempFolder folder;
  full_trainer(folder.path, false)->run();
  int steps = 0;
  full_trainer(folder.path, true)->run({.step = [&](const StepEvent&) { ++steps; }});
  EXPECT_EQ(steps, 0);
  expect_same(folder.path, uninterrupted(), "resumed at the end");
}

// Wherever a callback throws, all that was due comes when the same trainer goes on.
TEST(Resume, InTheSameTrainerAfterACallbackThrew) {
  struct Thrown {};
  for (const std::int64_t at : {1, 4, 6})
    for (const int kind : {0, 1, 2}) {
      const TempFolder folder;
      const auto trainer = full_trainer(folder.path, false);
      const auto thrown = [=](int here, std::int64_t step) {
        if (here == kind && step == at) throw Thrown();
      };
      const TrainCallbacks throwing{.step = [&](const StepEvent& e) { thrown(0, e.step); },
                                    .eval = [&](const EvalEvent& e) { thrown(1, e.step); },
                                    .checkpoint = [&](const CheckpointEvent& e) { thrown(2, e.step); }};
      if (kind == 1 && at == 1) continue;  // no evaluation there
      EXPECT_THROW(trainer->run(throwing), Thrown);
      EXPECT_EQ(trainer->run().status, TrainResult::Status::done);
      expect_same(folder.path, uninterrupted(), "thrown at " + std::to_string(at));
    }
}

// ---- killed ---------------------------------------------------------------------------------------------------------

/// The process that gets killed: this program, running this one test.
TEST(KilledChild, Trains) {
  const char* output = std::getenv("MC_TEST_TRAIN_OUTPUT");
  if (output == nullptr) GTEST_SKIP() << "runs as a child of the tests below";
  std::unique_ptr<io::WriteFaults> fault;
  if (const char* n = std::getenv("MC_TEST_TRAIN_DIE_AT"))
    fault = std::make_unique<io::WriteFaults>(std::atoi(n), io::WriteFaults::Kind::die);
  full_trainer(output, true)->run();
}

pid_t start_child(const fs::path& output, int die_at) {
  std::string self = fs::read_symlink("/proc/self/exe").string(), filter = "--gtest_filter=KilledChild.Trains";
  std::string quiet = "--gtest_brief=1";
  char* argv[] = {self.data(), filter.data(), quiet.data(), nullptr};
  std::vector<std::string> extra{"MC_TEST_TRAIN_OUTPUT=" + output.string()};
  if (die_at > 0) extra.push_back("MC_TEST_TRAIN_DIE_AT=" + std::to_string(die_at));
  std::vector<char*> env;
  for (std::string& e : extra) env.push_back(e.data());
  for (char** e = environ; *e != nullptr; ++e) env.push_back(*e);
  env.push_back(nullptr);
  pid_t pid = -1;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", 1 /* write only */, 0);
  EXPECT_EQ(posix_spawn(&pid, self.c_str(), &actions, nullptr, argv, env.data()), 0);
  posix_spawn_file_actions_destroy(&actions);
  return pid;
}
/// True if it ended by itself, and well.
bool finished(pid_t pid) {
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
void resume_and_compare(const fs::path& output, const std::string& how) {
  EXPECT_EQ(full_trainer(output, true)->run().status, TrainResult::Status::done) << how;
  expect_same(output, uninterrupted(), how);
}

TEST(Resume, AfterBeingKilledAtFiftyRandomTimes) {
  uninterrupted();
  double whole = 0.5;  // seconds that a run takes
  {
    const TempFolder folder;
    const auto begin = std::chrono::steady_clock::now();
    ASSERT_TRUE(finished(start_child(folder.path, 0)));
    whole = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    expect_same(folder.path, uninterrupted(), "another process");
  }
  std::uint64_t killed = 0;
  // The machine may be faster by now than when it was timed: a child that was done before its time is no kill.
  for (std::uint64_t i = 0; killed < 50 && i < 400; ++i) {
    const TempFolder folder;
    const double part = static_cast<double>(Key(42).fold(i).value % 1000) / 1000;
    const pid_t pid = start_child(folder.path, 0);
    std::this_thread::sleep_for(std::chrono::duration<double>(part * whole));
    kill(pid, SIGKILL);
    if (finished(pid)) whole *= 0.9;
    else ++killed;
    resume_and_compare(folder.path, "killed after " + std::to_string(part) + " of its time");
  }
  EXPECT_EQ(killed, 50u);
}

/// How many calls of the kind that faults count a run makes.
int calls_of_a_run() {
  const TempFolder folder;
  const io::WriteFaults counter(0, io::WriteFaults::Kind::error, 0);
  full_trainer(folder.path, true)->run();
  return counter.calls();
}

TEST(Resume, AfterDyingInFiftyOfItsWrites) {
  const int calls = calls_of_a_run();
  ASSERT_GT(calls, 100);
  std::error_code error;
  for (std::uint64_t i = 0; i < 50; ++i) {
    const int at = 1 + static_cast<int>(Key(43).fold(i).value % static_cast<std::uint64_t>(calls));
    const TempFolder folder;
    EXPECT_FALSE(finished(start_child(folder.path, at))) << at;
    for (const auto& entry : fs::directory_iterator(folder.path / "checkpoints", error))
      EXPECT_TRUE(entry.path().string().find(".tmp-") != std::string::npos ||
                  fs::exists(entry.path() / "manifest.json"))
          << "died in write " << at;
    resume_and_compare(folder.path, "died in write " + std::to_string(at));
  }
}

/// Every n-th call; all of them in the slow tests, which set this variable.
int stride(int usual) { return std::getenv("METAL_CANDLE_THOROUGH") ? 1 : usual; }

/// A run whose n-th call goes wrong says so by a FileError, and leaves what a resumed one can go on from.
void fail_and_resume(int at, io::WriteFaults::Kind kind, int error) {
  const TempFolder folder;
  {
    const io::WriteFaults fault(at, kind, error);
    EXPECT_THROW(full_trainer(folder.path, true)->run(), FileError) << "call " << at;
  }
  for (const auto& entry : fs::recursive_directory_iterator(folder.path))
    EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path() << " was left by call " << at;
  resume_and_compare(folder.path, "write " + std::to_string(at) + " failed");
}

TEST(Resume, AfterWritesThatFailed) {
  const int calls = calls_of_a_run();
  for (int at = 1; at <= calls; at += stride(23))
    fail_and_resume(at, io::WriteFaults::Kind::error, at % 2 == 0 ? ENOSPC : EIO);
}

TEST(Resume, AfterADiskThatWasFullFromSomeWriteOn) {
  const int calls = calls_of_a_run();
  for (int at = 5; at + 20 < calls; at += stride(29)) fail_and_resume(at, io::WriteFaults::Kind::full, ENOSPC);
}

TEST(Resume, WritesThatAreCutShortAreGoneOnWith) {
  const int calls = calls_of_a_run();
  for (int at = 1; at <= calls; at += stride(31)) {
    const TempFolder folder;
    const io::WriteFaults fault(at, io::WriteFaults::Kind::short_write);
    full_trainer(folder.path, true)->run();
    expect_same(folder.path, uninterrupted(), "write " + std::to_string(at) + " was short");
  }
}

TEST(Resume, AfterARealDiskWasFull) {
  int failed = 0;
  for (int pages = 6; pages < 60; pages += 3) {
    const TempFolder folder;
    const std::string size = "size=" + std::to_string(4 * pages) + "k", more = "size=64m";
    if (mount("tmpfs", folder.path.c_str(), "tmpfs", 0, size.c_str()) != 0) GTEST_SKIP() << "needs the right to mount";
    try {
      full_trainer(folder.path, true)->run();
    } catch (const FileError& e) {
      ++failed;
      EXPECT_TRUE(e.fault() == FileFault::transfer || e.fault() == FileFault::create) << e.what();
    }
    EXPECT_EQ(mount("tmpfs", folder.path.c_str(), "tmpfs", MS_REMOUNT, more.c_str()), 0);
    resume_and_compare(folder.path, size);
    EXPECT_EQ(umount(folder.path.c_str()), 0);
  }
  EXPECT_GT(failed, 3);
}

// ---- damaged, or of another run -------------------------------------------------------------------------------------

/// A run that stopped after step 4, with checkpoints of steps 3 and 4.
void stop_after_four(const fs::path& output) {
  const auto trainer = full_trainer(output, false);
  trainer->run({.step = [&](const StepEvent& e) {
    if (e.step == 4) trainer->request_stop();
  }});
}

TEST(Resume, FallsBackToTheCheckpointBefore) {
  const std::vector<std::function<void(const fs::path&)>> damages{
      [](const fs::path& f) { fs::resize_file(f / "optimizer.safetensors", 100); },
      [](const fs::path& f) { fs::remove(f / "manifest.json"); },
      [](const fs::path& f) { fs::remove(f / "adapter_model.safetensors"); },
      [](const fs::path& f) { fs::remove_all(f), std::ofstream(f) << "a file"; },
      [](const fs::path& f) {
        std::fstream file(f / "adapter_model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(-5, std::ios::end);
        file.put('x');
      }};
  for (const auto& damage : damages) {
    const TempFolder folder;
    stop_after_four(folder.path);
    damage(folder.path / "checkpoints/step-4");
    std::vector<std::string> said;
    const auto trainer = full_trainer(folder.path, true);
    EXPECT_EQ(trainer->step(), 3);
    trainer->run({.message = [&](const std::string& m) { said.push_back(m); }});
    ASSERT_EQ(said.size(), 1u);
    EXPECT_THAT(said[0], testing::HasSubstr("step 4 is damaged"));
    expect_same(folder.path, uninterrupted(), said[0]);
  }
}

/// Changes the state of a checkpoint as if another program had written it.
void rewrite_state(const fs::path& checkpoint, const std::function<void(Json&)>& change) {
  Json state = Json::load(checkpoint / "state.json"), manifest = Json::load(checkpoint / "manifest.json");
  change(state);
  const std::string text = state.dump(2) + "\n";
  std::ofstream(checkpoint / "state.json", std::ios::binary) << text;
  Json files = manifest.at("files");
  files.set("state.json",
            Json::object({{"bytes", text.size()}, {"hash", training::hex(training::Hash().add(text).value())}}));
  manifest.set("files", files);
  std::ofstream(checkpoint / "manifest.json", std::ios::binary) << manifest.dump(2);
}

TEST(Resume, SaysThatAnotherMachineMayGiveOtherBits) {
  const TempFolder folder;
  stop_after_four(folder.path);
  const Json made = Json::load(folder.path / "checkpoints/step-4/state.json").at("made_by");
  EXPECT_EQ(made.at("version").as_string(), version());
  EXPECT_EQ(made.at("instruction_set").as_string(), instruction_set());
  EXPECT_FALSE(instruction_set().empty());
  rewrite_state(folder.path / "checkpoints/step-4", [](Json& state) {
    state.set("made_by", Json::object({{"version", version()}, {"instruction_set", "ABACUS"}}));
  });
  std::vector<std::string> said;
  const auto trainer = full_trainer(folder.path, true);
  EXPECT_EQ(trainer->step(), 4) << "it goes on all the same";
  trainer->run({.message = [&](const std::string& m) { said.push_back(m); }});
  ASSERT_EQ(said.size(), 1u);
  EXPECT_THAT(said[0], testing::AllOf(testing::HasSubstr("ABACUS"), testing::HasSubstr(instruction_set())));
  const TempFolder before;
  stop_after_four(before.path);
  rewrite_state(before.path / "checkpoints/step-4", [](Json& state) {
    Json without = Json::object();
    for (const JsonMember& m : state.items())
      if (m.key != "made_by") without.set(m.key, m.value);
    state = without;
  });
  const auto old = full_trainer(before.path, true);
  said.clear();
  old->run({.message = [&](const std::string& m) { said.push_back(m); }});
  EXPECT_TRUE(said.empty()) << "of a version that did not write it, nothing is known";
}

std::string refusal(const fs::path& output, const std::function<void(TrainOptions&, std::vector<Sample>&)>& change,
                    const Model& model = test::tiny_llama()) {
  std::vector<Sample> rows = test::tiny_rows(20), valid(rows.begin() + 16, rows.end());
  rows.resize(16);
  TrainOptions options = full_options(output, true);
  change(options, rows);
  try {
    Trainer(model, Dataset(rows), Dataset(valid), options);
  } catch (const FileError& e) {
    return e.field();
  }
  return "accepted";
}

TEST(Resume, RefusesTheCheckpointOfAnotherRunByWhatDiffers) {
  const TempFolder folder;
  stop_after_four(folder.path);
  const auto nothing = [](TrainOptions&, std::vector<Sample>&) {};
  EXPECT_EQ(refusal(folder.path, [](TrainOptions& o, std::vector<Sample>&) { o.learning_rate = 0.03; }),
            "identity.options.learning_rate");
  EXPECT_EQ(refusal(folder.path, [](TrainOptions& o, std::vector<Sample>&) { o.lora.alpha = 9; }),
            "identity.options.lora.lora_alpha");
  EXPECT_EQ(refusal(folder.path, [](TrainOptions&, std::vector<Sample>& r) { r[2].tokens[1] = 7; }), "identity.rows");
  EXPECT_EQ(refusal(folder.path, nothing, test::tiny_llama(true)), "identity.weights");
  EXPECT_EQ(refusal(folder.path, [](TrainOptions& o, std::vector<Sample>&) { o.resume = false; }), "");
  EXPECT_EQ(refusal(folder.path, [](TrainOptions& o, std::vector<Sample>&) { o.save_every = 3; }), "accepted");
  EXPECT_EQ(refusal(folder.path, [](TrainOptions& o, std::vector<Sample>&) { o.lora.base_model = "../m"; }),
            "accepted");
  EXPECT_EQ(refusal(folder.path, nothing), "accepted");
  rewrite_state(folder.path / "checkpoints/step-4", [](Json& state) {
    Json identity = state.at("identity");
    identity.set("format", 1);
    state.set("identity", identity);
  });
  EXPECT_EQ(refusal(folder.path, nothing), "identity.format");
}

TEST(Resume, NoticesAnyNumberOfTheWeights) {
  const Model model = test::tiny_llama();
  const std::uint64_t before = training::fingerprint(model.parameters());
  EXPECT_EQ(training::fingerprint(test::tiny_llama().parameters()), before);
  // Larger than a piece that is hashed at a time, and read through a view.
  std::vector<float> numbers(700'000, 0.5f);
  const auto of_large = [&] {
    const Tensor t = Tensor::from(numbers, {700, 1000});
    ParamTree tree, turned;
    tree.insert("large", t);
    turned.insert("large", t.transpose(0, 1).eval());
    return std::pair(training::fingerprint(tree), training::fingerprint(turned));
  };
  std::set<std::uint64_t> seen{of_large().first, of_large().second};
  EXPECT_EQ(seen.size(), 2u);
  for (const std::size_t at : {0, 1, 5000, 262143, 262144, 400001, 699999}) {
    numbers[at] = -numbers[at];
    seen.insert({of_large().first, of_large().second});
  }
  EXPECT_EQ(seen.size(), 16u);
}

TEST(Resume, RefusesAnotherFirstAdapter) {
  const TempFolder first, moved, folder;
  const Model model = test::tiny_llama();
  const LoRAConfig config{.rank = 4, .alpha = 8};
  LoRAAdapter::create(model, config, Key(3)).save(first.path);
  LoRAAdapter::create(model, config, Key(3)).save(moved.path);
  const auto beginning_with = [](const fs::path& adapter) {
    return [=](TrainOptions& o, std::vector<Sample>&) { o.init_adapter = adapter; };
  };
  const auto stop_at_three = [&](const fs::path& output, const fs::path& adapter) {
    std::vector<Sample> rows = test::tiny_rows(20), valid(rows.begin() + 16, rows.end());
    rows.resize(16);
    TrainOptions options = full_options(output, false);
    options.init_adapter = adapter;
    Trainer trainer(model, Dataset(rows), Dataset(valid), options);
    trainer.run({.step = [&](const StepEvent& e) {
      if (e.step == 3) trainer.request_stop();
    }});
  };
  stop_at_three(folder.path, first.path);
  EXPECT_EQ(refusal(folder.path, beginning_with(first.path)), "accepted");
  EXPECT_EQ(refusal(folder.path, beginning_with(moved.path)), "accepted") << "the same adapter elsewhere";
  EXPECT_EQ(refusal(folder.path, [](TrainOptions&, std::vector<Sample>&) {}), "identity.options.lora");
  LoRAAdapter::create(model, config, Key(4)).save(first.path);
  EXPECT_EQ(refusal(folder.path, beginning_with(first.path)), "identity.options.init_adapter.weights");
  Json other = Json::load(moved.path / "adapter_config.json");
  other.set("lora_alpha", 80);
  std::ofstream(moved.path / "adapter_config.json") << other.dump();
  EXPECT_EQ(refusal(folder.path, beginning_with(moved.path)), "identity.options.init_adapter.lora_alpha");
  // A run that was stopped has written over a first adapter that lay in its output.
  stop_at_three(first.path, first.path);
  EXPECT_EQ(refusal(first.path, beginning_with(first.path)), "accepted");
}

}  // namespace
}  // namespace metal_candle
