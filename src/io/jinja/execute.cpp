// Statements.
#include <algorithm>

#include "io/jinja/globals.h"
#include "io/jinja/interpreter.h"
#include "io/jinja/loop.h"
#include "io/jinja/macro.h"
#include "io/jinja/repr.h"

namespace metal_candle::jinja {

void Scope::set(Name name, Value value) {
  const auto found = std::find_if(values.begin(), values.end(), [&](const auto& v) { return v.first == name; });
  if (found != values.end()) found->second = std::move(value);
  else values.emplace_back(name, std::move(value));
}

const Value* Scope::find(Name name) const {
  const auto found = std::find_if(values.begin(), values.end(), [&](const auto& v) { return v.first == name; });
  return found != values.end() ? &found->second : nullptr;
}

Inner::Inner(Interpreter& interpreter, std::shared_ptr<Scope> outer)
    : interpreter_(interpreter), before_(interpreter.scope_) {
  interpreter.scope_ = std::make_shared<Scope>(Scope{outer ? std::move(outer) : before_});
}
Inner::~Inner() { interpreter_.scope_ = std::move(before_); }

void Inner::renew() {
  std::shared_ptr<Scope>& scope = interpreter_.scope_;
  if (scope.use_count() == 1) scope->values.clear();
  else scope = std::make_shared<Scope>(Scope{scope->outer});
}

/// `self`: a template's blocks by name, to be shown once more.
struct Blocks : Object {
  explicit Blocks(Interpreter& interpreter_) : interpreter(interpreter_) {}
  std::string type() const override { return "TemplateReference"; }
  std::optional<Value> attribute(std::string_view name) const override {
    const Statement* block = find(interpreter.program_.body, name);
    if (!block) return std::nullopt;
    return function(block->text, [this, block](const Call&) { return interpreter.text_of_block(*block); });
  }
  static const Statement* find(const Body& body, std::string_view name) {
    for (const Statement& s : body) {
      if (s.kind == Statement::Kind::block && s.text == name) return &s;
      for (const Body& inner : s.bodies)
        if (const Statement* found = find(inner, name)) return found;
    }
    return nullptr;
  }
  Interpreter& interpreter;
};

Interpreter::Interpreter(const Program& program, const Dict& context, const std::tm& now)
    : program_(program), given_(program.names.size()) {
  for (auto& [name, value] : make_globals(now, keep_))
    if (const Name number = program.names.find(name); number >= 0) given_[static_cast<std::size_t>(number)] = value;
  if (const Name self = program.names.find("self"); self >= 0) {
    keep_.push_back(std::make_shared<Blocks>(*this));
    given_[static_cast<std::size_t>(self)] = Value(keep_.back());
  }
  for (const auto& [key, value] : context.items())
    if (const Name number = program.names.find(key.text()); number >= 0)
      given_[static_cast<std::size_t>(number)] = value;
  root_ = scope_ = std::make_shared<Scope>();
}

Interpreter::~Interpreter() {
  for (std::size_t i = 0; i < keep_.size(); ++i) keep_[i]->release();
}

std::string Interpreter::run() {
  out_ = &main_;
  try {
    run(program_.body);
  } catch (Fault& fault) {
    if (fault.line == 0) fault.line = line_, fault.column = column_;
    throw;
  }
  return std::move(main_);
}

void Interpreter::emit(std::string_view text) {
  spend_growth(text.size(), out_->size() + text.size());
  out_->append(text);
}

Interpreter::Flow Interpreter::run(const Body& body) {
  const Level level;
  for (const Statement& statement : body)
    if (const Flow flow = run(statement); flow != Flow::on) return flow;
  return Flow::on;
}

Interpreter::Flow Interpreter::run(const Statement& statement) {
  spend(1);
  at(statement);
  using Kind = Statement::Kind;
  switch (statement.kind) {
    case Kind::data: emit(statement.text); return Flow::on;
    case Kind::print:
      for (const auto& part : statement.expressions) emit(to_text(eval(*part)));
      return Flow::on;
    case Kind::set: assign(*statement.target, eval(*statement.expressions[0])); return Flow::on;
    case Kind::set_block: return set_block(statement);
    case Kind::branch: return branch(statement);
    case Kind::loop: return loop(statement);
    case Kind::macro: scope_->set(statement.name, make_macro(statement, statement.text)); return Flow::on;
    case Kind::call_block: call_block(statement); return Flow::on;
    case Kind::filter_block: return filter_block(statement);
    case Kind::with: return with(statement);
    case Kind::scope: return generation(statement);
    case Kind::block: return block(statement);
    case Kind::break_: return Flow::break_;
    case Kind::continue_: return Flow::continue_;
  }
  return Flow::on;
}

Interpreter::Flow Interpreter::branch(const Statement& statement) {
  for (std::size_t i = 0; i < statement.expressions.size(); ++i)
    if (truthy(eval(*statement.expressions[i]))) return run(statement.bodies[i]);
  return statement.bodies.size() > statement.expressions.size() ? run(statement.bodies.back()) : Flow::on;
}

Interpreter::Flow Interpreter::loop(const Statement& statement) {
  return loop(statement, eval(*statement.expressions[0]), 0);
}

Interpreter::Flow Interpreter::loop(const Statement& statement, const Value& over, int depth) {
  at(statement);
  const LoopHolder holder(keep_, *this, statement, over, depth);
  Loop& loop = *holder.loop;
  {
    Inner inner(*this);
    while (loop.advance()) {
      inner.renew();
      scope_->set(Names::loop, Value(std::shared_ptr<Object>(holder.loop)));
      assign(*statement.target, loop.item());
      if (run(statement.bodies[0]) == Flow::break_) break;
    }
  }
  if (loop.visited() || statement.bodies.size() < 2) return Flow::on;
  Inner inner(*this);
  return run(statement.bodies[1]);
}

Interpreter::Flow Interpreter::generation(const Statement& statement) {
  const std::size_t from = out_->size();
  Inner inner(*this);
  const Flow flow = run(statement.bodies[0]);
  if (out_ == &main_) generated_.emplace_back(from, main_.size());
  return flow;
}

Interpreter::Flow Interpreter::block(const Statement& statement) {
  Inner inner(*this, statement.flag ? nullptr : root_);
  return run(statement.bodies[0]);
}

Value Interpreter::text_of_block(const Statement& statement) {
  const Level level;
  const int line = line_, column = column_;
  Capture capture(*this);
  Inner inner(*this, root_);
  run(statement.bodies[0]);
  line_ = line, column_ = column;
  return Value(std::move(capture.text));
}

Value Interpreter::captured(Flow& flow, const Body& body) {
  Capture capture(*this);
  Inner inner(*this);
  flow = run(body);
  return Value(std::move(capture.text));
}

Interpreter::Flow Interpreter::set_block(const Statement& statement) {
  Flow flow;
  Value text = captured(flow, statement.bodies[0]);
  if (flow != Flow::on) return flow;
  if (statement.filter) {
    const Value* before = std::exchange(block_text_, &text);
    Value filtered = eval(*statement.filter);
    block_text_ = before;
    text = std::move(filtered);
  }
  assign(*statement.target, text);
  return Flow::on;
}

Interpreter::Flow Interpreter::filter_block(const Statement& statement) {
  Flow flow;
  const Value text = captured(flow, statement.bodies[0]);
  if (flow != Flow::on) return flow;
  const Value* before = std::exchange(block_text_, &text);
  const Value filtered = eval(*statement.filter);
  block_text_ = before;
  emit(to_text(filtered));
  return Flow::on;
}

Interpreter::Flow Interpreter::with(const Statement& statement) {
  const std::vector<Value> values = eval_all(statement.expressions);
  Inner inner(*this);
  for (std::size_t i = 0; i < values.size(); ++i) assign(*statement.targets[i], values[i]);
  return run(statement.bodies[0]);
}

Value Interpreter::make_macro(const Statement& statement, std::string name) {
  auto macro = std::make_shared<Macro>(*this, statement, std::move(name), scope_);
  keep_.push_back(macro);
  return Value(std::shared_ptr<Object>(std::move(macro)));
}

void Interpreter::call_block(const Statement& statement) {
  const Value caller = make_macro(statement, "caller");
  const Value text = call(*statement.expressions[0], caller);
  emit(to_text(text));
}

void Interpreter::assign(const Expression& target, const Value& value) {
  if (target.kind == Expression::Kind::target) {
    if (!target.text.empty()) return set_member(target, value);
    scope_->set(target.name, value);
    return;
  }
  at(target);
  if (!is_iterable(value)) fail_type("cannot unpack non-iterable " + type_name(value) + " object");
  const std::vector<Value> items = iterate(value);
  const std::size_t wanted = target.parts.size();
  if (items.size() > wanted) fail(Reason::value, "too many values to unpack (expected " + std::to_string(wanted) + ")");
  if (items.size() < wanted)
    fail(Reason::value, "not enough values to unpack (expected " + std::to_string(wanted) + ", got " +
                            std::to_string(items.size()) + ")");
  for (std::size_t i = 0; i < wanted; ++i) assign(*target.parts[i], items[i]);
}

void Interpreter::set_member(const Expression& target, const Value& value) {
  at(target);
  const Value owner = name(target);
  auto* space = owner.kind() == Kind::object ? dynamic_cast<Namespace*>(owner.object().get()) : nullptr;
  if (!space) fail_type("cannot assign attribute on non-namespace object");
  space->set(target.text, value);
}

}  // namespace metal_candle::jinja
