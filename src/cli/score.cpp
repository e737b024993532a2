// metal-candle score
#include <fmt/format.h>

#include <cmath>

#include "cli/commands.h"
#include "cli/loading.h"
#include "cli/report.h"
#include "cli/rows.h"
#include "metal_candle/error.hpp"

namespace metal_candle::cli {

namespace {

struct Text {
  std::string text, place;
};

/// Of one token nothing is predicted: it has no likelihood.
Json result_event(std::size_t index, const std::vector<std::int32_t>& tokens, const std::vector<double>& logprobs,
                  double nll) {
  Json list = Json::array({Json()});
  for (const double p : logprobs) list.push_back(p);
  return Json::object({{"event", "result"},
                       {"index", index},
                       {"tokens", ids_json(tokens)},
                       {"logprobs", std::move(list)},
                       {"nll", logprobs.empty() ? Json() : Json(nll)},
                       {"perplexity", logprobs.empty() ? Json() : Json(std::exp(nll))}});
}

void show(const Invocation& run, std::size_t index, const std::vector<std::int32_t>& tokens,
          const std::vector<double>& logprobs) {
  double nll = 0;
  for (const double p : logprobs) nll -= p / static_cast<double>(logprobs.size());
  if (run.json()) write_event(result_event(index, tokens, logprobs, nll));
  else if (logprobs.empty()) write_text(fmt::format("{}  1 token, nothing to predict\n", index));
  else
    write_text(fmt::format("{}  perplexity {:.4f}  nll {:.4f}  {} tokens\n", index, std::exp(nll), nll, tokens.size()));
}

/// Refuses what the model cannot read before anything is computed.
std::vector<std::vector<std::int32_t>> tokens_of(const Invocation& run, const Bundle& bundle,
                                                 const std::vector<Text>& texts) {
  const std::int64_t context = bundle.model.config().context();
  std::vector<std::vector<std::int32_t>> all;
  for (const Text& text : texts) {
    const auto& tokens = all.emplace_back(bundle.tokenizer.encode(text.text));
    check_ids(run, bundle, tokens, text.place);
    const auto size = std::ssize(tokens);
    const std::string why = size == 0 ? "the text has no tokens"
                            : size > context
                                ? fmt::format("the text has {} tokens, the model's context {}", size, context)
                                : "";
    if (!why.empty() && text.place.empty()) throw UserError(ErrorKind::argument, why);
    if (!why.empty()) throw FileError(FileFault::bad, text.place, "", why);
  }
  return all;
}

}  // namespace

int score(const Invocation& run) {
  run.require_one_of({"--text", "--data"});
  std::vector<Text> texts;
  if (run.has("--text")) texts.push_back({run.text("--text"), ""});
  else
    for (const Row& row : read_rows(run.text("--data"))) texts.push_back({row_text(row, "text"), row.place});
  const Bundle bundle = load_plain(run);
  const auto all = tokens_of(run, bundle, texts);
  Generator generator = make_generator(run, bundle, 1);
  Progress progress(run, "texts", static_cast<std::int64_t>(texts.size()));
  for (std::size_t i = 0; i < all.size(); ++i) {
    std::vector<double> logprobs;
    if (all[i].size() > 1) naming_model(run, [&] { logprobs = generator.score(all[i]); });
    show(run, i, all[i], logprobs);
    if (all.size() > 1) progress.show(static_cast<std::int64_t>(i) + 1, "");
  }
  return kDone;
}

}  // namespace metal_candle::cli
