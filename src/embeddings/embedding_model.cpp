// EmbeddingModel: texts in windows, windows in batches, batches on the device's queue.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <mutex>

#include "embeddings/batches.h"
#include "embeddings/pipeline.h"
#include "embeddings/pooling.h"
#include "embeddings/texts.h"
#include "io/files.h"
#include "metal_candle/embeddings.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/few_sizes.hpp"
#include "metal_candle/runtime.hpp"
#include "training/hash.h"

namespace metal_candle {

using embeddings::Ids;
using embeddings::Packed;

namespace {

constexpr std::size_t kWindowTexts = 1024, kWindowBytes = 16u << 20;
constexpr std::size_t kInFlight = 2;

[[noreturn]] void fail(const std::string& why) { throw UserError(ErrorKind::argument, "embed: " + why); }

LazyTensor index(const std::vector<std::int32_t>& values) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())});
}

/// Rows of a result to the places of their texts.
void scatter(const Tensor& result, const std::vector<std::size_t>& texts, float* out) {
  const auto width = static_cast<std::size_t>(result.dim(1));
  const float* rows = result.data<float>();
  for (std::size_t i = 0; i < texts.size(); ++i)
    std::memcpy(out + texts[i] * width, rows + i * width, width * sizeof(float));
}

/// A batch under way, and where its rows go.
struct Pending {
  AsyncRun run;
  LazyTensor result;
  std::vector<std::size_t> texts;

  void collect(float* out) const {
    run.wait();
    scatter(Tensor(result), texts, out);
  }
};

/// Everything that may have a say in what the model computes.
std::uint64_t hash_of(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (const auto ending = entry.path().extension();
        entry.is_regular_file() && (ending == ".json" || ending == ".safetensors"))
      files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  training::Hash hash;
  for (const auto& file : files)
    hash.add(file.lexically_relative(folder).string()).add(io::MappedFile::open(file)->bytes());
  return hash.value();
}

}  // namespace

struct EmbeddingModel::State {
  embeddings::Pipeline pipeline;
  std::unique_ptr<embeddings::Backbone> backbone;
  embeddings::TextEncoder texts;
  std::int64_t width;
  std::filesystem::path folder;
  mutable std::once_flag hashed;
  mutable std::uint64_t fingerprint = 0;

  State(embeddings::Pipeline p, std::unique_ptr<embeddings::Backbone> b, embeddings::TextEncoder t, std::int64_t w,
        std::filesystem::path f)
      : pipeline(std::move(p)), backbone(std::move(b)), texts(std::move(t)), width(w), folder(std::move(f)) {}

  void check(const EmbedOptions& options) const;
  /// The text that goes in front of every text.
  std::string prompt(const EmbedOptions& options) const;
  std::int64_t skipped(const std::string& prompt) const {
    return pipeline.pooling->include_prompt || prompt.empty() ? 0 : texts.prompt_tokens(prompt);
  }
  LazyTensor graph(const Packed& packed, const EmbedOptions& options) const;
  /// Rows for texts that have their prompt already.
  void embed(std::span<const std::string> prompted, const EmbedOptions& options, std::int64_t skipped,
             float* out) const;
};

void EmbeddingModel::State::check(const EmbedOptions& options) const {
  if (options.dimensions < 0 || options.dimensions > width)
    fail(fmt::format("dimensions: expected at most the model's {}, got {}", width, options.dimensions));
  if (options.batch_tokens < 1) fail(fmt::format("batch_tokens: expected at least 1, got {}", options.batch_tokens));
}

std::string EmbeddingModel::State::prompt(const EmbedOptions& options) const {
  if (options.prompt) return *options.prompt;
  const std::string& name = options.prompt_name ? *options.prompt_name : pipeline.default_prompt;
  if (name.empty() && !options.prompt_name) return {};
  const auto found = pipeline.prompts.find(name);
  if (found != pipeline.prompts.end()) return found->second;
  std::vector<std::string> known;
  for (const auto& [each, text] : pipeline.prompts) known.push_back(each);
  fail(fmt::format("the model has no prompt \"{}\" but {}", name,
                   known.empty() ? "none at all" : fmt::to_string(fmt::join(known, ", "))));
}

LazyTensor EmbeddingModel::State::graph(const Packed& packed, const EmbedOptions& options) const {
  const LazyTensor hidden = backbone->hidden({.ids = index(packed.ids),
                                              .positions = index(packed.positions),
                                              .lengths = index(packed.lengths),
                                              .offsets = index(packed.offsets)});
  LazyTensor x = pool(*pipeline.pooling, hidden, packed);
  for (const embeddings::Step& step : pipeline.steps)
    if (options.normalize || !std::holds_alternative<embeddings::Normalize>(step)) x = embeddings::apply(step, x);
  if (options.dimensions == 0) return x;
  x = slice(x, 1, 0, options.dimensions);
  return options.normalize ? embeddings::unit_length(x) : x;
}

