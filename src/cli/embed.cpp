// metal-candle embed
#include <fmt/format.h>

#include <chrono>
#include <deque>

#include "cli/commands.h"
#include "cli/report.h"
#include "cli/signals.h"
#include "metal_candle/embedding_files.hpp"
#include "metal_candle/embeddings.hpp"
#include "metal_candle/error.hpp"

namespace metal_candle::cli {

namespace {

using Clock = std::chrono::steady_clock;

/// The texts of the command line or of a file, and their ids.
class Input {
 public:
  explicit Input(const Invocation& run) {
    if (run.has("--input")) reader_.emplace(run.text("--input"), EndsCleanly::seen);
    else texts_ = run.texts("--text");
  }
  std::optional<std::int64_t> count() const {
    return reader_ ? reader_->lines() : static_cast<std::int64_t>(texts_.size());
  }
  bool next(std::string& text) {
    TextRow row;
    if (!reader_) {
      if (read_ == texts_.size()) return false;
      row.text = texts_[read_++];
    } else if (!reader_->next(row)) {
      return false;
    }
    text = std::move(row.text);
    ids_.push_back(std::move(row.id));
    return true;
  }
  Json next_id() {
    Json id = std::move(ids_.front());
    ids_.pop_front();
    return id;
  }

 private:
  std::optional<TextReader> reader_;
  std::vector<std::string> texts_;
  std::size_t read_ = 0;
  std::deque<Json> ids_;  // of texts whose embeddings are to come
};

EmbedOptions embed_options(const Invocation& run) {
  return {.prompt_name = run.maybe("--prompt-name"),
          .normalize = !run.has("--no-normalize"),
          .dimensions = run.whole("--dimensions", 0, 1),
          .batch_tokens = run.whole("--batch-tokens", EmbedOptions{}.batch_tokens, 1)};
}

void print(const Invocation& run, const std::string& line) {
  // An embedding is itself a line; as an event it says so.
  write_text(run.json() ? "{\"event\": \"embedding\", " + line.substr(1) + "\n" : line + "\n");
}

}  // namespace

int embed(const Invocation& run) {
  run.require_one_of({"--input", "--text"});
  const EmbedOptions options = embed_options(run);
  Input input(run);
  const EmbeddingModel model = EmbeddingModel::load(run.text("--model"), {.dtype = run.dtype()});
  std::optional<EndsCleanly> signals;
  std::optional<EmbeddingWriter> writer;
  if (const auto output = run.maybe("--output")) {
    signals.emplace();
    make_parents(*output);
    writer.emplace(*output, options.dimensions > 0 ? options.dimensions : model.width());
  }
  const auto total = input.count();
  std::optional<Progress> progress;
  if (total && *total > 1) progress.emplace(run, "texts", *total);
  const Clock::time_point start = Clock::now();
  const auto rate = [&](std::int64_t texts) {
    return static_cast<double>(texts) / std::chrono::duration<double>(Clock::now() - start).count();
  };
  const auto put = [&](std::int64_t index, std::span<const float> embedding) {
    if (EndsCleanly::seen()) throw FileError(FileFault::transfer, run.text("--output"), "", "stopped");
    const Json id = input.next_id();
    if (writer) writer->add(embedding, id);
    if (!writer || run.json()) {
      if (progress && is_terminal(1)) progress->clear();
      print(run, embedding_line(index, id, embedding));
    }
    if (progress) progress->show(index + 1, fmt::format("{:.0f} texts/s", rate(index + 1)));
  };
  const std::int64_t texts = model.for_each([&](std::string& text) { return input.next(text); }, put, options);
  if (texts == 0) {
    const std::string& file = run.text("--input");
    throw FileError(FileFault::bad, file == "-" ? "standard input" : file, "", "at least one text", "none");
  }
  progress.reset();
  if (writer) {
    writer->commit();
    const std::string ids = writer->id_file().string();
    say(run, fmt::format("{} embeddings in {}{}, made in {}, {:.0f} texts/s", texts, run.text("--output"),
                         ids.empty() ? "" : fmt::format(" (ids in {})", ids), name(model.dtype()), rate(texts)));
  }
  return kDone;
}

}  // namespace metal_candle::cli
