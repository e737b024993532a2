#include "inference/pass.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "metal_candle/error.hpp"

namespace metal_candle::inference {
namespace {

using Ints = std::vector<std::int32_t>;

Tensor tensor(const Ints& values) { return Tensor::from(values, {static_cast<std::int64_t>(values.size())}); }

/// The tokens of a pass, one after the other, and padding up to its size that no sequence owns.
struct Packed {
  Ints ids, positions, rows, lengths, offsets, key_lengths, last;

  Packed(const KvCache& cache, std::span<const Feed> feeds) {
    offsets.push_back(0);
    key_lengths.assign(static_cast<std::size_t>(cache.slots()), 0);
    std::int64_t slot = 0;
    for (const Feed& f : feeds) {
      for (; slot < f.slot; ++slot) offsets.push_back(offsets.back());
      for (std::size_t i = 0; i < f.tokens.size(); ++i) {
        const auto at = f.position + static_cast<std::int64_t>(i);
        ids.push_back(f.tokens[i]);
        positions.push_back(static_cast<std::int32_t>(at));
        rows.push_back(cache.row(f.slot, at));
        lengths.push_back(static_cast<std::int32_t>(f.length));
      }
      offsets.push_back(static_cast<std::int32_t>(ids.size()));
      last.push_back(static_cast<std::int32_t>(ids.size()) - 1);
      key_lengths[static_cast<std::size_t>(f.slot)] =
          static_cast<std::int32_t>(f.position + static_cast<std::int64_t>(f.tokens.size()));
      ++slot;
    }
    for (; slot < cache.slots(); ++slot) offsets.push_back(offsets.back());
  }

  void pad(std::int64_t size, std::int64_t outputs) {
    const auto n = static_cast<std::size_t>(size);
    ids.resize(n, 0);
    positions.resize(n, 0);
    rows.resize(n, -1);
    lengths.resize(n, 1);
    last.resize(static_cast<std::size_t>(outputs), 0);
  }
};

LazyTensor as_f32(const LazyTensor& x) { return x.dtype() == DType::f32 ? x : cast(x, DType::f32); }

/// log Σ exp over the vocabulary, in two steps of parts that depend on its size alone: the bits of a row must not
/// depend on how many rows there are, and the engine cuts long rows when they are few.
LazyTensor log_total(LazyTensor logits) {
  constexpr std::int64_t kLeast = 32, kMost = 1024, kOtherwise = 128;
  const std::int64_t rows = logits.dim(0), size = logits.dim(1);
  std::int64_t part = std::min(size, kMost);
  while (part > kLeast && size % part != 0) --part;
  if (size % part != 0) {
    part = kOtherwise;
    logits = pad(logits, {0, 0}, {0, (part - size % part) % part}, -std::numeric_limits<double>::infinity());
  }
  return logsumexp(logsumexp(reshape(logits, {rows, -1, part}), {-1}), {-1});
}

/// Log-probabilities of targets. A head with an adapter multiplies as it does for a token that is generated, rather than
/// be copied with the adapter's columns for every pass.
LazyTensor target_scores(const Model& model, const nn::Weights& w, const LazyTensor& hidden,
                         const LazyTensor& targets) {
  const CrossEntropyOptions each{.reduction = Reduction::none};
  if (w.terms("lm_head")) return -cross_entropy(as_f32(model.logits(w, hidden)), targets, each);
  return -model.cross_entropy(w, hidden, targets, each);
}

// Whose file it is that holds such weights, those who loaded it know.
[[noreturn]] void not_finite() {
  throw FileError(FileFault::bad, "the model", "", "weights that make finite logits", "NaN or infinity");
}

std::vector<double> first_of(const Tensor& row, std::size_t count) {
  const float* values = row.data<float>();
  return {values, values + count};
}

void read_choices(PassResult& result, const Tensor& tokens, const Tensor& values, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    result.best.push_back(tokens.data<std::int32_t>()[i]);
    result.best_logprob.push_back(static_cast<double>(values.data<float>()[i]));
    if (!std::isfinite(result.best_logprob.back())) not_finite();
  }
}

// What a pass reads beside the cache's tensors, which come behind; `last` and `extra` are not always there.
enum Input { kIds, kPositions, kOffsets, kLengths, kRows, kKeyOffsets, kKeyLengths, kFixed };

/// The results that a pass wants, of the last hidden state of each feed (`scores`: of all).
std::vector<LazyTensor> results_of(const Model& model, const nn::Weights& w, const LazyTensor& hidden, Want want,
                                   const LazyTensor& extra) {
  if (want == Want::nothing) return {};
  if (want == Want::scores) return {target_scores(model, w, hidden, extra)};
  const LazyTensor logits = as_f32(model.logits(w, hidden));
  const LazyTensor best = argmax(logits, -1), total = log_total(logits), logprob = max(logits, {-1}) - total;
  if (want == Want::choice) return {best, logprob};
  return {best, logprob, logits, total, log_total(logits * extra)};
}

/// A pass as a function: from its inputs to its results and the cache's new tensors.
CompiledFunction compiled(const Model& model, const nn::Weights& weights, Want want, bool picks) {
  const bool has_extra = want == Want::logits || want == Want::scores;
  const auto layers = static_cast<std::ptrdiff_t>(model.config().layers);
  const int first = kFixed + (picks ? 1 : 0) + (has_extra ? 1 : 0);
  CompileOptions options;
  for (int i = 0; i < 2 * static_cast<int>(layers); ++i) options.donate.push_back(first + i);
  return CompiledFunction(
      [=](const std::vector<LazyTensor>& in) {
        const auto keys = in.begin() + first;
        nn::KeyValues kept{.keys = {keys, keys + layers},
                           .values = {keys + layers, keys + 2 * layers},
                           .rows = in[kRows],
                           .key_offsets = in[kKeyOffsets],
                           .key_lengths = in[kKeyLengths]};
        const Batch batch{in[kIds], in[kPositions], in[kOffsets], in[kLengths]};
        LazyTensor hidden = model.hidden(weights, batch, kept);
        if (picks) hidden = take(hidden, in[kFixed]);
        std::vector<LazyTensor> roots = results_of(model, weights, hidden, want, has_extra ? keys[-1] : LazyTensor());
        roots.insert(roots.end(), kept.keys.begin(), kept.keys.end());
        roots.insert(roots.end(), kept.values.begin(), kept.values.end());
        return roots;
      },
      std::move(options));
}

Tensor inverse_temperatures(std::span<const Feed> feeds, std::int64_t rows) {
  std::vector<float> inverse(static_cast<std::size_t>(rows), 1);
  for (std::size_t i = 0; i < feeds.size(); ++i) inverse[i] = static_cast<float>(1 / feeds[i].temperature);
  return Tensor::from(inverse, {rows, 1});
}

Tensor padded_targets(std::span<const std::int32_t> targets, std::int64_t rows) {
  Ints wanted(targets.begin(), targets.end());
  wanted.resize(static_cast<std::size_t>(rows), -100);
  return tensor(wanted);
}

}  // namespace

