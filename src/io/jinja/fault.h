// What goes wrong while a template is read or run, before it is known which file the template came from.
#pragma once

#include <string>
#include <utility>

#include "metal_candle/chat_template.hpp"

namespace metal_candle::jinja {

using Reason = TemplateError::Reason;

/// Thrown by everything below; `Template` adds the file, and the line where it is not known yet.
struct Fault {
  Reason reason;
  std::string message;
  int line = 0, column = 0;
};

[[noreturn]] inline void fail(Reason reason, std::string message) { throw Fault{reason, std::move(message)}; }
[[noreturn]] inline void fail_type(std::string message) { fail(Reason::type, std::move(message)); }

}  // namespace metal_candle::jinja
