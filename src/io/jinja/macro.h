// A macro, or the caller of a call block.
#pragma once

#include <memory>
#include <string>

#include "io/jinja/interpreter.h"

namespace metal_candle::jinja {

struct Macro : Object {
  Macro(Interpreter& interpreter_, const Statement& statement_, std::string name_, std::shared_ptr<Scope> scope_)
      : interpreter(interpreter_), statement(statement_), name(std::move(name_)), scope(std::move(scope_)) {}

  std::string type() const override { return "Macro"; }
  bool callable() const override { return true; }
  std::optional<Value> attribute(std::string_view name) const override;
  Value call(const Call& call) override;
  std::string repr() const override;
  void release() override { scope.reset(); }

  Interpreter& interpreter;
  const Statement& statement;
  std::string name;
  std::shared_ptr<Scope> scope;  // where it was defined

 private:
  void bind(Call call);
};

}  // namespace metal_candle::jinja
