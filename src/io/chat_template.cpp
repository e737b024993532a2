// Chat templates: what transformers puts around a Jinja template.
#include "metal_candle/chat_template.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <ctime>
#include <optional>

#include "io/jinja/template.h"

namespace metal_candle {

TemplateError::TemplateError(Reason reason, std::string origin, int line, int column, std::string message)
    : FileError(FileFault::bad, std::move(origin),
                line == 0     ? ""
                : column == 0 ? fmt::format("line {}", line)
                              : fmt::format("line {}, column {}", line, column),
                std::move(message)),
      reason_(reason),
      line_(line),
      column_(column) {}

struct ChatTemplate::Parts {
  jinja::Template plain;
  std::optional<jinja::Template> with_tools;
  Json tokens;
};

namespace {

std::tm clock(const std::string& date) {
  std::tm time = {};
  if (date.empty()) {
    const std::time_t now = std::time(nullptr);
    localtime_r(&now, &time);
    return time;
  }
  char rest = 0;
  if (std::sscanf(date.c_str(), "%4d-%2d-%2d%c", &time.tm_year, &time.tm_mon, &time.tm_mday, &rest) != 3)
    throw UserError(ErrorKind::argument, "chat template: expected a date like 2026-07-26, got \"" + date + "\"");
  time.tm_year -= 1900;
  time.tm_mon -= 1;
  const std::tm asked = time;
  timegm(&time);  // fills in the weekday, and moves a day that no month has
  if (time.tm_mon != asked.tm_mon || time.tm_mday != asked.tm_mday)
    throw UserError(ErrorKind::argument, "chat template: there is no date " + date);
  return time;
}

/// A model's reasoning has three names about the world; a template may look for either of two.
Json with_reasoning(const Json& message) {
  const Json* reasoning = nullptr;
  for (const char* name : {"reasoning_content", "thinking", "reasoning"})
    if (!reasoning) reasoning = message.find_value(name);
  if (!reasoning) return message;
  Json out = Json::object({{"thinking", *reasoning}});
  for (const JsonMember& member : message.items()) out.set(member.key, member.value);
  out.set("reasoning_content", *reasoning);
  return out;
}

Json checked_messages(const Json& messages) {
  if (!messages.is_array())
    throw UserError(ErrorKind::argument, "chat template: messages: expected an array, got " + messages.shown());
  Json out = Json::array();
  for (const Json& message : messages.elements()) {
    if (!message.is_object())
      throw UserError(ErrorKind::argument, fmt::format("chat template: messages[{}]: expected an object, got {}",
                                                       out.size(), message.shown()));
    out.push_back(with_reasoning(message));
  }
  return out;
}

Json named_tokens(const std::string& bos, const std::string& eos) {
  Json tokens = Json::object();
  if (!bos.empty()) tokens.set("bos_token", bos);
  if (!eos.empty()) tokens.set("eos_token", eos);
  return tokens;
}

}  // namespace

ChatTemplate::ChatTemplate(const ChatTemplateSource& source) {
  std::optional<jinja::Template> with_tools;
  if (!source.with_tools.empty()) with_tools = jinja::Template::parse(source.with_tools, source.origin + " (tool_use)");
  parts_ = std::make_shared<const Parts>(
      Parts{jinja::Template::parse(source.text, source.origin), std::move(with_tools), source.tokens});
}

ChatTemplate::ChatTemplate(std::string_view source, std::string bos_token, std::string eos_token, std::string origin)
    : ChatTemplate({std::string(source), std::move(origin), {}, named_tokens(bos_token, eos_token)}) {}

RenderedChat ChatTemplate::render_marked(const Json& messages, const ChatTemplateOptions& options) const {
  Json context = Json::object({{"messages", checked_messages(messages)},
                               {"tools", options.tools},
                               {"documents", nullptr},
                               {"add_generation_prompt", options.add_generation_prompt}});
  for (const Json* more : {&parts_->tokens, &options.extra})
    if (!more->is_null())
      for (const JsonMember& member : more->items()) context.set(member.key, member.value);
  const bool tools = parts_->with_tools && !options.tools.is_null();
  jinja::Rendered rendered = (tools ? *parts_->with_tools : parts_->plain).render(context, clock(options.date));
  return {std::move(rendered.text), std::move(rendered.generated)};
}

std::string ChatTemplate::render(const Json& messages, const ChatTemplateOptions& options) const {
  return render_marked(messages, options).text;
}

}  // namespace metal_candle
