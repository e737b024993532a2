// Where the answers lie in a conversation that a chat template has shown.
//
//   for (const AnswerSpan& a : find_answers(messages, shown, [&](const Json& m, bool prompt) { return chat(m, prompt); }))
//     learn(shown.substr(a.begin, a.end - a.begin));
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "metal_candle/json.hpp"

namespace metal_candle::training {

/// Where the token that ends an answer's turn is: in the span, behind it and white space, or behind more of the answer.
enum class TurnEnd { inside, behind_space, behind_more };

/// Part of a text, in bytes.
struct AnswerSpan {
  std::size_t begin, end;
  TurnEnd turn_end;
};

/// Shows messages, with the beginning of an answer behind them where `prompt` is set.
using Render = std::function<std::string(const Json& messages, bool prompt)>;

/// One span for each of the assistant's messages, in their order. Of a message that calls tools it is all that the model
/// would have written: content, calls, the end of the turn. Throws FileError where the template does not show one.
std::vector<AnswerSpan> find_answers(const Json& messages, std::string_view shown, const Render& render);

}  // namespace metal_candle::training
