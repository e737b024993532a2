#include "inference/pass.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "metal_candle/error.hpp"
#include "metal_candle/runtime.hpp"

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

/// Computes the roots with the cache's new tensors, written over the old.
void run(KvCache& cache, nn::KeyValues&& after, std::vector<LazyTensor> roots) {
  std::vector<LazyTensor> before = cache.tensors();
  roots.insert(roots.end(), after.keys.begin(), after.keys.end());
  roots.insert(roots.end(), after.values.begin(), after.values.end());
  eval_now({.roots = std::move(roots), .donate = std::move(before)});
  cache.take(std::move(after));
}

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

std::vector<double> first_of(const LazyTensor& row, std::size_t count) {
  const float* values = Tensor(row).data<float>();
  return {values, values + count};
}

void read_choices(PassResult& result, const LazyTensor& best, const LazyTensor& logprob, std::size_t count) {
  const Tensor tokens(best), values(logprob);
  for (std::size_t i = 0; i < count; ++i) {
    result.best.push_back(tokens.data<std::int32_t>()[i]);
    result.best_logprob.push_back(static_cast<double>(values.data<float>()[i]));
    if (!std::isfinite(result.best_logprob.back()))
      throw Error(ErrorKind::argument, "generate: the model's logits are not finite");
  }
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

namespace {

void run_choices(const Model& model, const nn::Weights& w, KvCache& cache, nn::KeyValues&& kept,
                 const LazyTensor& hidden, std::span<const Feed> feeds, Want want, PassResult& result) {
  const LazyTensor logits = as_f32(model.logits(w, hidden));
  const LazyTensor best = argmax(logits, -1), total = log_total(logits), logprob = max(logits, {-1}) - total;
  std::vector<LazyTensor> roots{best, logprob};
  LazyTensor heated;
  if (want == Want::logits) {
    std::vector<float> inverse(static_cast<std::size_t>(logits.dim(0)), 1);
    for (std::size_t i = 0; i < feeds.size(); ++i) inverse[i] = static_cast<float>(1 / feeds[i].temperature);
    heated = log_total(logits * Tensor::from(inverse, {logits.dim(0), 1}));
    roots.insert(roots.end(), {logits, total, heated});
  }
  run(cache, std::move(kept), std::move(roots));
  read_choices(result, best, logprob, feeds.size());
  if (want != Want::logits) return;
  result.logits = Tensor(logits);
  result.log_total = first_of(total, feeds.size());
  result.log_total_at_temperature = first_of(heated, feeds.size());
}

void run_scores(const Model& model, const nn::Weights& w, KvCache& cache, nn::KeyValues&& kept,
                const LazyTensor& hidden, std::span<const std::int32_t> targets, PassResult& result) {
  Ints wanted(targets.begin(), targets.end());
  wanted.resize(static_cast<std::size_t>(hidden.dim(0)), -100);
  const LazyTensor scores = target_scores(model, w, hidden, tensor(wanted));
  run(cache, std::move(kept), {scores});
  result.scores = first_of(scores, targets.size());
}

}  // namespace

PassResult run_pass(const Model& model, const nn::Weights& w, KvCache& cache, std::span<const Feed> feeds, Want want,
                    std::span<const std::int32_t> targets) {
  Packed p(cache, feeds);
  const bool one_each = p.ids.size() == feeds.size();
  const std::int64_t size = pass_size(static_cast<std::int64_t>(p.ids.size()), one_each);
  p.pad(size, one_each ? size : cache.slots());
  const Batch batch{tensor(p.ids), tensor(p.positions), tensor(p.offsets), tensor(p.lengths)};
  nn::KeyValues kept = cache.view(tensor(p.rows), tensor(p.key_lengths));
  LazyTensor hidden = model.hidden(w, batch, kept);
  PassResult result;
  if (want == Want::nothing) {
    run(cache, std::move(kept), {});
  } else if (want == Want::scores) {
    run_scores(model, w, cache, std::move(kept), hidden, targets, result);
  } else {
    if (!one_each) hidden = take(hidden, tensor(p.last));
    run_choices(model, w, cache, std::move(kept), hidden, feeds, want, result);
  }
  return result;
}

}  // namespace metal_candle::inference
