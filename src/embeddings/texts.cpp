#include "embeddings/texts.h"

#include <fmt/format.h>

#include <algorithm>

#include "io/files.h"
#include "metal_candle/error.hpp"
#include "metal_candle/json.hpp"

namespace metal_candle::embeddings {
namespace {

namespace fs = std::filesystem;

bool lowers(const Json& normalizer) {
  if (normalizer.is_null()) return false;
  const std::string_view type = normalizer.at("type").as_string();
  if (type != "Sequence") return type == "Lowercase";
  const auto parts = normalizer.at("normalizers").elements();
  return std::any_of(parts.begin(), parts.end(),
                     [](const Json& part) { return part.at("type").as_string() == "Lowercase"; });
}

/// The tokenizer of a folder, with lower-casing in front of its own normalizer.
Tokenizer load_lowering(const fs::path& path) {
  Json json = Json::load(path);
  const Json own = json.contains("normalizer") ? json.at("normalizer") : Json();
  if (!lowers(own)) {
    Json parts = Json::array({Json::object({{"type", "Lowercase"}})});
    if (!own.is_null()) parts.push_back(own);
    json.set("normalizer", Json::object({{"type", "Sequence"}, {"normalizers", parts}}));
  }
  return Tokenizer::from_json(json.dump(), path.string());
}

Json tokenizer_config(const fs::path& folder) {
  const fs::path path = folder / "tokenizer_config.json";
  std::error_code error;
  return fs::exists(path, error) ? Json::load(path) : Json();
}

/// What the tokenizer's own configuration limits texts to; some say 10^30 for "not at all".
std::int64_t own_limit(const Json& config, std::int64_t most) {
  const Json* limit = config.is_null() ? nullptr : config.find_value("model_max_length");
  if (!limit || limit->as_double() >= static_cast<double>(most)) return most;
  return limit->positive();
}

}  // namespace

TextEncoder::TextEncoder(const fs::path& folder, bool lower_case, std::optional<std::int64_t> asked, std::int64_t most)
    : tokenizer_(lower_case ? load_lowering(folder / "tokenizer.json") : Tokenizer::load(folder)) {
  const Json config = tokenizer_config(folder);
  max_tokens_ = asked ? std::min(*asked, most) : own_limit(config, most);
  if (const Json* side = config.is_null() ? nullptr : config.find_value("truncation_side")) {
    if (side->as_string() != "left" && side->as_string() != "right") side->fail("\"left\" or \"right\"");
    cut_front_ = side->as_string() == "left";
  }
  // Where in a text's tokens the special ones are shows in any text that has others.
  const Ids with = tokenizer_.encode("a"), without = tokenizer_.encode("a", {.add_special_tokens = false});
  const auto found = std::search(with.begin(), with.end(), without.begin(), without.end());
  if (found == with.end() && !without.empty())
    throw FileError(FileFault::bad, (folder / "tokenizer.json").string(), "post_processor",
                    "special tokens before and behind a text", "others");
  before_ = found - with.begin();
  after_ = static_cast<std::int64_t>(with.size() - without.size()) - before_;
  if (max_tokens_ < before_ + after_ || max_tokens_ < 1)
    throw FileError(
        FileFault::bad, folder.string(), "max_seq_length",
        fmt::format("at least the {} special tokens of a text", std::max<std::int64_t>(1, before_ + after_)),
        std::to_string(max_tokens_));
}

void TextEncoder::cut(Ids& ids) const {
  const std::int64_t extra = static_cast<std::int64_t>(ids.size()) - max_tokens_;
  if (extra <= 0) return;
  const auto body = cut_front_ ? ids.begin() + before_ : ids.end() - after_ - extra;
  ids.erase(body, body + extra);
}

std::vector<Ids> TextEncoder::encode(std::span<const std::string> texts) const {
  std::vector<Ids> all = tokenizer_.encode_batch(texts);
  for (Ids& ids : all) cut(ids);
  return all;
}

std::int64_t TextEncoder::prompt_tokens(const std::string& prompt) const {
  Ids ids = tokenizer_.encode(prompt);
  cut(ids);
  const bool ended = !ids.empty() && tokenizer_.is_special(ids.back());
  return static_cast<std::int64_t>(ids.size()) - (ended ? 1 : 0);
}

}  // namespace metal_candle::embeddings
