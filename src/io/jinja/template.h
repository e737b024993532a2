// The interpreter as one piece: a source, parsed, and rendered any number of times.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/jinja/ast.h"
#include "io/jinja/budget.h"
#include "metal_candle/json.hpp"

namespace metal_candle::jinja {

struct Rendered {
  std::string text;
  std::vector<std::pair<std::size_t, std::size_t>> generated;  // bytes [from, to) of {% generation %} blocks
};

class Template {
 public:
  /// Throws TemplateError naming `origin`, which stands for the file in later errors as well.
  static Template parse(std::string_view source, std::string origin);
  /// `context` is an object; `now` is what strftime_now shows. Any number of threads at once.
  Rendered render(const Json& context, const std::tm& now, const Limits& limits = {}) const;

 private:
  Template(Program program, std::string origin) : program_(std::move(program)), origin_(std::move(origin)) {}
  Program program_;
  std::string origin_;
};

Value from_json(const Json& json);

}  // namespace metal_candle::jinja
