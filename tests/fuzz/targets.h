// What is fuzzed: one function for every parser of the project. It takes any bytes, lets FileError pass (that is the
// parser's answer) and checks whatever must be true of bytes that were accepted.
//
// With -DMETAL_CANDLE_FUZZ=ON and clang, each is a libFuzzer program `mc_fuzz_<name>`; mutations_test.cpp runs all of
// them, always, on some thousand mutations of their seeds, or for METAL_CANDLE_FUZZ_SECONDS. To add one: a source with the function, a row in
// targets.cpp, its name in tests/CMakeLists.txt.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace metal_candle::fuzz {

void json(std::string_view bytes);
void safetensors(std::string_view bytes);
void gguf(std::string_view bytes);
void tokenizer(std::string_view bytes);
void jinja(std::string_view bytes);
void config(std::string_view bytes);
void jsonl(std::string_view bytes);

struct Target {
  const char* name;
  void (*run)(std::string_view bytes);
  /// Valid inputs, small, from which mutations start.
  std::vector<std::string> (*seeds)();
  /// Words of the format, which a random byte would seldom find.
  std::vector<std::string> words;
};
const std::vector<Target>& targets();

/// Ends the program when something that must be true is not.
void must(bool truth, const char* what);

}  // namespace metal_candle::fuzz
