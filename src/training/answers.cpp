#include "training/answers.h"

#include <initializer_list>

namespace metal_candle::training {
namespace {

constexpr const char* kSpace = " \t\r\n";
constexpr std::string_view kThoughtEnd = "</think>";

std::string_view without_leading(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kSpace);
  return begin == std::string_view::npos ? std::string_view{} : text.substr(begin);
}
std::string_view without_trailing(std::string_view text) { return text.substr(0, text.find_last_not_of(kSpace) + 1); }

struct Answer {
  std::size_t message;
  const Json* content;
  std::string text;
  std::string marker;
  /// Bytes of a thought in front, white space behind it included. Templates take it out or write it anew.
  std::size_t thought = 0;

  std::string_view said() const { return std::string_view(text).substr(thought); }
};

std::string text_of(const Json& content) {
  if (!content.is_array()) return std::string(content.as_string());
  std::string text;
  for (const Json& part : content.elements()) text += part.at("text").as_string();
  return text;
}

std::size_t thought_in(const std::string& text) {
  const std::size_t at = text.rfind(kThoughtEnd);
  if (at == std::string::npos) return 0;
  return text.size() - without_leading(std::string_view(text).substr(at + kThoughtEnd.size())).size();
}

std::vector<Answer> answers_of(const Json& messages) {
  std::vector<Answer> answers;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages.at(i);
    if (message.at("role").as_string() != "assistant") continue;
    const Json* content = message.find_value("content");
    const bool calls = message.find_value("tool_calls") != nullptr;
    if (!content && !calls) message.at("content").fail("an answer");
    if (!content) continue;
    std::string text = text_of(*content);
    if (text.empty() && calls) continue;
    const std::size_t thought = thought_in(text);
    answers.push_back({i, content, std::move(text), {}, thought});
  }
  return answers;
}

/// A word of its own for each answer, none of which the conversation has.
void mark(std::vector<Answer>& answers, std::string_view shown) {
  std::string word = "Answer";
  while (shown.find(word) != std::string_view::npos) word += 'x';
  for (std::size_t i = 0; i < answers.size(); ++i) answers[i].marker = word + std::to_string(i) + "z";
}

Json with_markers(const Json& messages, const std::vector<Answer>& answers) {
  Json marked = Json::array();
  std::size_t next = 0;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    Json message = messages.at(i);
    if (next < answers.size() && answers[next].message == i) {
      const Answer& a = answers[next++];
      const Json text = a.text.substr(0, a.thought) + a.marker;
      message.set("content",
                  a.content->is_array() ? Json::array({Json::object({{"type", "text"}, {"text", text}})}) : text);
    }
    marked.push_back(std::move(message));
  }
  return marked;
}

/// How much of `shown`, which begins where the answer does, is the answer: what follows it is `behind`.
std::size_t length_of(const Answer& answer, std::string_view shown, std::string_view behind) {
  const std::string_view said = answer.said();
  for (const std::string_view as : {said, without_trailing(said), without_leading(said), trimmed(said)})
    if (shown.starts_with(as) && shown.substr(as.size()).starts_with(behind)) return as.size();
  return std::string_view::npos;
}

/// Where the prompt for the answer ends, or `otherwise` where the template shows what came before differently by now.
std::size_t end_of_prompt(const Json& messages, const Answer& answer, std::string_view shown, std::size_t otherwise,
                          const std::function<std::string(const Json&, bool)>& render) {
  Json before = Json::array();
  for (std::size_t i = 0; i < answer.message; ++i) before.push_back(messages.at(i));
  if (before.size() == 0) return otherwise;
  const std::string prompt = render(before, true);
  return prompt.size() < otherwise && shown.starts_with(prompt) ? prompt.size() : otherwise;
}

}  // namespace

std::string_view trimmed(std::string_view text) { return without_trailing(without_leading(text)); }

// An answer's text may stand elsewhere, too: in the question, in what the template writes around it. So the template
// shows the conversation once more with a marker in place of each answer; what lies between markers is the template's
// and the others', and what the conversation has between that is the answer, trimmed or not.
std::vector<TextSpan> find_answers(const Json& messages, std::string_view shown,
                                   const std::function<std::string(const Json& messages, bool prompt)>& render) {
  std::vector<Answer> answers = answers_of(messages);
  if (answers.empty()) return {};
  mark(answers, shown);
  const std::string text = render(with_markers(messages, answers), false);
  const std::string_view marked = text;
  std::vector<TextSpan> found;
  std::size_t begin = marked.find(answers[0].marker);
  std::string_view between = marked.substr(0, begin);
  std::size_t cursor = 0;
  if (!shown.starts_with(between)) begin = std::string_view::npos;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const Answer& a = answers[i];
    if (begin == std::string_view::npos) a.content->fail("an answer that the chat template shows as it stands");
    cursor += between.size();
    const std::size_t behind = begin + a.marker.size();
    begin = i + 1 < answers.size() ? marked.find(answers[i + 1].marker, behind) : marked.size();
    between = marked.substr(behind, begin - behind);
    const std::size_t length = length_of(a, shown.substr(cursor), between);
    if (length == std::string_view::npos) a.content->fail("an answer that the chat template shows as it stands");
    const std::size_t from = a.thought ? end_of_prompt(messages, a, shown, cursor, render) : cursor;
    found.push_back({from, cursor + length});
    cursor += length;
  }
  return found;
}

}  // namespace metal_candle::training
