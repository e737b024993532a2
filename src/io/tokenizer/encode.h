// From text to tokens: one call's work.
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "io/tokenizer/state.h"

namespace metal_candle::io::tok {

class Encoder {
 public:
  /// `offsets` may be null.
  Encoder(const State& state, Workspace& workspace, const EncodeOptions& options, std::vector<std::int32_t>& ids,
          std::vector<std::pair<std::uint32_t, std::uint32_t>>* offsets);
  void run(std::string_view text);

 private:
  struct Spaces {
    std::int32_t before = -1, after = -1;  // white characters of an added token; -1 for the model's, which are counted
  };
  void part(std::string_view original, Range part);
  void pieces(const Text& text, Range part);
  void scan(const Text& text, Range part);
  void words(const Text& text, Range piece);
  void word(const Text& text, Range at);
  void added(std::int32_t id, const Text& text, Range at);
  void trim(std::string_view original);
  void post_process();

  const State& state_;
  Workspace& work_;
  const EncodeOptions& options_;
  std::vector<std::int32_t>& ids_;
  std::vector<std::pair<std::uint32_t, std::uint32_t>>* offsets_;
  std::vector<Spaces> spaces_;
  std::string_view cut_;
};

}  // namespace metal_candle::io::tok
