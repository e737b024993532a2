// metal-candle chat
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <iostream>

#include "cli/commands.h"
#include "cli/loading.h"
#include "cli/report.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cli {

namespace {

std::atomic<bool> interrupted{false};

extern "C" void note_interrupt(int) { interrupted.store(true); }

/// While it lives, ^C ends the answer under way instead of the program; `read` returns on it.
class Interrupts {
 public:
  Interrupts() {
    struct sigaction action = {};
    action.sa_handler = note_interrupt;
    sigaction(SIGINT, &action, &before_);
  }
  ~Interrupts() { sigaction(SIGINT, &before_, nullptr); }
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

 private:
  struct sigaction before_ = {};
};

class Talk {
 public:
  Talk(const Invocation& run, const Bundle& bundle)
      : run_(run),
        bundle_(bundle),
        chat_(chat_of(run, bundle)),
        generator_(make_generator(run, bundle, 1)),
        options_(generate_options(run, bundle)) {
    start();
  }

  /// Until there is no more input.
  int run() {
    const Interrupts interrupts;
    const bool people = is_terminal(STDIN_FILENO);
    if (people)
      say(run_, fmt::format("Answers are {}. /reset begins anew, /quit or end of input ends; ^C ends an answer.",
                            sampling_text(options_)));
    for (std::string line;;) {
      if (people && !run_.quiet()) fmt::print(stderr, "> ");
      if (!std::getline(std::cin, line)) return interrupted ? kInterrupted : kDone;
      if (line == "/quit") return kDone;
      if (line == "/reset") {
        start();
        continue;
      }
      if (!line.empty()) answer(line);
    }
  }

 private:
  void start() {
    messages_ = Json::array();
    if (run_.has("--system")) messages_.push_back(message("system", run_.text("--system")));
  }

  void answer(const std::string& line) {
    Json messages = messages_;
    messages.push_back(message("user", line));
    const auto prompt = chat_tokens(bundle_, chat_, messages);
    interrupted = false;
    std::size_t shown = 0;
    const Generated g = generator_.generate(prompt, options_, [&](const Piece& piece) {
      if (!run_.json() && !piece.text.empty()) write_text(piece.text);
      shown += piece.text.size();
      return !interrupted;
    });
    if (run_.json())
      write_event(Json::object({{"event", "result"},
                                {"index", turn_},
                                {"text", g.text},
                                {"tokens", ids_json(g.tokens)},
                                {"finish_reason", name(g.finish)}}));
    else write_text(g.text.substr(std::min(shown, g.text.size())) + "\n");
    messages.push_back(message("assistant", g.text));
    messages_ = std::move(messages);
    ++turn_;
    options_.seed += 1;
    interrupted = false;
  }

  const Invocation& run_;
  const Bundle& bundle_;
  const ChatTemplate& chat_;
  Generator generator_;
  GenerateOptions options_;
  Json messages_;
  std::int64_t turn_ = 0;
};

}  // namespace

int chat(const Invocation& run) {
  generate_options(run);
  const Bundle bundle = load_bundle(run);
  return Talk(run, bundle).run();
}

}  // namespace metal_candle::cli
