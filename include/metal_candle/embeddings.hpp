// Sentence embeddings: texts to vectors, as sentence-transformers computes them.
//
//   auto model = mc::EmbeddingModel::load("all-MiniLM-L6-v2");        // a folder in sentence-transformers' layout
//   mc::Tensor v = model.embed(std::vector<std::string>{"a cat", "a dog"});          // [2, width] f32, in order
//   float similar = mc::cosine(v.data<float>(), v.data<float>() + model.width(), model.width());
//
// Encoders (BERT, DistilBERT, RoBERTa, XLM-RoBERTa, CamemBERT, MPNet) and the decoders of model.hpp; what follows them
// is read from modules.json: Pooling, Dense, Normalize. A folder without it is a bare model: the mean over an encoder's
// tokens, the last token of a decoder, not normalised.
//
// Texts lie packed one after the other and are never padded, so what a text becomes does not depend on the texts beside
// it or on their order. A model is immutable; copies share everything, and any thread may use one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "metal_candle/model.hpp"
#include "metal_candle/tensor.hpp"

namespace metal_candle {

struct EmbedOptions {
  /// One of the model's prompts, put in front of every text. None: the model's default, if it has one.
  std::optional<std::string> prompt_name = {};
  /// This text in front instead of any of the model's prompts.
  std::optional<std::string> prompt = {};
  /// Whether the model's Normalize modules are applied; if not, `dimensions` does not scale either.
  bool normalize = true;
  /// The first so many components, scaled back to length 1; 0: all.
  std::int64_t dimensions = 0;
  /// Tokens that are computed together, at most (a text that is longer goes alone). Results do not depend on it.
  std::int64_t batch_tokens = 1024;
};

/// Gives the next text, or false when there is none.
using TextSource = std::function<bool(std::string& text)>;
/// Gets the embeddings in the order of the texts; the numbers are there during the call only.
using EmbeddingSink = std::function<void(std::int64_t index, std::span<const float> embedding)>;

class EmbeddingModel {
 public:
  /// Throws FileError naming file and field, module or tensor. Without a type in the options, f32.
  static EmbeddingModel load(const std::filesystem::path& folder, const LoadOptions& options = {});

  /// Components of an embedding.
  std::int64_t width() const;
  /// Tokens to which a text is cut, those that the tokenizer adds included.
  std::int64_t max_tokens() const;
  DType dtype() const;
  const std::map<std::string, std::string>& prompts() const;
  /// The name of the prompt that applies when none is named; may be empty.
  const std::string& default_prompt_name() const;

  /// Of the bytes of the model's files and of the type that it computes in: another model has another one. Reads them
  /// all at the first call.
  std::uint64_t fingerprint() const;

  /// [texts, width] f32, or [texts, dimensions]. Throws UserError for a prompt that the model does not have and for
  /// dimensions that it cannot give.
  Tensor embed(std::span<const std::string> texts, const EmbedOptions& options = {}) const;
  /// The same for texts that need not fit into memory; at any time about a thousand of them are. Returns their number.
  std::int64_t for_each(const TextSource& next, const EmbeddingSink& put, const EmbedOptions& options = {}) const;

 private:
  struct State;
  explicit EmbeddingModel(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

/// The cosine of the angle between two vectors; 0 where one of them is zero.
float cosine(const float* a, const float* b, std::int64_t width);

}  // namespace metal_candle
