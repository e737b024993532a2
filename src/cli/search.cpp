// metal-candle search
#include "metal_candle/search.hpp"

#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/report.h"
#include "metal_candle/embedding_files.hpp"
#include "metal_candle/error.hpp"

namespace metal_candle::cli {

namespace {

Json hit_json(const SearchHit& hit) {
  Json out = Json::object({{"index", hit.index}, {"score", static_cast<double>(hit.score)}});
  if (!hit.id.is_null()) out.set("id", hit.id);
  out.set("text", hit.text);
  return out;
}

Json result_event(std::size_t index, const std::string& query, const std::vector<SearchHit>& hits) {
  Json list = Json::array();
  for (const SearchHit& hit : hits) list.push_back(hit_json(hit));
  return Json::object({{"event", "result"}, {"index", index}, {"query", query}, {"hits", std::move(list)}});
}

}  // namespace

int search(const Invocation& run) {
  const std::filesystem::path corpus = run.text("--corpus");
  if (corpus == "-") throw UsageError("--corpus: expected a file, beside which its index is kept; got standard input");
  run.text("--query");  // is needed
  const std::vector<std::string> queries = run.texts("--query");
  const std::int64_t top = run.whole("--top", 5, 1);
  const EmbeddingModel model = EmbeddingModel::load(run.text("--model"), {.dtype = run.dtype()});
  std::optional<Progress> progress;
  std::int64_t lines = -1;
  const auto show = [&](std::int64_t done) {
    if (lines < 0) lines = TextReader(corpus).lines().value_or(0);
    if (!progress) progress.emplace(run, "texts", lines);
    progress->show(done, "");
  };
  const SearchIndex index =
      SearchIndex::open(model, corpus,
                        {.index = run.maybe("--index").value_or(""),
                         .batch_tokens = run.whole("--batch-tokens", SearchOptions{}.batch_tokens, 1),
                         .progress = show});
  progress.reset();
  if (index.is_new()) say(run, fmt::format("indexed {} texts of {}", index.size(), corpus.string()));
  const auto found = index.find(queries, top);
  for (std::size_t i = 0; i < queries.size(); ++i) {
    if (run.json()) {
      write_event(result_event(i, queries[i], found[i]));
      continue;
    }
    if (queries.size() > 1) write_text(queries[i] + "\n");
    for (const SearchHit& hit : found[i])
      write_text(fmt::format("{:.4f}  {}  {}\n", static_cast<double>(hit.score),
                             hit.id.is_null()     ? std::to_string(hit.index)
                             : hit.id.is_string() ? std::string(hit.id.as_string())
                                                  : hit.id.dump(),
                             hit.text));
  }
  return kDone;
}

}  // namespace metal_candle::cli
