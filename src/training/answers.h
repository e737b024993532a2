// Where the answers lie in a conversation that a chat template has shown.
//
//   for (const TextSpan& a : find_answers(messages, shown, [&](const Json& m, bool prompt) { return chat(m, prompt); }))
//     learn(shown.substr(a.begin, a.end - a.begin));
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "metal_candle/json.hpp"

namespace metal_candle::training {

/// Part of a text, in bytes.
struct TextSpan {
  std::size_t begin, end;
};

/// `render` shows messages as `shown` was, or with the beginning of an answer behind them. One span for each of the
/// assistant's messages that has content, in their order. Throws FileError where the template does not show one.
std::vector<TextSpan> find_answers(const Json& messages, std::string_view shown,
                                   const std::function<std::string(const Json& messages, bool prompt)>& render);

/// Without white space at either end.
std::string_view trimmed(std::string_view text);

}  // namespace metal_candle::training
