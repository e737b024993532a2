// A tokenizer's parts, put together.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "io/tokenizer/added_tokens.h"
#include "io/tokenizer/decoders.h"
#include "io/tokenizer/model.h"
#include "io/tokenizer/normalizers.h"
#include "io/tokenizer/post_processor.h"
#include "io/tokenizer/pre_tokenizers.h"
#include "io/tokenizer/word_cache.h"
#include "metal_candle/json.hpp"
#include "metal_candle/tokenizer.hpp"

namespace metal_candle::io::tok {

/// What one call of encode works with. Reused: its cache knows the words that were met before.
struct Workspace {
  WordCache cache;
  ModelScratch scratch;
  std::vector<Token> tokens;
  std::vector<AddedTokens::Found> found;
};

struct State {
  NormalizerPtr normalizer;  // null: none
  std::vector<PreTokenizerPtr> pre_tokenizers;
  ModelPtr model;
  AddedTokens added;
  PostProcessor post_processor;
  std::vector<DecoderPtr> decoders;

  // What `finish` finds out: how the pre-tokenizers cut, if that is one scanner, after isolating numbers or not; and
  // whether they want to know where pieces came from.
  Scanner scanner = nullptr;
  bool numbers_first = false, needs_sources = false;
  void finish();

  /// The text of an id in decoding, null if there is none.
  const std::string* text(std::int32_t id) const {
    const std::string* added_text = added.text(id);
    return added_text ? added_text : model->vocabulary().token(id);
  }
  std::int32_t end() const { return std::max(added.end(), model->vocabulary().end()); }

  std::unique_ptr<Workspace> take() const;
  void give(std::unique_ptr<Workspace> workspace) const;

 private:
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> free_;
};

/// Pre-tokenizers as the file lists them, sequences opened up.
struct PreTokenizerSpec {
  enum class Kind { other, byte_level } kind = Kind::other;
  PreTokenizerPtr made;                              // other
  bool add_prefix_space = false, use_regex = false;  // byte_level
};
/// A byte-level step at the end of all steps leaves bytes to a model that takes them; elsewhere it spells them out.
/// Whether the model shall take bytes.
bool add_pre_tokenizers(std::vector<PreTokenizerSpec> specs, bool model_may_take_bytes, State& state);

std::shared_ptr<const State> state_from_json(const Json& root);
std::shared_ptr<const State> state_from_gguf(const Gguf& gguf);

}  // namespace metal_candle::io::tok
