#include "io/tokenizer/state.h"

namespace metal_candle::io::tok {

void State::finish() {
  added.finish();
  if (decoders.empty()) decoders.push_back(make_space_decoder());
  for (const PreTokenizerPtr& step : pre_tokenizers) needs_sources |= step->needs_sources();
  if (!normalizer) needs_sources = false;  // then a piece is where it was, or the steps know themselves
  if (pre_tokenizers.size() == 1) {
    scanner = pre_tokenizers[0]->scanner();
  } else if (pre_tokenizers.size() == 2 && pre_tokenizers[0]->isolates_numbers()) {
    scanner = pre_tokenizers[1]->scanner();
    numbers_first = scanner != nullptr;
  }
}

std::unique_ptr<Workspace> State::take() const {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      auto out = std::move(free_.back());
      free_.pop_back();
      return out;
    }
  }
  return std::make_unique<Workspace>();
}

void State::give(std::unique_ptr<Workspace> workspace) const {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(workspace));
}

bool add_pre_tokenizers(std::vector<PreTokenizerSpec> specs, bool model_may_take_bytes, State& state) {
  using Kind = PreTokenizerSpec::Kind;
  bool bytes = model_may_take_bytes && !specs.empty() && specs.back().kind == Kind::byte_level;
  for (std::size_t i = 0; i + 1 < specs.size(); ++i) bytes &= specs[i].kind != Kind::byte_level;
  for (PreTokenizerSpec& spec : specs) {
    if (spec.kind == Kind::other) {
      state.pre_tokenizers.push_back(std::move(spec.made));
    } else if (!bytes || spec.add_prefix_space || spec.use_regex) {
      state.pre_tokenizers.push_back(make_byte_level(spec.add_prefix_space, spec.use_regex, !bytes));
    }
  }
  return bytes;
}

}  // namespace metal_candle::io::tok
