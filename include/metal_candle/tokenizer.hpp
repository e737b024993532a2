// Tokenizer: text to token ids and back, with the ids of Hugging Face's `tokenizers`.
//
//   auto tokenizer = mc::Tokenizer::load("SmolLM2-135M");           // a folder, a tokenizer.json or a .gguf
//   std::vector<std::int32_t> ids = tokenizer.encode("Hello world");
//   std::string text = tokenizer.decode(ids);
//   mc::DecodeStream stream(tokenizer);                              // token by token, whole characters only
//   for (auto id : ids) std::cout << stream.push(id);
//   std::cout << stream.rest();
//
// BPE (byte-level and character), WordPiece, Unigram and WordLevel, with the normalizers, pre-tokenizers,
// post-processors, decoders and added tokens of tokenizer.json; an unknown component is refused by name. The file's
// truncation and padding are not applied.
//
// A Tokenizer is immutable and cheap to copy; all members may be called from any threads at once. Text is UTF-8; what
// is not valid in it is taken for U+FFFD, one for each longest beginning of a character that goes nowhere.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace metal_candle {

class Gguf;
namespace io::tok {
struct State;
}

struct EncodeOptions {
  /// Add what the post-processor adds: a token for the beginning, [CLS] and [SEP].
  bool add_special_tokens = true;
  /// Recognise special tokens in the text. Without, "<|im_end|>" is the text it looks like.
  bool parse_special = true;
};

class Tokenizer {
 public:
  /// A tokenizer.json, a folder that has one, or a .gguf. Throws FileError, naming the field that is wrong.
  static Tokenizer load(const std::filesystem::path& path);
  /// The text of a tokenizer.json; `origin` stands for the file in errors.
  static Tokenizer from_json(std::string_view text, std::string_view origin);
  /// The vocabulary in a GGUF file: byte-level BPE ("gpt2") or SentencePiece's BPE ("llama").
  static Tokenizer from_gguf(const Gguf& file);

  /// Throws UserError for a text of 2 GiB or more, and where the vocabulary has no word for a text nor an unknown
  /// token.
  std::vector<std::int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;
  /// The same for many texts, on the library's threads.
  std::vector<std::vector<std::int32_t>> encode_batch(std::span<const std::string> texts,
                                                      const EncodeOptions& options = {}) const;

  struct Encoding {
    std::vector<std::int32_t> ids;
    /// The bytes [first, second) of the text that each token stands for; (0, 0) for those that the post-processor
    /// added. A token within a character has the whole character.
    std::vector<std::pair<std::uint32_t, std::uint32_t>> offsets;
  };
  Encoding encode_with_offsets(std::string_view text, const EncodeOptions& options = {}) const;

  /// Ids that no token has are no text, as models have more rows than tokens. Throws UserError for ids below 0.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = false) const;

  std::optional<std::int32_t> token_to_id(std::string_view token) const;
  /// As the vocabulary spells it. Throws UserError if there is no such token.
  const std::string& id_to_token(std::int32_t id) const;
  bool is_special(std::int32_t id) const;
  /// The largest id + 1.
  std::int32_t vocab_size() const;

 private:
  friend class DecodeStream;
  explicit Tokenizer(std::shared_ptr<const io::tok::State> state) : state_(std::move(state)) {}
  std::shared_ptr<const io::tok::State> state_;
};

/// Decodes token by token. What `push` and `rest` return, put together, is what `decode` makes of all ids, and each
/// part is whole characters. Some decoders make it wait: a character for its last byte, a run of byte tokens for its
/// end.
class DecodeStream {
 public:
  explicit DecodeStream(const Tokenizer& tokenizer, bool skip_special_tokens = true);
  DecodeStream(DecodeStream&&) noexcept;
  DecodeStream& operator=(DecodeStream&&) noexcept;
  ~DecodeStream();

  /// The text that this token made certain. Throws UserError for ids outside [0, vocab_size()).
  std::string push(std::int32_t id);
  /// The text that would be the rest if nothing followed.
  std::string waiting() const;
  /// The text that was still waiting; then the stream begins anew.
  std::string rest();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace metal_candle
