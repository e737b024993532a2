#include "inference/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "metal_candle/error.hpp"
#include "metal_candle/few_sizes.hpp"

namespace metal_candle::inference {
namespace {

// A long answer may end early: room for this much is made at once, for more when it is needed.
constexpr std::int64_t kRoomAhead = 4096;

double seconds(Sequence::Clock::time_point from, Sequence::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

std::size_t common_prefix(const std::vector<std::int32_t>& a, const std::vector<std::int32_t>& b) {
  const auto end = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first;
  return static_cast<std::size_t>(end - a.begin());
}

}  // namespace

Engine::Engine(Model model, const GeneratorOptions& options)
    : model_(std::move(model)),
      passes_(model_, model_.weights()),
      context_(model_.config().context()),
      most_slots_(options.batch) {
  if (options.batch < 1 || options.batch > 4096)
    throw UserError(ErrorKind::argument, fmt::format("generator: a batch of {}", options.batch));
  if (options.context < 0)
    throw UserError(ErrorKind::argument, fmt::format("generator: a context of {}", options.context));
  if (options.context > 0) context_ = std::min(context_, options.context);
  end_tokens_ = options.end_tokens ? *options.end_tokens : model_.config().eos;
}

void Engine::use(nn::Weights weights) {
  std::lock_guard lock(lock_);
  passes_ = Passes(model_, std::move(weights));
  for (auto& tokens : kept_) tokens.clear();
}

void Engine::check_prompt(std::span<const std::int32_t> prompt) const {
  const auto refuse = [](const std::string& why) { throw UserError(ErrorKind::argument, "generate: " + why); };
  if (prompt.empty()) refuse("the prompt is empty");
  if (static_cast<std::int64_t>(prompt.size()) > context_)
    refuse(fmt::format("the prompt has {} tokens, the context {}", prompt.size(), context_));
  for (const std::int32_t id : prompt)
    if (id < 0 || id >= model_.config().vocabulary)
      refuse(fmt::format("token {} is not one of the vocabulary's {}", id, model_.config().vocabulary));
}

void Engine::make_cache(std::int64_t slots, std::int64_t positions) {
  if (!cache_ || cache_->slots() != slots) {
    cache_.reset();
    cache_.emplace(model_.config(), model_.dtype(), slots);
    kept_.assign(static_cast<std::size_t>(slots), {});
    taken_.assign(static_cast<std::size_t>(slots), false);
  }
  cache_->reserve(std::min(positions, context_));
}

/// Finds the free slot whose kept keys say most of the prompt, and goes on from there.
void Engine::admit(Sequence& s) {
  std::size_t most = 0;
  for (std::size_t i = 0; i < kept_.size(); ++i) {
    if (taken_[i]) continue;
    const std::size_t same = common_prefix(kept_[i], s.tokens);
    if (s.slot < 0 || same > most) s.slot = static_cast<std::int64_t>(i), most = same;
  }
  // The last token is computed in any case: its logits are wanted. Dynamic scaling makes keys depend on what follows.
  const bool dynamic = model_.config().rope.kind == nn::RopeScaling::Kind::dynamic;
  s.fed = dynamic ? 0 : static_cast<std::int64_t>(std::min(most, s.tokens.size() - 1));
  const auto slot = static_cast<std::size_t>(s.slot);
  taken_[slot] = true;
  kept_[slot].resize(static_cast<std::size_t>(s.fed));
  s.began = Sequence::Clock::now();
}

PassResult Engine::pass(std::span<const Feed> feeds, Want want, std::span<const std::int32_t> targets) {
  const FewSizes few;  // prompts go in chunks of a few sizes
  try {
    PassResult result = passes_.run(*cache_, feeds, want, targets);
    for (const Feed& f : feeds) {
      auto& kept = kept_[static_cast<std::size_t>(f.slot)];
      kept.insert(kept.end(), f.tokens.begin(), f.tokens.end());
    }
    return result;
  } catch (...) {
    cache_.reset();  // a pass that failed may have left its tensors unusable
    throw;
  }
}

/// One pass: sequences in the order of their slots, as many of their waiting tokens as the pass takes.
void Engine::step(std::vector<Sequence*>& active, const OnToken& on_token, const OnEnd& on_end) {
  std::int64_t waiting = 0;
  for (const Sequence* s : active) waiting += s->waiting();
  std::int64_t left = waiting == static_cast<std::int64_t>(active.size()) ? waiting : prompt_share(waiting);
  std::vector<Feed> feeds;
  std::vector<Sequence*> fed;
  Want want = Want::nothing;
  std::int64_t room = 0;
  for (Sequence* s : active) {
    const std::int64_t n = std::min(s->waiting(), left);
    if (n == 0) break;
    const bool whole = n == s->waiting();
    const std::span<const std::int32_t> all(s->tokens);
    feeds.push_back({s->slot, all.subspan(static_cast<std::size_t>(s->fed), static_cast<std::size_t>(n)), s->fed,
                     static_cast<std::int64_t>(s->tokens.size()), s->sampler.temperature()});
    fed.push_back(s);
    if (whole) want = std::max(want, s->sampler.takes_best() ? Want::choice : Want::logits);
    room = std::max(room, s->fed + n);
    left -= n;
  }
  cache_->reserve(room);
  const PassResult result = pass(feeds, want);
  const std::int64_t vocabulary = model_.config().vocabulary;
  for (std::size_t i = 0; i < fed.size(); ++i) {
    Sequence& s = *fed[i];
    s.fed += static_cast<std::int64_t>(feeds[i].tokens.size());
    if (s.waiting() > 0) continue;
    if (s.sampler.takes_best()) {
      s.sampler.chose(result.best[i]);
      advance(s, result.best[i], result.best_logprob[i], on_token);
    } else {
      const float* row = result.logits.data<float>() + static_cast<std::int64_t>(i) * vocabulary;
      const std::span<const float> logits(row, static_cast<std::size_t>(vocabulary));
      const std::int32_t token = s.sampler.choose(logits, result.log_total_at_temperature[i]);
      advance(s, token, static_cast<double>(row[token]) - result.log_total[i], on_token);
    }
    if (s.done) on_end(s);
  }
}

/// Takes in the token that a sequence chose, and sees whether it ends there.
void Engine::advance(Sequence& s, std::int32_t token, double logprob, const OnToken& on_token) {
  const auto now = Sequence::Clock::now();
  if (s.out.tokens.empty()) s.first = now, s.out.prefill_s = seconds(s.began, now);
  s.out.decode_s = seconds(s.first, now);
  s.out.tokens.push_back(token);
  s.out.logprobs.push_back(logprob);
  s.tokens.push_back(token);
  const auto is_one_of = [&](const std::vector<std::int32_t>& list) {
    return std::find(list.begin(), list.end(), token) != list.end();
  };
  const auto end = [&](Finish why) { s.done = true, s.out.finish = why; };
  if ((!s.options.ignore_eos && is_one_of(end_tokens_)) || is_one_of(s.options.stop_tokens)) end(Finish::stop);
  else if (static_cast<std::int64_t>(s.out.tokens.size()) >= s.options.max_tokens ||
           static_cast<std::int64_t>(s.tokens.size()) > context_)
    end(Finish::length);
  if (on_token) on_token(s, token, logprob);
}

/// Refuses what cannot be run; the most positions that a sequence will take, as far as room is made ahead.
std::int64_t Engine::check_all(const std::vector<std::vector<std::int32_t>>& prompts,
                               const std::vector<const GenerateOptions*>& options) const {
  std::int64_t longest = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    check_prompt(prompts[i]);
    check(options[i]->sampling, model_.config().vocabulary);
    const std::int64_t size = static_cast<std::int64_t>(prompts[i].size()), more = options[i]->max_tokens;
    if (more < 0) throw UserError(ErrorKind::argument, fmt::format("generate: max_tokens is {}", more));
    longest = std::max(longest, size + std::min(more, kRoomAhead));
  }
  return longest;
}

void Engine::run(const std::vector<std::vector<std::int32_t>>& prompts,
                 const std::vector<const GenerateOptions*>& options, const OnToken& on_token,
                 const OnResult& on_result) {
  const std::int64_t longest = check_all(prompts, options);
  if (prompts.empty()) return;
  std::lock_guard lock(lock_);
  make_cache(std::min(static_cast<std::int64_t>(std::bit_ceil(prompts.size())), most_slots_), longest);
  std::fill(taken_.begin(), taken_.end(), false);

  std::vector<std::unique_ptr<Sequence>> slots(static_cast<std::size_t>(cache_->slots()));
  std::vector<Sequence*> active;
  std::size_t next = 0, done = 0;
  const OnEnd on_end = [&](Sequence& s) {
    const auto slot = static_cast<std::size_t>(s.slot);
    const std::unique_ptr<Sequence> ended = std::move(slots[slot]);
    taken_[slot] = false;
    ++done;
    on_result(ended->index, std::move(ended->out));
  };
  while (done < prompts.size()) {
    for (; next < prompts.size() && next - done < slots.size(); ++next) {
      auto s = std::make_unique<Sequence>(next, prompts[next], *options[next]);
      if (options[next]->max_tokens == 0) {
        ++done;
        on_result(next, std::move(s->out));
        continue;
      }
      admit(*s);
      slots[static_cast<std::size_t>(s->slot)] = std::move(s);
    }
    active.clear();
    for (const auto& s : slots)
      if (s) active.push_back(s.get());
    if (!active.empty()) step(active, on_token, on_end);
  }
}

std::vector<double> Engine::score(std::span<const std::int32_t> tokens) {
  check_prompt(tokens);
  std::lock_guard lock(lock_);
  make_cache(1, static_cast<std::int64_t>(tokens.size()));
  kept_[0].clear();
  std::vector<double> scores;
  const auto all = static_cast<std::int64_t>(tokens.size());
  for (std::int64_t at = 0; at + 1 < all;) {
    const std::int64_t n = prompt_share(all - 1 - at);
    const auto part = [&](std::int64_t from) {
      return tokens.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(n));
    };
    const Feed feed{0, part(at), at, all};
    const PassResult result = pass({&feed, 1}, Want::scores, part(at + 1));
    scores.insert(scores.end(), result.scores.begin(), result.scores.end());
    at += n;
  }
  return scores;
}

}  // namespace metal_candle::inference
