// The `loop` of a for.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/jinja/interpreter.h"

namespace metal_candle::jinja {

/// Walks over items, those that the loop's condition keeps. The condition is asked when an item's turn comes, one item
/// ahead where `last` or `nextitem` look there, of all that are left where `length` does.
class Loop : public Object, public std::enable_shared_from_this<Loop> {
 public:
  Loop(Interpreter& interpreter, const Statement& statement, const Value& over, int depth);

  /// To the next item, if there is one.
  bool advance();
  const Value& item() const { return current_; }
  bool visited() const { return index_ > 0; }

  std::string type() const override { return "LoopContext"; }
  bool callable() const override { return true; }
  std::optional<Value> attribute(std::string_view name) const override;
  Value call(const Call& call) override;
  void release() override;

  Value cycle(const Call& call) const;
  Value changed(const Call& call);

 private:
  std::optional<Value> pull();
  const std::optional<Value>& peek();
  std::int64_t length();
  bool kept(const Value& item);

  Interpreter& interpreter_;
  const Statement& statement_;
  std::shared_ptr<Scope> scope_;  // around the loop
  std::vector<Value> items_;
  std::size_t next_ = 0;
  bool filtered_;
  int depth_;
  std::int64_t index_ = 0;
  Value before_, current_;
  std::optional<Value> after_;
  bool peeked_ = false;
  std::optional<Value> changed_;
};

/// Keeps a loop that somebody still holds when it is over.
class LoopHolder {
 public:
  LoopHolder(Keep& keep, Interpreter& interpreter, const Statement& statement, const Value& over, int depth)
      : loop(std::make_shared<Loop>(interpreter, statement, over, depth)), keep_(keep) {}
  ~LoopHolder() {
    if (loop.use_count() > 1) keep_.push_back(loop);
  }
  LoopHolder(const LoopHolder&) = delete;
  LoopHolder& operator=(const LoopHolder&) = delete;
  std::shared_ptr<Loop> loop;

 private:
  Keep& keep_;
};

}  // namespace metal_candle::jinja
