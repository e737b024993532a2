// `loop.index`, `loop.last`, `loop.cycle(...)` and the rest.
#include "io/jinja/loop.h"

#include "io/jinja/globals.h"
#include "io/jinja/operations.h"

namespace metal_candle::jinja {

Loop::Loop(Interpreter& interpreter, const Statement& statement, const Value& over, int depth)
    : interpreter_(interpreter),
      statement_(statement),
      scope_(interpreter.scope_),
      items_(iterate(over)),
      filtered_(statement.expressions[1] != nullptr),
      depth_(depth) {}

bool Loop::kept(const Value& item) {
  Inner inner(interpreter_, scope_);
  interpreter_.assign(*statement_.target, item);
  return truthy(interpreter_.eval(*statement_.expressions[1]));
}

std::optional<Value> Loop::pull() {
  while (next_ < items_.size()) {
    spend(1);
    const Value& item = items_[next_++];
    if (!filtered_ || kept(item)) return item;
  }
  return std::nullopt;
}

const std::optional<Value>& Loop::peek() {
  if (!std::exchange(peeked_, true)) after_ = pull();
  return after_;
}

bool Loop::advance() {
  if (!peek()) {
    peeked_ = false;
    return false;
  }
  before_ = std::move(current_);
  current_ = *std::move(after_);
  after_.reset();
  peeked_ = false;
  ++index_;
  return true;
}

std::int64_t Loop::length() {
  if (filtered_) {
    // What is left is filtered now, and walked as it is then.
    std::vector<Value> rest;
    while (auto item = pull()) rest.push_back(*std::move(item));
    items_.erase(items_.begin() + static_cast<std::ptrdiff_t>(0), items_.end());
    items_.resize(static_cast<std::size_t>(index_) + (peeked_ && after_));
    next_ = items_.size();
    items_.insert(items_.end(), rest.begin(), rest.end());
    filtered_ = false;
  }
  return static_cast<std::int64_t>(items_.size());
}

std::optional<Value> Loop::attribute(std::string_view name) const {
  // Looking ahead changes how far the loop has read, not what it is.
  Loop& self = const_cast<Loop&>(*this);
  if (name == "index") return index_;
  if (name == "index0") return index_ - 1;
  if (name == "first") return index_ == 1;
  if (name == "last") return !self.peek().has_value();
  if (name == "length") return self.length();
  if (name == "revindex") return self.length() - index_ + 1;
  if (name == "revindex0") return self.length() - index_;
  if (name == "depth") return depth_ + 1;
  if (name == "depth0") return depth_;
  if (name == "previtem") return index_ == 1 ? Value::undefined("there is no previous item") : before_;
  if (name == "nextitem") return self.peek() ? *self.peek() : Value::undefined("there is no next item");
  auto owner = self.shared_from_this();
  if (name == "cycle") return function("cycle", [owner](const Call& call) { return owner->cycle(call); });
  if (name == "changed") return function("changed", [owner](const Call& call) { return owner->changed(call); });
  return std::nullopt;
}

Value Loop::cycle(const Call& call) const {
  if (call.positional.empty()) fail_type("no items for cycling given");
  return call.positional[static_cast<std::size_t>(index_ - 1) % call.positional.size()];
}

Value Loop::changed(const Call& call) {
  Value now = Value::tuple(call.positional);
  if (changed_ && equal(*changed_, now)) return false;
  changed_ = std::move(now);
  return true;
}

Value Loop::call(const Call& call) {
  if (!statement_.flag) fail_type("The loop must have the 'recursive' marker to be called recursively.");
  if (call.positional.size() != 1 || !call.named.empty()) fail_type("loop() takes one argument");
  Capture capture(interpreter_);
  const auto before = std::exchange(interpreter_.scope_, scope_);
  try {
    interpreter_.loop(statement_, call.positional[0], depth_ + 1);
  } catch (...) {
    interpreter_.scope_ = before;
    throw;
  }
  interpreter_.scope_ = before;
  return Value(std::move(capture.text));
}

void Loop::release() {
  scope_.reset();
  items_.clear();
  before_ = current_ = Value();
  after_.reset();
  changed_.reset();
}

}  // namespace metal_candle::jinja
