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

Json result_event(std::size_t index, const std::vector<std::int32_t>& tokens, const std::vector<double>& logprobs,
                  double nll) {
  Json list = Json::array({Json()});
  for (const double p : logprobs) list.push_back(p);
  return Json::object({{"event", "result"},
                       {"index", index},
                       {"tokens", ids_json(tokens)},
                       {"logprobs", std::move(list)},
                       {"nll", nll},
                       {"perplexity", std::exp(nll)}});
}

}  // namespace

int score(const Invocation& run) {
  run.require_one_of({"--text", "--data"});
  std::vector<Text> texts;
  if (run.has("--text")) texts.push_back({run.text("--text"), ""});
  else
    for (const Row& row : read_rows(run.text("--data"))) texts.push_back({row_text(row, "text"), row.place});
  const Bundle bundle = load_bundle(run);
  Generator generator = make_generator(run, bundle, 1);
  const std::int64_t context = bundle.model.config().context();
  Progress progress(run, "texts", static_cast<std::int64_t>(texts.size()));
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto tokens = bundle.tokenizer.encode(texts[i].text);
    const auto size = static_cast<std::int64_t>(tokens.size());
    check_ids(run, bundle, tokens, texts[i].place);
    const std::string why = size == 0 ? "the text has no tokens"
                            : size > context
                                ? fmt::format("the text has {} tokens, the model's context {}", size, context)
                                : "";
    if (!why.empty() && texts[i].place.empty()) throw UserError(ErrorKind::argument, why);
    if (!why.empty()) throw FileError(FileFault::bad, texts[i].place, "", why);
    std::vector<double> logprobs;
    if (size > 1) naming_model(run, [&] { logprobs = generator.score(tokens); });
    double nll = 0;
    for (const double p : logprobs) nll -= p;
    if (!logprobs.empty()) nll /= static_cast<double>(logprobs.size());
    if (run.json()) write_event(result_event(i, tokens, logprobs, nll));
    else write_text(fmt::format("{}  perplexity {:.4f}  nll {:.4f}  {} tokens\n", i, std::exp(nll), nll, size));
    if (texts.size() > 1) progress.show(static_cast<std::int64_t>(i) + 1, "");
  }
  return kDone;
}

}  // namespace metal_candle::cli
