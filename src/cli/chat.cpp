// metal-candle chat
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
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
                            sampling_text(options_.sampling)));
    for (std::string line;;) {
      if (people && !run_.quiet()) tell("> ");
      if (!std::getline(std::cin, line)) return interrupted ? kInterrupted : kDone;
      if (line.ends_with('\r')) line.pop_back();
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

  /// The tokens of a conversation that fits into the context with some room for an answer: its oldest questions and
  /// answers are dropped until it does. False where the newest message alone is too long.
  bool fit(Json& messages, std::vector<std::int32_t>& prompt) {
    const std::int64_t context = bundle_.model.config().context();
    const std::int64_t room = std::min<std::int64_t>(options_.max_tokens, context / 4);
    const std::size_t first = run_.has("--system") ? 1 : 0;
    int dropped = 0;
    for (;; ++dropped) {
      prompt = chat_tokens(bundle_, chat_, messages);
      if (std::ssize(prompt) + room <= context || messages.size() <= first + 1) break;
      Json rest = Json::array();
      for (std::size_t i = 0; i < messages.size(); ++i)
        if (i < first || i >= first + 2) rest.push_back(messages.elements()[i]);
      messages = std::move(rest);
    }
    const bool fits = std::ssize(prompt) <= context;
    if (fits && dropped > 0)
      warn(run_, fmt::format("the conversation fills the model's context of {} tokens: the oldest {} of its questions "
                             "and answers {} forgotten",
                             context, dropped, dropped == 1 ? "is" : "are"));
    return fits;
  }

  /// The conversation goes on without the message.
  void refuse(std::size_t tokens) {
    const std::string why = fmt::format(
        "the message has {} tokens (with the system message and the template), the "
        "model's context {}; it was left out",
        tokens, bundle_.model.config().context());
    if (run_.json()) write_event(Json::object({{"event", "error"}, {"index", turn_}, {"message", why}}));
    tell(fmt::format("metal-candle: {}\n", why));
  }

  void answer(const std::string& line) {
    Json messages = messages_;
    messages.push_back(message("user", line));
    std::vector<std::int32_t> prompt;
    if (!fit(messages, prompt)) return refuse(prompt.size());
    check_ids(run_, bundle_, prompt);
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
    if (!interrupted) warn_if_full(run_, bundle_, g, options_.max_tokens);
    messages.push_back(message("assistant", g.text));
    messages_ = std::move(messages);
    ++turn_;
    options_.sampling.seed += 1;
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
  int code = kDone;
  naming_model(run, [&] { code = Talk(run, bundle).run(); });
  return code;
}

}  // namespace metal_candle::cli
