// Datasets in files: lines to samples.
#include <algorithm>

#include "io/files.h"
#include "metal_candle/chat_template.hpp"
#include "metal_candle/dataset.hpp"
#include "metal_candle/error.hpp"
#include "training/rows.h"

namespace metal_candle {
namespace {

/// Takes the next line off the text, without its end.
std::string_view next_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

/// False when nothing to predict remains.
bool fit(Sample& sample, std::int64_t max_length, Dataset::Counts& counts) {
  if (static_cast<std::int64_t>(sample.tokens.size()) > max_length) {
    sample.tokens.resize(static_cast<std::size_t>(max_length));
    sample.supervised.resize(static_cast<std::size_t>(max_length));
    ++counts.cut;
  }
  return std::find(sample.supervised.begin(), sample.supervised.end(), true) != sample.supervised.end();
}

}  // namespace

ChatRenderer chat_renderer(const ChatTemplate& chat) {
  return [chat](const Json& messages, const Json& tools, bool prompt) {
    ChatTemplateOptions options;
    options.add_generation_prompt = prompt;
    options.tools = tools;
    return chat.render(messages, options);
  };
}

Dataset Dataset::load(const std::filesystem::path& jsonl, const Tokenizer& tokenizer, const ChatRenderer& chat,
                      const DatasetOptions& options) {
  const auto file = io::MappedFile::open(jsonl);
  const auto bytes = file->bytes();
  return parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, jsonl.string(), tokenizer, chat, options);
}

Dataset Dataset::parse(std::string_view jsonl, const std::string& origin, const Tokenizer& tokenizer,
                       const ChatRenderer& chat, const DatasetOptions& options) {
  if (options.max_length < 2) throw UserError(ErrorKind::argument, "a max_length below 2 leaves nothing to predict");
  const training::RowReader reader(tokenizer, chat, options);
  Dataset dataset;
  if (jsonl.starts_with("\xef\xbb\xbf")) jsonl.remove_prefix(3);
  for (std::int64_t number = 1; !jsonl.empty(); ++number) {
    const std::string_view line = next_line(jsonl);
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    Sample sample = reader.read(Json::parse(line, origin + ":" + std::to_string(number)));
    sample.line = number;
    ++dataset.counts_.rows;
    if (fit(sample, options.max_length, dataset.counts_)) dataset.samples_.push_back(std::move(sample));
    else if (++dataset.counts_.left_out <= 5) dataset.counts_.first_left_out.push_back(number);
  }
  if (dataset.samples_.empty())
    throw FileError(FileFault::bad, origin, "", "at least one row to learn from",
                    std::to_string(dataset.counts_.rows) + " rows, none of them");
  return dataset;
}

}  // namespace metal_candle
