#include "metal_candle/tokenizer.hpp"

#include <algorithm>
#include <fstream>

#include "base/thread_pool.h"
#include "io/files.h"
#include "io/tokenizer/encode.h"
#include "io/tokenizer/state.h"
#include "metal_candle/error.hpp"
#include "metal_candle/gguf.hpp"

namespace metal_candle {
namespace {

using io::tok::Encoder;
using io::tok::State;
using Offsets = std::vector<std::pair<std::uint32_t, std::uint32_t>>;

/// Room for the special tokens around a text whose ranges are 32 bits.
constexpr std::size_t kLongest = (std::size_t{1} << 31) - 1;

/// Where each boundary of the mended text lies in the one that was given.
std::vector<std::uint32_t> boundaries(std::string_view text, std::size_t mended) {
  std::vector<std::uint32_t> out;
  out.reserve(mended + 1);
  const char* const end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const io::tok::Utf8Step step = io::tok::utf8_step(p, end);
    out.resize(out.size() + (step.valid ? step.size : io::tok::kReplacement.size()),
               static_cast<std::uint32_t>(p - text.data()));
    p += step.size;
  }
  out.push_back(static_cast<std::uint32_t>(text.size()));
  return out;
}

void encode_into(const State& state, std::string_view text, const EncodeOptions& options,
                 std::vector<std::int32_t>& ids, Offsets* offsets) {
  if (text.size() > kLongest)
    throw UserError(ErrorKind::argument, "a text of " + std::to_string(text.size()) +
                                             " bytes cannot be encoded; the most is " + std::to_string(kLongest));
  std::string mended;
  std::string_view valid = text;
  if (!io::tok::utf8_valid(text)) valid = mended = io::tok::utf8_mended(text);
  auto workspace = state.take();
  if (text.size() > 4096) ids.reserve(text.size() / 4);
  Encoder(state, *workspace, options, ids, offsets).run(valid);
  state.give(std::move(workspace));
  if (!offsets || valid.data() == text.data()) return;
  const std::vector<std::uint32_t> at = boundaries(text, valid.size());
  for (auto& [begin, end] : *offsets) {
    begin = at[begin];
    end = at[end];
  }
}

[[noreturn]] void no_such_token(std::int32_t id, std::int32_t end) {
  throw UserError(ErrorKind::index, "there is no token " + std::to_string(id) + "; the vocabulary has ids from 0 to " +
                                        std::to_string(end - 1));
}

/// Models have more rows than their tokenizers have tokens, and any row may be drawn: such an id has no text.
void push_token(const State& state, std::int32_t id, bool skip_special, io::tok::DecodeChain& chain) {
  if (id < 0) no_such_token(id, state.end());
  const std::string* text = state.text(id);
  if (text && !(skip_special && state.added.special(*text))) chain.push(*text);
}

/// By what is in it: the files of caches have any name.
bool begins_as_gguf(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  char magic[4] = {};
  in.read(magic, sizeof magic);
  return std::string_view(magic, sizeof magic) == "GGUF" || path.extension() == ".gguf";
}

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) return load(path / "tokenizer.json");
  if (begins_as_gguf(path)) return from_gguf(Gguf::open(path));
  return from_json(io::read_file(path), path.string());
}

Tokenizer Tokenizer::from_gguf(const Gguf& file) { return Tokenizer(io::tok::state_from_gguf(file)); }

Tokenizer Tokenizer::from_json(std::string_view text, std::string_view origin) {
  return Tokenizer(io::tok::state_from_json(Json::parse(text, origin)));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<std::int32_t> ids;
  encode_into(*state_, text, options, ids, nullptr);
  return ids;
}

std::vector<std::vector<std::int32_t>> Tokenizer::encode_batch(std::span<const std::string> texts,
                                                               const EncodeOptions& options) const {
  std::vector<std::vector<std::int32_t>> out(texts.size());
  // Tasks are counted in 32 bits, and short texts are not worth one each.
  const std::size_t chunk = std::max<std::size_t>(1, texts.size() / 4096);
  const auto tasks = static_cast<std::uint32_t>((texts.size() + chunk - 1) / chunk);
  base::parallel_for(tasks, base::threads(), [&](std::uint32_t task, int) {
    const std::size_t begin = task * chunk, end = std::min(begin + chunk, texts.size());
    for (std::size_t i = begin; i < end; ++i) encode_into(*state_, texts[i], options, out[i], nullptr);
  });
  return out;
}

Tokenizer::Encoding Tokenizer::encode_with_offsets(std::string_view text, const EncodeOptions& options) const {
  Encoding out;
  encode_into(*state_, text, options, out.ids, &out.offsets);
  return out;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const {
  io::tok::DecodeChain chain(state_->decoders);
  for (const std::int32_t id : ids) push_token(*state_, id, skip_special_tokens, chain);
  chain.end();
  return std::move(chain.out);
}

std::optional<std::int32_t> Tokenizer::token_to_id(std::string_view token) const {
  std::int32_t id = state_->added.id(token);
  if (id == io::tok::kNoToken) id = state_->model->vocabulary().find(token);
  if (id == io::tok::kNoToken) return std::nullopt;
  return id;
}

const std::string& Tokenizer::id_to_token(std::int32_t id) const {
  const std::string* text = state_->text(id);
  if (!text) no_such_token(id, state_->end());
  return *text;
}

bool Tokenizer::is_special(std::int32_t id) const {
  const io::tok::AddedToken* token = state_->added.token(id);
  return token && token->special;
}

std::int32_t Tokenizer::vocab_size() const { return state_->end(); }

// ---- DecodeStream ---------------------------------------------------------------------------------------------------

struct DecodeStream::Impl {
  std::shared_ptr<const State> state;
  bool skip_special;
  std::unique_ptr<io::tok::DecodeChain> chain;

  void begin() { chain = std::make_unique<io::tok::DecodeChain>(state->decoders); }
  std::string take() { return std::exchange(chain->out, {}); }
};

DecodeStream::DecodeStream(const Tokenizer& tokenizer, bool skip_special_tokens)
    : impl_(new Impl{tokenizer.state_, skip_special_tokens, nullptr}) {
  impl_->begin();
}
DecodeStream::DecodeStream(DecodeStream&&) noexcept = default;
DecodeStream& DecodeStream::operator=(DecodeStream&&) noexcept = default;
DecodeStream::~DecodeStream() = default;

std::string DecodeStream::push(std::int32_t id) {
  push_token(*impl_->state, id, impl_->skip_special, *impl_->chain);
  return impl_->take();
}

std::string DecodeStream::waiting() const {
  io::tok::DecodeChain ended(*impl_->chain);
  ended.end();
  return std::move(ended.out);
}

std::string DecodeStream::rest() {
  impl_->chain->end();
  std::string out = impl_->take();
  impl_->begin();
  return out;
}

}  // namespace metal_candle
