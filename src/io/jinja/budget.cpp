// The limits of a rendering, kept where every operation finds them: with the thread.
#include "io/jinja/budget.h"

#include <fmt/format.h>

#include "io/jinja/fault.h"

namespace metal_candle::jinja {

namespace {
thread_local Budget* current = nullptr;
}  // namespace

Budget::Budget(const Limits& limits) : limits_(limits), left_(limits.steps), outer_(current) { current = this; }
Budget::~Budget() { current = outer_; }

void Budget::spend(std::uint64_t steps) {
  if (steps > left_) {
    left_ = 0;
    fail(Reason::limit, fmt::format("the template takes more than {} steps", limits_.steps));
  }
  left_ -= steps;
}

void Budget::check_bytes(std::size_t bytes) const {
  if (bytes > limits_.output)
    fail(Reason::limit, fmt::format("the template makes a text of more than {} bytes", limits_.output));
}

void Budget::enter() {
  if (depth_ >= limits_.depth)
    fail(Reason::limit, fmt::format("the template nests deeper than {} levels", limits_.depth));
  ++depth_;
}

void spend(std::uint64_t steps) {
  if (current) current->spend(steps);
}

void spend_text(std::size_t bytes) {
  if (!current) return;
  current->check_bytes(bytes);
  current->spend(1 + bytes / 32);
}

void spend_growth(std::size_t bytes, std::size_t total) {
  if (!current) return;
  current->check_bytes(total);
  current->spend(1 + bytes / 32);
}

Level::Level() {
  if (current) current->enter();
}
Level::~Level() {
  if (current) current->leave();
}

}  // namespace metal_candle::jinja
