#include "training/answers.h"

#include <algorithm>

#include "io/jinja/text.h"

namespace metal_candle::training {
namespace {

using jinja::Side, jinja::strip;

constexpr std::string_view kThoughtEnd = "</think>";

/// What stands for an answer in what the template shows: its content or, where it calls tools, the last one's name.
struct Answer {
  std::size_t message;
  const Json* shown;
  std::string text;
  bool calls = false;
  std::string marker = {};
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
  return text.size() - strip(std::string_view(text).substr(at + kThoughtEnd.size()), Side::left).size();
}

const Json* calls_of(const Json& message) {
  const Json* calls = message.find_value("tool_calls");
  return calls && calls->is_array() && calls->size() > 0 ? calls : nullptr;
}

const Json& last_of(const Json& calls) { return calls.at(calls.size() - 1); }

const Json& function_of(const Json& call) {
  const Json* function = call.find_value("function");
  return function ? *function : call;
}

Answer by_content(std::size_t message, const Json& content) {
  Answer a{message, &content, text_of(content)};
  a.thought = thought_in(a.text);
  return a;
}

std::vector<Answer> answers_of(const Json& messages) {
  std::vector<Answer> answers;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages.at(i);
    if (message.at("role").as_string() != "assistant") continue;
    const Json* content = message.find_value("content");
    if (const Json* calls = calls_of(message)) {
      const Json& name = function_of(last_of(*calls)).at("name");
      answers.push_back({i, &name, std::string(name.as_string()), true});
    } else if (content) {
      answers.push_back(by_content(i, *content));
    } else {
      message.at("content").fail("an answer");
    }
  }
  return answers;
}

/// A word of its own for each answer, none of which the conversation has.
void mark(std::vector<Answer>& answers, std::string_view shown) {
  std::string word = "Answer";
  while (shown.find(word) != std::string_view::npos) word += 'x';
  for (std::size_t i = 0; i < answers.size(); ++i) answers[i].marker = word + std::to_string(i) + "z";
}

void put_marker(Json& message, const Answer& a) {
  if (!a.calls) {
    const Json text = a.text.substr(0, a.thought) + a.marker;
    message.set("content",
                a.shown->is_array() ? Json::array({Json::object({{"type", "text"}, {"text", text}})}) : text);
    return;
  }
  const Json& calls = message.at("tool_calls");
  Json function = function_of(last_of(calls)), call = last_of(calls), marked = Json::array();
  function.set("name", a.marker);
  if (call.find_value("function")) call.set("function", std::move(function));
  else call = std::move(function);
  for (std::size_t i = 0; i + 1 < calls.size(); ++i) marked.push_back(calls.at(i));
  marked.push_back(std::move(call));
  message.set("tool_calls", std::move(marked));
}

Json with_markers(const Json& messages, const std::vector<Answer>& answers) {
  Json marked = Json::array();
  std::size_t next = 0;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    Json message = messages.at(i);
    if (next < answers.size() && answers[next].message == i) put_marker(message, answers[next++]);
    marked.push_back(std::move(message));
  }
  return marked;
}

/// The conversation with markers. Where the template does not show calls, an answer's content stands for it.
std::string render_marked(const Json& messages, std::vector<Answer>& answers, const Render& render) {
  std::string text = render(with_markers(messages, answers), false);
  bool changed = false;
  for (Answer& a : answers) {
    if (!a.calls || text.find(a.marker) != std::string::npos) continue;
    const Json* content = messages.at(a.message).find_value("content");
    if (!content) a.shown->fail("tools whose calls the chat template shows");
    const std::string marker = std::move(a.marker);
    a = by_content(a.message, *content);
    a.marker = marker;
    changed = true;
  }
  return changed ? render(with_markers(messages, answers), false) : text;
}

