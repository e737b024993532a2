// What several commands load the same way.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cli/invocation.h"
#include "metal_candle/bundle.hpp"
#include "metal_candle/generate.hpp"
#include "metal_candle/json.hpp"

namespace metal_candle::cli {

/// --model, --adapter, --dtype.
Model load_model(const Invocation& run);
Bundle load_bundle(const Invocation& run);
/// Model and tokenizer alone, for those who neither chat nor answer.
Bundle load_plain(const Invocation& run);
/// Of the bundle, with --adapter.
Generator make_generator(const Invocation& run, const Bundle& bundle, int batch);
/// Throws FileError where the model has no chat template, or one that cannot be read.
const ChatTemplate& chat_of(const Invocation& run, const Bundle& bundle);
/// What ends a row of training data: the tokenizer's own end token, else the first that ends an answer.
std::int32_t end_token(const Invocation& run, const Bundle& bundle);
/// The sampling flags, --stop among them.
GenerateOptions generate_options(const Invocation& run);
/// The same over what the model's generation_config.json recommends: a flag takes the place of its number, and
/// --temperature 0 of all of them.
GenerateOptions generate_options(const Invocation& run, const Bundle& bundle);
/// "greedy", or "sampled with temperature 0.7, top-k 20".
std::string sampling_text(const SamplingOptions& options);
/// The tokens that make a model answer these messages.
std::vector<std::int32_t> chat_tokens(const Bundle& bundle, const ChatTemplate& chat, const Json& messages,
                                      const Json& tools = {});
/// Refuses ids that the model has no embedding for: FileError of `place`, or of the tokenizer's file where it is empty.
void check_ids(const Invocation& run, const Bundle& bundle, std::span<const std::int32_t> ids,
               const std::string& place = {});
/// Calls f; an error of "the model" gets the model's name.
void naming_model(const Invocation& run, const std::function<void()>& f);
/// A warning where the context ended an answer that might have had more tokens. `which` begins it.
void warn_if_full(const Invocation& run, const Bundle& bundle, const Generated& g, std::int64_t most,
                  const std::string& which = {});
Json message(std::string_view role, std::string_view content);
Json ids_json(const std::vector<std::int32_t>& ids);

}  // namespace metal_candle::cli
