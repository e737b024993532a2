// The signals that end a command which has something to put in order first.
#pragma once

#include <signal.h>

#include <array>
#include <optional>

namespace metal_candle::cli {

/// While it lives, SIGINT, SIGTERM and SIGHUP (the terminal was closed) call a function. One that whoever started the
/// command had it ignore (nohup; a script's `&`) stays ignored.
class SignalHandlers {
 public:
  /// `flags`: sigaction's.
  SignalHandlers(void (*handler)(int), int flags);
  ~SignalHandlers();
  SignalHandlers(const SignalHandlers&) = delete;
  SignalHandlers& operator=(const SignalHandlers&) = delete;

 private:
  static constexpr std::array kSignals{SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, kSignals.size()> before_ = {};
};

/// While it lives, a signal ends the command only when it is gone: declare it before what must be cleaned up, and give up
/// once a signal was seen. A second signal of the kind does not wait.
class EndsCleanly {
 public:
  EndsCleanly();
  ~EndsCleanly();
  EndsCleanly(const EndsCleanly&) = delete;
  EndsCleanly& operator=(const EndsCleanly&) = delete;

  static bool seen();

 private:
  std::optional<SignalHandlers> handlers_;
};

}  // namespace metal_candle::cli
