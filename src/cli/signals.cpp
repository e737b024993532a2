#include "cli/signals.h"

#include <atomic>

namespace metal_candle::cli {

SignalHandlers::SignalHandlers(void (*handler)(int), int flags) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    sigaction(kSignals[i], nullptr, &before_[i]);
    if (before_[i].sa_handler != SIG_IGN) sigaction(kSignals[i], &action, nullptr);
  }
}

SignalHandlers::~SignalHandlers() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
}

namespace {

std::atomic<int> ended_by{0};

extern "C" void note_end(int signal) { ended_by = signal; }

}  // namespace

// Not SA_RESTART: who waits for input is woken.
EndsCleanly::EndsCleanly() { handlers_.emplace(note_end, static_cast<int>(SA_RESETHAND)); }

EndsCleanly::~EndsCleanly() {
  handlers_.reset();
  if (seen()) raise(ended_by);
}

bool EndsCleanly::seen() { return ended_by != 0; }

}  // namespace metal_candle::cli