void EmbeddingModel::State::embed(std::span<const std::string> prompted, const EmbedOptions& options,
                                  std::int64_t skipped, float* out) const {
  const std::vector<Ids> ids = texts.encode(prompted);
  for (const Ids& text : ids)
    if (const auto most = std::max_element(text.begin(), text.end());
        most != text.end() && *most >= backbone->vocabulary())
      fail(fmt::format("the tokenizer knows token {}, the model only {}", *most, backbone->vocabulary()));
  std::deque<Pending> pending;
  const FewSizes few;  // groups are filled up to one of eight lengths an octave
  auto groups = embeddings::group(ids, std::min(options.batch_tokens, backbone->most_tokens()));
  if (groups.size() == 1)  // a query: no other thread has to be woken
    return scatter(graph(Packed(*backbone, ids, groups[0], skipped), options).eval(), groups[0], out);
  for (auto& group : groups) {
    const LazyTensor result = graph(Packed(*backbone, ids, group, skipped), options);
    pending.push_back({eval_async({.roots = {result}}), result, std::move(group)});
    if (pending.size() <= kInFlight) continue;
    pending.front().collect(out);
    pending.pop_front();
  }
  for (const Pending& batch : pending) batch.collect(out);
}

EmbeddingModel EmbeddingModel::load(const std::filesystem::path& folder, const LoadOptions& options) {
  const DType type = options.dtype.value_or(DType::f32);
  if (!is_float(type)) throw UserError(ErrorKind::dtype, fmt::format("load: a model cannot be of {}", name(type)));
  embeddings::Pipeline pipeline = embeddings::read_pipeline(folder);
  auto backbone = embeddings::load_backbone(pipeline.backbone, type);
  if (!pipeline.pooling) {
    using enum embeddings::PoolingMode;
    pipeline.pooling = embeddings::Pooling{.modes = {backbone->is_decoder() ? last : mean}};
  }
  embeddings::TextEncoder texts(pipeline.backbone, pipeline.lower_case, pipeline.max_tokens, backbone->max_tokens());
  const std::int64_t width = final_width(pipeline, backbone->width());
  return EmbeddingModel(
      std::make_shared<State>(std::move(pipeline), std::move(backbone), std::move(texts), width, folder));
}

std::int64_t EmbeddingModel::width() const { return state_->width; }
std::int64_t EmbeddingModel::max_tokens() const { return state_->texts.max_tokens(); }
DType EmbeddingModel::dtype() const { return state_->backbone->dtype(); }
const std::map<std::string, std::string>& EmbeddingModel::prompts() const { return state_->pipeline.prompts; }
const std::string& EmbeddingModel::default_prompt_name() const { return state_->pipeline.default_prompt; }

std::uint64_t EmbeddingModel::fingerprint() const {
  std::call_once(state_->hashed, [&] {
    state_->fingerprint = training::Hash().add(hash_of(state_->folder)).add(name(dtype())).value();
  });
  return state_->fingerprint;
}

std::int64_t EmbeddingModel::for_each(const TextSource& next, const EmbeddingSink& put,
                                      const EmbedOptions& options) const {
  state_->check(options);
  const std::string prompt = state_->prompt(options);
  const std::int64_t skipped = state_->skipped(prompt);
  const auto width = static_cast<std::size_t>(options.dimensions > 0 ? options.dimensions : state_->width);
  std::vector<std::string> window;
  std::vector<float> rows;
  std::int64_t done = 0;
  for (bool more = true; more;) {
    window.clear();
    std::size_t bytes = 0;
    std::string text;
    while (window.size() < kWindowTexts && bytes < kWindowBytes && (more = next(text))) {
      bytes += text.size();
      window.push_back(prompt + text);
    }
    rows.resize(window.size() * width);
    state_->embed(window, options, skipped, rows.data());
    for (std::size_t i = 0; i < window.size(); ++i) put(done++, std::span(rows).subspan(i * width, width));
  }
  return done;
}

Tensor EmbeddingModel::embed(std::span<const std::string> texts, const EmbedOptions& options) const {
  const auto width = static_cast<std::size_t>(options.dimensions > 0 ? options.dimensions : state_->width);
  std::vector<float> all(texts.size() * width);
  std::size_t read = 0;
  const auto next = [&](std::string& text) {
    if (read == texts.size()) return false;
    text = texts[read++];
    return true;
  };
  const auto put = [&](std::int64_t i, std::span<const float> row) {
    std::copy(row.begin(), row.end(), all.begin() + i * static_cast<std::ptrdiff_t>(width));
  };
  for_each(next, put, options);
  return Tensor::from(all, {static_cast<std::int64_t>(texts.size()), static_cast<std::int64_t>(width)});
}

float cosine(const float* a, const float* b, std::int64_t width) {
  double dot = 0, aa = 0, bb = 0;
  for (std::int64_t i = 0; i < width; ++i) {
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    dot += x * y, aa += x * x, bb += y * y;
  }
  return aa > 0 && bb > 0 ? static_cast<float>(dot / (std::sqrt(aa) * std::sqrt(bb))) : 0;
}

}  // namespace metal_candle
