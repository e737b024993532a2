// Runs a parsed template once.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/jinja/ast.h"
#include "io/jinja/budget.h"

namespace metal_candle::jinja {

/// Variables of one block. Macros keep the one they were defined in.
struct Scope {
  std::shared_ptr<Scope> outer;
  std::vector<std::pair<Name, Value>> values = {};

  void set(Name name, Value value);
  const Value* find(Name name) const;
};

class Loop;
class Interpreter;

/// For an object made by a template: kept until the end, when all let go of their values one by one. So no chain and no
/// circle of objects is ever destroyed in one go.
using Keep = std::vector<std::shared_ptr<Object>>;

class Interpreter {
 public:
  Interpreter(const Program& program, const Dict& context, const std::tm& now);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  /// The text. Throws Fault, with a line.
  std::string run();
  /// Bytes of the text that {% generation %} blocks wrote.
  const std::vector<std::pair<std::size_t, std::size_t>>& generated() const { return generated_; }

 private:
  enum class Flow { on, break_, continue_ };
  friend class Loop;
  friend struct Macro;
  friend struct Blocks;
  friend class Inner;
  friend class Capture;

  // ---- statements ----
  Flow run(const Body& body);
  Flow run(const Statement& statement);
  Flow branch(const Statement& statement);
  Flow loop(const Statement& statement);
  Flow loop(const Statement& statement, const Value& over, int depth);
  Flow inner(const Statement& statement);
  Flow generation(const Statement& statement);
  Flow block(const Statement& statement);
  Value text_of_block(const Statement& statement);
  Flow set_block(const Statement& statement);
  Flow filter_block(const Statement& statement);
  Flow with(const Statement& statement);
  void call_block(const Statement& statement);
  void assign(const Expression& target, const Value& value);
  void set_member(const Expression& target, const Value& value);
  void emit(std::string_view text);
  Value make_macro(const Statement& statement, std::string name);
  Value captured(Flow& flow, const Body& body);
  void at(const Expression& place) { line_ = place.line, column_ = place.column; }
  void at(const Statement& place) { line_ = place.line, column_ = place.column; }

  // ---- expressions ----
  Value eval(const Expression& e);
  Value name(const Expression& e) const;
  std::vector<Value> eval_all(const std::vector<ExpressionPointer>& parts);
  Value dict(const Expression& e);
  Value slice(const Expression& e);
  Value call(const Expression& e, std::optional<Value> caller = std::nullopt);
  Value filter(const Expression& e);
  bool test(const Expression& e);
  Value concat(const Expression& e);
  bool compare(const Expression& e);
  Value conditional(const Expression& e);
  Call arguments(const Arguments& from);

  const Program& program_;
  std::vector<std::optional<Value>> given_;  // by name: the context, and what every template has
  std::shared_ptr<Scope> root_, scope_;
  std::string* out_ = nullptr;
  std::string main_;
  const Value* block_text_ = nullptr;  // what a block's filter is applied to
  int line_ = 0, column_ = 0;
  Keep keep_;
  std::vector<std::pair<std::size_t, std::size_t>> generated_;
};

/// A scope within the current one, while it lives.
class Inner {
 public:
  explicit Inner(Interpreter& interpreter, std::shared_ptr<Scope> outer = nullptr);
  ~Inner();
  Inner(const Inner&) = delete;
  Inner& operator=(const Inner&) = delete;
  /// Empties it, unless somebody kept it: then it gets a successor.
  void renew();

 private:
  Interpreter& interpreter_;
  std::shared_ptr<Scope> before_;
};

/// What is written goes into `text`, while it lives.
class Capture {
 public:
  explicit Capture(Interpreter& interpreter) : interpreter_(interpreter), before_(interpreter.out_) {
    interpreter.out_ = &text;
  }
  ~Capture() { interpreter_.out_ = before_; }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  std::string text;

 private:
  Interpreter& interpreter_;
  std::string* before_;
};

}  // namespace metal_candle::jinja
