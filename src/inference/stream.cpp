// A generation on a thread of its own, read piece by piece.
#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "inference/engine.h"
#include "metal_candle/error.hpp"
#include "metal_candle/generate.hpp"

namespace metal_candle {

struct GenerationStream::Work {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Piece> pieces;
  bool ended = false, cancelled = false;
  std::exception_ptr error;
  Generated result;
  std::thread thread;
  const pid_t process = getpid();

  /// A child of fork has a copy of the stream, and no thread that goes on with it.
  bool elsewhere() const { return getpid() != process; }
  void check() const {
    if (elsewhere())
      throw UserError(ErrorKind::argument,
                      "generation stream: it was begun in another process, which this one was forked from");
  }
  bool take_in(const Piece& piece) {
    const std::lock_guard lock(mutex);
    pieces.push_back(piece);
    changed.notify_all();
    return !cancelled;
  }
  void end(Generated&& generated, std::exception_ptr failed) {
    const std::lock_guard lock(mutex);
    result = std::move(generated);
    error = std::move(failed);
    ended = true;
    changed.notify_all();
  }
  void cancel() {
    if (elsewhere()) return;
    const std::lock_guard lock(mutex);
    cancelled = true;
  }
  static void finish(std::shared_ptr<Work> work) {
    if (!work) return;
    if (work->elsewhere()) {  // its thread cannot be joined, so it stays
      (void)new std::shared_ptr<Work>(std::move(work));
      return;
    }
    work->cancel();
    if (work->thread.joinable()) work->thread.join();
  }
};

GenerationStream::GenerationStream(std::shared_ptr<Work> work) : work_(std::move(work)) {}
GenerationStream::GenerationStream(GenerationStream&&) noexcept = default;
GenerationStream& GenerationStream::operator=(GenerationStream&& other) noexcept {
  if (work_ != other.work_) Work::finish(std::exchange(work_, std::move(other.work_)));
  return *this;
}
GenerationStream::~GenerationStream() { Work::finish(std::move(work_)); }

std::optional<Piece> GenerationStream::next() {
  work_->check();
  std::unique_lock lock(work_->mutex);
  work_->changed.wait(lock, [&] { return work_->ended || !work_->pieces.empty(); });
  if (work_->pieces.empty()) {
    if (work_->error) std::rethrow_exception(work_->error);
    return std::nullopt;
  }
  std::optional<Piece> piece(std::move(work_->pieces.front()));
  work_->pieces.pop_front();
  return piece;
}

void GenerationStream::cancel() { work_->cancel(); }

Generated GenerationStream::result() {
  work_->check();
  std::unique_lock lock(work_->mutex);
  work_->changed.wait(lock, [&] { return work_->ended; });
  if (work_->error) std::rethrow_exception(work_->error);
  return work_->result;
}

GenerationStream Generator::stream(Ids prompt, const GenerateOptions& options) {
  auto work = std::make_shared<GenerationStream::Work>();
  // The thread is joined before `work` goes, so it needs no reference of its own.
  work->thread =
      std::thread([this, w = work.get(), ids = std::vector<std::int32_t>(prompt.begin(), prompt.end()), options] {
        try {
          w->end(generate(ids, options, [w](const Piece& piece) { return w->take_in(piece); }), nullptr);
        } catch (...) {
          w->end({}, std::current_exception());
        }
      });
  return GenerationStream(std::move(work));
}

}  // namespace metal_candle
