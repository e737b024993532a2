// metal-candle tokenize
#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/loading.h"
#include "cli/report.h"
#include "cli/rows.h"
#include "metal_candle/tokenizer.hpp"

namespace metal_candle::cli {

int tokenize(const Invocation& run) {
  run.require_one_of({"--text", "--data"});
  const Tokenizer tokenizer = Tokenizer::load(run.text("--model"));
  std::vector<std::string> texts;
  if (run.has("--text")) texts.push_back(run.text("--text"));
  else
    for (const Row& row : read_rows(run.text("--data"))) texts.push_back(row_text(row, "text"));
  const auto all = tokenizer.encode_batch(texts);
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (run.json())
      write_event(Json::object(
          {{"event", "result"}, {"index", i}, {"tokens", ids_json(all[i])}, {"text", tokenizer.decode(all[i])}}));
    else write_text(fmt::format("{}\n", fmt::join(all[i], " ")));
  }
  return kDone;
}

}  // namespace metal_candle::cli
