// Examples to learn from: rows of a jsonl file as tokens, and which of them are to be predicted.
//
//   mc::Dataset train = mc::Dataset::load("train.jsonl", tokenizer, mc::chat_renderer(chat), {.end_token = 2});
//   mc::RowOrder order(train.size(), /*shuffle=*/true, /*seed=*/1);
//   mc::PackedRows rows = mc::pack({{&train[order[0]], &train[order[1]]}}, 2);
//
// A row is one of
//   {"text": …}                      everything is predicted; the end token follows if it is not there
//   {"prompt": …, "completion": …}   joined as they stand, then the end token; the prompt is not predicted
//   {"messages": [{"role": …, "content": …}, …]}   as the chat template shows them; of each answer the content and
//                                    the end-of-turn token behind it are predicted, and calls of tools with all that
//                                    the template makes of them
// Other members are left alone, but for "tools", which the template gets. Blank lines, a byte-order mark and CRLF are
// legal; anything else that is not such a row is a FileError "file:line: …". A row longer than `max_length` is cut at
// its end, and left out when nothing to predict remains; `counts` says how many.
//
// A dataset is immutable; a RowOrder is one thread's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace metal_candle {

class ChatTemplate;
class Json;
class Tokenizer;

/// Shows messages as the model reads them; `tools` is the row's (or null), `prompt` whether to end with what makes the
/// model answer. What it throws becomes an error about the row.
using ChatRenderer = std::function<std::string(const Json& messages, const Json& tools, bool prompt)>;
/// By a model's template, of which it keeps a copy.
ChatRenderer chat_renderer(const ChatTemplate& chat);

struct Sample {
  std::vector<std::int32_t> tokens;
  /// Whether token i is to be predicted from those before it; never the first.
  std::vector<bool> supervised;
  std::int64_t line = 0;
};

/// What of prompts and messages is learned.
enum class TrainOn { answers, all };
TrainOn train_on(std::string_view name);

struct DatasetOptions {
  std::int64_t max_length = 1024;
  TrainOn train_on = TrainOn::answers;
  /// Ends texts and completions.
  std::int32_t end_token = 0;
};

class Dataset {
 public:
  /// `chat` may be empty; rows with messages are then an error.
  static Dataset load(const std::filesystem::path& jsonl, const Tokenizer& tokenizer, const ChatRenderer& chat,
                      const DatasetOptions& options);
  /// The same from text; `origin` stands for the file in errors.
  static Dataset parse(std::string_view jsonl, const std::string& origin, const Tokenizer& tokenizer,
                       const ChatRenderer& chat, const DatasetOptions& options);
  Dataset() = default;
  explicit Dataset(std::vector<Sample> samples) : samples_(std::move(samples)) {}

  std::size_t size() const { return samples_.size(); }
  const Sample& operator[](std::size_t i) const { return samples_[i]; }
  auto begin() const { return samples_.begin(); }
  auto end() const { return samples_.end(); }

  struct Counts {
    std::int64_t rows = 0;                     // read: size() + left_out
    std::int64_t cut = 0;                      // to max_length
    std::int64_t left_out = 0;                 // because nothing to predict remained
    std::vector<std::int64_t> first_left_out;  // lines, at most five
  };
  const Counts& counts() const { return counts_; }
  /// Of all tokens and of what is predicted: another dataset has another one.
  std::uint64_t fingerprint() const;

 private:
  std::vector<Sample> samples_;
  Counts counts_;
};

/// The files of a dataset: a jsonl file, or a folder with train.jsonl and perhaps valid.jsonl and test.jsonl.
struct DatasetFiles {
  std::filesystem::path train;
  std::optional<std::filesystem::path> valid, test;
  static DatasetFiles find(const std::filesystem::path& file_or_folder);
};

/// Which row is read at a position of the endless stream of rows: round and round in file order, or each round in an
/// order of its own, drawn from the seed. It depends on nothing else, so a position is all that a checkpoint keeps.
class RowOrder {
 public:
  RowOrder(std::size_t rows, bool shuffle, std::uint64_t seed);
  std::size_t operator[](std::int64_t position);

 private:
  void draw(std::int64_t round);

  std::size_t rows_;
  bool shuffle_;
  std::uint64_t seed_;
  std::int64_t round_ = -1;
  std::vector<std::uint32_t> permutation_;
};

/// Rows one after the other, as a model reads them: no row sees another. What is missing to a length for which there is
/// a plan already is filled by a sequence of its own that nothing is learned from.
struct PackedRows {
  static constexpr std::int32_t kIgnored = -100;
  std::vector<std::int32_t> ids, positions, lengths;  // [t]
  std::vector<std::int32_t> targets;                  // [t]: the token behind it, or kIgnored
  std::vector<std::int32_t> offsets;        // [sequences + 2]: empty sequences at the end where rows are fewer
  std::int64_t tokens = 0, supervised = 0;  // of the rows, filling not counted
};
/// `sequences` is at least the number of rows; it is part of a plan's structure.
PackedRows pack(std::span<const Sample* const> rows, std::int64_t sequences);
/// The length to which `tokens` are filled: eight to an octave, so that at most an eighth is filling and lengths
/// repeat.
std::int64_t bucket_of(std::int64_t tokens);

}  // namespace metal_candle
