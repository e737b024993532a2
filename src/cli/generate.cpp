// metal-candle generate
#include <fmt/format.h>

#include <map>

#include "cli/commands.h"
#include "cli/loading.h"
#include "cli/report.h"
#include "cli/rows.h"
#include "metal_candle/error.hpp"
#include "metal_candle/runtime.hpp"

namespace metal_candle::cli {

namespace {

struct Prompt {
  std::vector<std::int32_t> tokens;
  std::string place;  // "file:line", or empty
};

/// --system goes in front of a conversation that has no system message of its own.
Json with_system(const Invocation& run, const Json& messages) {
  if (!run.has("--system") || messages.at(0).at("role").as_string() == "system") return messages;
  Json all = Json::array({message("system", run.text("--system"))});
  for (const Json& message : messages.elements()) all.push_back(message);
  return all;
}

class Prompts {
 public:
  Prompts(const Invocation& run, const Bundle& bundle) : run_(run), bundle_(bundle) {}

  std::vector<Prompt> read() {
    if (run_.has("--prompt")) return {{of_text(run_.text("--prompt")), ""}};
    std::vector<Prompt> out;
    for (const Row& row : read_rows(run_.text("--prompts"))) {
      try {
        out.push_back({of_row(row), row.place});
      } catch (const TemplateError& e) {
        fail_row(row, e.what());
      } catch (const FileError&) {
        throw;
      } catch (const UserError& e) {
        fail_row(row, e.what());
      }
    }
    return out;
  }

 private:
  std::vector<std::int32_t> of_text(const std::string& prompt) {
    if (!run_.has("--chat")) return bundle_.tokenizer.encode(prompt);
    return chat_tokens(bundle_, chat_of(run_, bundle_), with_system(run_, Json::array({message("user", prompt)})));
  }

  std::vector<std::int32_t> of_row(const Row& row) {
    const Json* messages = row.json.find("messages");
    if (!messages) return of_text(row_text(row, "prompt"));
    if (!messages->is_array() || messages->size() == 0)
      fail_row(row, "messages: expected an array of messages, got " + messages->shown());
    for (const Json& message : messages->elements()) {
      const Json* role = message.is_object() ? message.find("role") : nullptr;
      if (!role || !role->is_string())
        fail_row(row, "messages: expected objects with a role and content, got " + message.shown());
    }
    const Json* tools = row.json.find("tools");
    return chat_tokens(bundle_, chat_of(run_, bundle_), with_system(run_, *messages), tools ? *tools : Json());
  }

  const Invocation& run_;
  const Bundle& bundle_;
};

/// Refuses what the model cannot read, by the row it stands in. The last token of an answer is never read: it needs no
/// room.
void check(const Invocation& run, const Bundle& bundle, const std::vector<Prompt>& prompts, const GenerateOptions& o) {
  const std::int64_t context = bundle.model.config().context();
  for (const Prompt& prompt : prompts) {
    check_ids(run, bundle, prompt.tokens, prompt.place);
    const auto size = static_cast<std::int64_t>(prompt.tokens.size());
    std::string why;
    if (size == 0) why = "the prompt has no tokens";
    else if (size > context) why = fmt::format("the prompt has {} tokens, the model's context {}", size, context);
    else if (o.ignore_eos && size + o.max_tokens - 1 > context)
      why = fmt::format(
          "--ignore-eos wants exactly {} tokens behind {} of the prompt; the model's context of {} has room "
          "for {}",
          o.max_tokens, size, context, context - size + 1);
    if (why.empty()) continue;
    if (prompt.place.empty()) throw UserError(ErrorKind::argument, why);
    throw FileError(FileFault::bad, prompt.place, "", why);
  }
}

Json result_event(std::size_t index, const Generated& g) {
  Json logprobs = Json::array();
  for (const double p : g.logprobs) logprobs.push_back(p);
  const double later = static_cast<double>(g.tokens.size()) - 1;
  return Json::object({{"event", "result"},
                       {"index", index},
                       {"text", g.text},
                       {"tokens", ids_json(g.tokens)},
                       {"logprobs", std::move(logprobs)},
                       {"prompt_tokens", ids_json(g.prompt_tokens)},
                       {"finish_reason", name(g.finish)},
                       {"prefill_s", g.prefill_s},
                       {"decode_s", g.decode_s},
                       {"tokens_per_s", g.decode_s > 0 && later > 0 ? later / g.decode_s : 0.0},
                       {"peak_bytes", resident_memory().peak}});
}

class Answers {
 public:
  Answers(const Invocation& run, const Bundle& bundle, Generator& generator, std::vector<Prompt> prompts,
          GenerateOptions options)
      : run_(run), bundle_(bundle), generator_(generator), options_(std::move(options)) {
    for (Prompt& prompt : prompts) {
      prompts_.push_back(std::move(prompt.tokens));
      places_.push_back(std::move(prompt.place));
    }
  }

