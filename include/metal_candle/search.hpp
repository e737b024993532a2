// Exact search by meaning: the texts of a file whose embeddings have the largest cosine with a query's.
//
//   auto index = mc::SearchIndex::open(model, "corpus.jsonl");     // made once, kept as corpus.jsonl.mc-index
//   for (const mc::SearchHit& hit : index.find("how do cats sleep?", 5)) std::cout << hit.score << " " << hit.text << "\n";
//
// An index belongs to the very bytes of its corpus and of its model; where either has changed it is made again. It is
// mapped, so that a corpus may be larger than the memory. Queries get the model's prompt "query", texts its "document",
// "passage" or "corpus", whichever comes first.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "metal_candle/embeddings.hpp"
#include "metal_candle/json.hpp"

namespace metal_candle {

struct SearchHit {
  std::int64_t index = 0;  // which text of the corpus, from 0
  float score = 0;         // cosine
  Json id;                 // the row's, or null
  std::string text;
};

struct SearchOptions {
  /// Where the index is kept; empty: beside the corpus.
  std::filesystem::path index = {};
  std::int64_t batch_tokens = EmbedOptions{}.batch_tokens;
  /// Told how many texts have been embedded while an index is made.
  std::function<void(std::int64_t done)> progress = {};
};

/// Immutable; copies share everything, and any thread may use one.
class SearchIndex {
 public:
  /// Opens the corpus's index, making it where it is missing, damaged, or of another corpus or model. Throws FileError; a
  /// file that is no index is not written over.
  static SearchIndex open(const EmbeddingModel& model, const std::filesystem::path& corpus,
                          const SearchOptions& options = {});

  /// Texts in it.
  std::int64_t size() const;
  /// Whether it was made by this `open`.
  bool is_new() const;
  /// The `most` best, best first, the earlier text first where scores are equal.
  std::vector<SearchHit> find(const std::string& query, std::int64_t most) const;
  std::vector<std::vector<SearchHit>> find(std::span<const std::string> queries, std::int64_t most) const;

 private:
  struct State;
  explicit SearchIndex(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

}  // namespace metal_candle