std::int64_t pass_size(std::int64_t tokens, bool one_each) {
  if (one_each || tokens == 1) return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(tokens)));
  return tokens <= 16 ? 16 : tokens <= 64 ? 64 : kLargestPass;
}

std::int64_t prompt_share(std::int64_t waiting) {
  if (waiting >= kLargestPass - 63) return std::min(waiting, kLargestPass);
  if (waiting >= 49) return std::min<std::int64_t>(waiting, 64);
  return std::min<std::int64_t>(waiting, 16);
}

Passes::Passes(Model model, nn::Weights weights) : model_(std::move(model)), weights_(std::move(weights)) {}

const CompiledFunction& Passes::function(Want want, bool picks) {
  CompiledFunction& f = functions_[static_cast<std::size_t>(want)][picks ? 1 : 0];
  if (!f) f = compiled(model_, weights_, want, picks);
  return f;
}

PassResult Passes::run(KvCache& cache, std::span<const Feed> feeds, Want want, std::span<const std::int32_t> targets) {
  Packed p(cache, feeds);
  const bool one_each = p.ids.size() == feeds.size();
  const bool picks = !one_each && (want == Want::choice || want == Want::logits);
  const std::int64_t size = pass_size(static_cast<std::int64_t>(p.ids.size()), one_each);
  const std::int64_t outputs = one_each ? size : cache.slots();
  p.pad(size, outputs);
  inputs_.clear();
  for (const Ints* values : {&p.ids, &p.positions, &p.offsets, &p.lengths, &p.rows}) inputs_.push_back(tensor(*values));
  inputs_.push_back(cache.offsets());
  inputs_.push_back(tensor(p.key_lengths));
  if (picks) inputs_.push_back(tensor(p.last));
  if (want == Want::logits) inputs_.push_back(inverse_temperatures(feeds, outputs));
  if (want == Want::scores) inputs_.push_back(padded_targets(targets, size));
  cache.move_to(inputs_);
  function(want, picks).run(inputs_, outputs_);
  inputs_.clear();
  const std::span<Tensor> all(outputs_);
  const auto count = static_cast<std::size_t>(2 * model_.config().layers);
  cache.take(all.last(count));

  PassResult result;
  const auto one = [&](std::size_t i) { return std::move(outputs_[i]); };
  if (want == Want::scores) result.scores = first_of(one(0), targets.size());
  for (const double score : result.scores)
    if (!std::isfinite(score)) not_finite();
  if (want != Want::choice && want != Want::logits) return result;
  read_choices(result, one(0), one(1), feeds.size());
  if (want == Want::choice) return result;
  result.logits = one(2);
  result.log_total = first_of(one(3), feeds.size());
  result.log_total_at_temperature = first_of(one(4), feeds.size());
  return result;
}

}  // namespace metal_candle::inference