  void run() {
    Progress progress(run_, "prompts", std::ssize(prompts_));
    OnPiece on_piece;
    if (run_.has("--stream")) on_piece = [&](const Piece& piece) { return show(piece), true; };
    const OnResult on_result = [&](std::size_t index, Generated&& result) {
      waiting_.emplace(index, std::move(result));
      for (auto first = waiting_.find(next_); first != waiting_.end(); first = waiting_.find(++next_)) write(first);
      if (prompts_.size() > 1) progress.show(static_cast<std::int64_t>(next_ + waiting_.size()), "");
    };
    try {
      generator_.generate_each(prompts_, options_, on_result, on_piece);
    } catch (...) {
      while (!waiting_.empty()) write(waiting_.begin());  // work that was done is not lost
      throw;
    }
    progress.clear();
    if (prompts_.size() > 1)
      say(run_, fmt::format("{} prompts, {}", prompts_.size(), sampling_text(options_.sampling)));
  }

 private:
  void show(const Piece& piece) {
    if (run_.json()) {
      write_event(
          Json::object({{"event", "token"}, {"index", piece.index}, {"token", piece.token}, {"text", piece.text}}));
    } else if (prompts_.size() == 1 && !piece.text.empty()) {
      write_text(piece.text);
      shown_ += piece.text.size();
    }
  }

  void write(std::map<std::size_t, Generated>::iterator answer) {
    const auto [index, g] = std::move(*answer);
    waiting_.erase(answer);
    if (run_.json()) write_event(result_event(index, g));
    else
      write_text((prompts_.size() > 1 ? fmt::format("[{}] ", index) : "") +
                 g.text.substr(std::min(shown_, g.text.size())) + "\n");
    const std::string& place = places_[index];
    warn_if_full(run_, bundle_, g, options_.max_tokens, place.empty() ? "" : place + ": ");
    if (prompts_.size() == 1)
      say(run_, fmt::format("{} + {} tokens, {}; first after {:.2f} s, then {:.1f} a second", g.prompt_tokens.size(),
                            g.tokens.size(), sampling_text(options_.sampling), g.prefill_s,
                            g.decode_s > 0 ? (static_cast<double>(g.tokens.size()) - 1) / g.decode_s : 0.0));
  }

  const Invocation& run_;
  const Bundle& bundle_;
  Generator& generator_;
  std::vector<std::vector<std::int32_t>> prompts_;
  std::vector<std::string> places_;  // of the prompts: "file:line", or empty
  GenerateOptions options_;
  std::map<std::size_t, Generated> waiting_;  // for those of earlier rows
  std::size_t next_ = 0;                      // the row to be written
  std::size_t shown_ = 0;                     // bytes of the only answer that were streamed
};

}  // namespace

int generate(const Invocation& run) {
  run.require_one_of({"--prompt", "--prompts"});
  if (run.has("--system") && !run.has("--chat")) throw UsageError("--system needs --chat");
  generate_options(run);  // flags are wrong before a model is loaded
  const int batch = static_cast<int>(run.whole("--batch-size", 8, 1, 1024));
  const Bundle bundle = load_bundle(run);
  std::vector<Prompt> prompts = Prompts(run, bundle).read();
  const GenerateOptions options = generate_options(run, bundle);
  check(run, bundle, prompts, options);
  Generator generator = make_generator(run, bundle, run.has("--prompt") ? 1 : batch);
  naming_model(run, [&] { Answers(run, bundle, generator, std::move(prompts), options).run(); });
  return kDone;
}

}  // namespace metal_candle::cli
