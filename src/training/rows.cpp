#include "training/rows.h"

#include <algorithm>

#include "metal_candle/error.hpp"
#include "metal_candle/tokenizer.hpp"

namespace metal_candle::training {
namespace {

std::string string_at(const Json& row, const char* key) { return std::string(row.at(key).as_string()); }

std::string_view trimmed(std::string_view text) {
  constexpr const char* kSpace = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
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

// Where answers lie in the rendered text. What the template shows before an answer, with its prompt for one, ends where
// the answer begins; a template that shows earlier messages otherwise later on is searched from the answer before.
std::vector<RowReader::Span> RowReader::answers(const Json& messages, const Json& row,
                                                const std::string& rendered) const {
  std::vector<Span> found;
  Json before = Json::array();
  std::size_t cursor = 0;
  for (const Json& message : messages.elements()) {
    const Json& role = message.at("role");
    if (role.as_string() == "assistant" && !message.find_value("content") && !message.find_value("tool_calls"))
      message.at("content").fail("an answer");
    if (role.as_string() == "assistant" && message.find_value("content")) {
      if (before.size() > 0)
        if (const std::string prefix = render(before, row, true);
            prefix.size() >= cursor && rendered.starts_with(prefix))
          cursor = prefix.size();
      const std::string_view content = trimmed(message.at("content").as_string());
      const std::size_t at = rendered.find(content, cursor);
      if (at == std::string::npos) message.at("content").fail("an answer that the chat template shows as it stands");
      found.push_back({at, at + content.size()});
      cursor = at + content.size();
    }
    before.push_back(message);
  }
  return found;
}

Sample RowReader::messages(const Json& row) const {
  const Json& messages = row.at("messages");
  if (!messages.is_array() || messages.size() == 0) messages.fail("a list of messages");
  if (!chat_) messages.fail("\"text\" or \"prompt\" with \"completion\": the model has no chat template");
  const std::string rendered = render(messages, row, false);
  auto [ids, offsets] = tokenizer_.encode_with_offsets(rendered, {.add_special_tokens = false});
  Sample sample;
  sample.supervised.assign(ids.size(), false);
  std::size_t token = 0;
  for (const Span& answer : answers(messages, row, rendered)) {
    while (token < ids.size() && offsets[token].second <= answer.begin) ++token;
    for (; token < ids.size() && offsets[token].first < answer.end; ++token) sample.supervised[token] = true;
    // The end of the turn: a special token, behind nothing but white space.
    std::size_t end = token;
    while (end < ids.size() && !tokenizer_.is_special(ids[end]) &&
           trimmed(std::string_view(rendered).substr(offsets[end].first, offsets[end].second - offsets[end].first))
               .empty())
      ++end;
    if (end < ids.size() && tokenizer_.is_special(ids[end])) sample.supervised[end] = true;
  }
  sample.tokens = std::move(ids);
  return sample;
}

}  // namespace metal_candle::training
