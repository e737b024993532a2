// What one rendering may still use. A template is foreign code: every loop, copy and comparison pays here first.
#pragma once

#include <cstddef>
#include <cstdint>

namespace metal_candle::jinja {

struct Limits {
  std::uint64_t steps = 20'000'000;  // about one a node evaluated, an item visited, 32 bytes of text made
  int depth = 1000;                  // expressions, statements and macro calls within one another
  std::size_t output = 64u << 20;    // bytes of the result, and of any string on the way to it
};

/// While it lives, it is the budget of this thread.
class Budget {
 public:
  explicit Budget(const Limits& limits);
  ~Budget();
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  void spend(std::uint64_t steps);
  void check_bytes(std::size_t bytes) const;
  void enter();
  void leave() { --depth_; }

 private:
  Limits limits_;
  std::uint64_t left_;
  int depth_ = 0;
  Budget* outer_;
};

/// Of the thread's budget, if there is one: throws Fault{limit} when it is used up.
void spend(std::uint64_t steps);
/// A string of so many bytes is about to be made.
void spend_text(std::size_t bytes);

/// A text grows by so many bytes to so many.
void spend_growth(std::size_t bytes, std::size_t total);

/// One level of nesting.
class Level {
 public:
  Level();
  ~Level();
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;
};

}  // namespace metal_candle::jinja
