#include "training/rows.h"

#include <algorithm>

#include "io/jinja/text.h"
#include "metal_candle/error.hpp"
#include "metal_candle/tokenizer.hpp"
#include "training/answers.h"

namespace metal_candle::training {
namespace {

std::string string_at(const Json& row, const char* key) { return std::string(row.at(key).as_string()); }

/// Which of the assistant's messages are learned: OpenAI's format says "weight": 0 of one that only comes before others.
std::vector<bool> learned_of(const Json& messages) {
  std::vector<bool> learned;
  for (const Json& message : messages.elements()) {
    if (message.at("role").as_string() != "assistant") continue;
    const Json* weight = message.find_value("weight");
    if (weight && weight->as_double() != 0 && weight->as_double() != 1) weight->fail("0 or 1");
    learned.push_back(!weight || weight->as_double() != 0);
  }
  return learned;
}

}  // namespace

Sample RowReader::read(const Json& row) const {
  if (!row.is_object()) row.fail("an object");
  const int kinds =
      row.contains("text") + (row.contains("prompt") || row.contains("completion")) + row.contains("messages");
  if (kinds != 1) row.fail("one of \"text\", \"prompt\" with \"completion\", \"messages\"");
  Sample sample;
  if (row.contains("text")) sample = text(string_at(row, "text"));
  else if (row.contains("messages")) sample = messages(row);
  else sample = completion(string_at(row, "prompt"), string_at(row, "completion"));
  if (options_.train_on == TrainOn::all) sample.supervised.assign(sample.tokens.size(), true);
  if (!sample.supervised.empty()) sample.supervised[0] = false;
  return sample;
}

Sample RowReader::text(const std::string& text) const {
  Sample sample;
  sample.tokens = tokenizer_.encode(text);
  end_with_token(sample);
  sample.supervised.assign(sample.tokens.size(), true);
  return sample;
}

void RowReader::end_with_token(Sample& sample) const {
  if (sample.tokens.empty() || sample.tokens.back() != options_.end_token) sample.tokens.push_back(options_.end_token);
}

// A token that holds bytes of both counts as the completion's: without it the answer's beginning would not be learned.
Sample RowReader::completion(const std::string& prompt, const std::string& completion) const {
  auto [ids, offsets] = tokenizer_.encode_with_offsets(prompt + completion);
  Sample sample;
  for (const auto& [begin, end] : offsets) sample.supervised.push_back(end > begin && end > prompt.size());
  sample.tokens = std::move(ids);
  end_with_token(sample);
  sample.supervised.resize(sample.tokens.size(), true);
  sample.supervised.back() = true;
  return sample;
}

std::string RowReader::render(const Json& messages, const Json& row, bool prompt) const {
  const Json* tools = row.find_value("tools");
  try {
    return chat_(messages, tools ? *tools : Json(), prompt);
  } catch (const UserError& e) {
    messages.fail(std::string("messages that the chat template takes (") + e.what() + ")");
  }
}

Sample RowReader::messages(const Json& row) const {
  const Json& messages = row.at("messages");
  if (!messages.is_array() || messages.size() == 0) messages.fail("a list of messages");
  if (!chat_)
    messages.fail(
        "\"text\" or \"prompt\" with \"completion\": there is no chat template (ChatRenderer) that shows messages");
  const std::string rendered = render(messages, row, false);
  Tokenizer::Encoding encoding = tokenizer_.encode_with_offsets(rendered, {.add_special_tokens = false});
  const auto& ids = encoding.ids;
  const auto& offsets = encoding.offsets;
  Sample sample;
  sample.supervised.assign(ids.size(), false);
  std::size_t token = 0;
  const auto again = [&](const Json& other, bool prompt) { return render(other, row, prompt); };
  // The end of a turn: a special token or the one that ends a text.
  const auto ends = [&](std::size_t t) { return tokenizer_.is_special(ids[t]) || ids[t] == options_.end_token; };
  const auto blank = [&](std::size_t t) {
    const auto [begin, end] = offsets[t];
    return jinja::strip(std::string_view(rendered).substr(begin, end - begin), jinja::Side::both).empty();
  };
  const std::vector<AnswerSpan> answers = find_answers(messages, rendered, again);
  const std::vector<bool> learned = learned_of(messages);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    if (!learned[i]) continue;
    const AnswerSpan& answer = answers[i];
    while (token < ids.size() && offsets[token].second <= answer.begin) ++token;
    for (; token < ids.size() && offsets[token].first < answer.end; ++token) sample.supervised[token] = true;
    if (answer.turn_end == TurnEnd::inside) continue;
    const bool more = answer.turn_end == TurnEnd::behind_more;
    std::size_t end = token;
    while (end < ids.size() && !ends(end) && (more || blank(end))) ++end;
    if (end == ids.size() || !ends(end)) continue;
    for (std::size_t t = more ? token : end; t <= end; ++t) sample.supervised[t] = true;
  }
  sample.tokens = std::move(encoding.ids);
  return sample;
}

}  // namespace metal_candle::training