/// How much of `shown`, which begins where the answer does, is the answer: what follows it is `behind`. Of the white
/// space at its ends a template may leave out any.
std::size_t length_of(const Answer& answer, std::string_view shown, std::string_view behind) {
  const std::string_view said = answer.said();
  const std::size_t leading = said.size() - strip(said, Side::left).size();
  const std::size_t trailing = said.size() - strip(said, Side::right).size();
  for (std::size_t left_out = 0; left_out <= leading; ++left_out) {
    const std::string_view as = said.substr(left_out);
    const std::size_t least = as.size() - std::min(as.size(), trailing);
    const auto same = std::mismatch(as.begin(), as.end(), shown.begin(), shown.end()).first - as.begin();
    for (auto length = static_cast<std::size_t>(same) + 1; length-- > least;)
      if (shown.substr(length).starts_with(behind)) return length;
  }
  return std::string_view::npos;
}

Json first_of(const Json& messages, std::size_t count) {
  Json first = Json::array();
  for (std::size_t i = 0; i < count; ++i) first.push_back(messages.at(i));
  return first;
}

/// Where the prompt for the answer ends, or `otherwise` where the template shows what came before differently by now.
std::size_t end_of_prompt(const Json& messages, const Answer& answer, std::string_view shown, std::size_t otherwise,
                          const Render& render) {
  if (answer.message == 0) return otherwise;
  const std::string prompt = render(first_of(messages, answer.message), true);
  return prompt.size() < otherwise && shown.starts_with(prompt) ? prompt.size() : otherwise;
}

/// The turn around an answer that calls tools, whose name is at `name`: what the model would have written behind its
/// prompt, where the whole conversation has just that, else from the end of the prompt on.
AnswerSpan calling_turn(const Json& messages, const Answer& answer, std::string_view shown, std::size_t name,
                        const Render& render) {
  const std::string prompt = answer.message > 0 ? render(first_of(messages, answer.message), true) : "";
  const std::string until = render(first_of(messages, answer.message + 1), false);
  if (until.starts_with(prompt)) {
    const std::string_view turn = strip(std::string_view(until).substr(prompt.size()), Side::right);
    const std::size_t at = shown.find(turn, name - std::min(name, turn.size()));
    if (at <= name && at + turn.size() > name) return {at, at + turn.size(), TurnEnd::inside};
  }
  const bool known = prompt.size() < name && shown.starts_with(prompt);
  return {known ? prompt.size() : name, name + answer.text.size(), TurnEnd::behind_more};
}

}  // namespace

// An answer's text may stand elsewhere, too: in the question, in what the template writes around it. So the template
// shows the conversation once more with a marker in place of each answer; what lies between markers is the template's
// and the others', and what the conversation has between that is the answer, stripped or not.
std::vector<AnswerSpan> find_answers(const Json& messages, std::string_view shown, const Render& render) {
  std::vector<Answer> answers = answers_of(messages);
  if (answers.empty()) return {};
  mark(answers, shown);
  const std::string text = render_marked(messages, answers, render);
  const std::string_view marked = text;
  std::vector<AnswerSpan> found;
  std::size_t begin = marked.find(answers[0].marker);
  std::string_view between = marked.substr(0, begin);
  std::size_t cursor = 0;
  if (!shown.starts_with(between)) begin = std::string_view::npos;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const Answer& a = answers[i];
    if (begin == std::string_view::npos) a.shown->fail("an answer that the chat template shows as it stands");
    cursor += between.size();
    const std::size_t behind = begin + a.marker.size();
    begin = i + 1 < answers.size() ? marked.find(answers[i + 1].marker, behind) : marked.size();
    between = marked.substr(behind, begin - behind);
    const std::size_t length = length_of(a, shown.substr(cursor), between);
    if (length == std::string_view::npos) a.shown->fail("an answer that the chat template shows as it stands");
    if (a.calls) {
      found.push_back(calling_turn(messages, a, shown, cursor, render));
    } else {
      const std::size_t from = a.thought ? end_of_prompt(messages, a, shown, cursor, render) : cursor;
      found.push_back({from, cursor + length, TurnEnd::behind_space});
    }
    cursor += length;
  }
  return found;
}

}  // namespace metal_candle::training
