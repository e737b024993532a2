// Runs build/metal-candle, and a model for it to run.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "metal_candle/json.hpp"

namespace metal_candle::test {

struct Ran {
  int code = 0;
  std::string out, err;
  /// Standard output as JSON lines; a line that is none is a failure.
  std::vector<Json> events() const;
};

/// With arguments, and variables of the environment ("NAME=value") set.
Ran command(const std::vector<std::string>& arguments, const std::vector<std::string>& environment = {},
            const std::string& input = "");
/// The same by a shell: `line` begins behind the binary's name.
Ran shell(const std::string& line);
/// Starts it, waits until standard output has as many lines, sends the signal, waits for the end.
Ran signalled(const std::vector<std::string>& arguments, int lines, int signal);
/// The same as soon as it handles the signal.
Ran signalled_early(const std::vector<std::string>& arguments, int signal);
/// Starts it told to ignore the signal, sends it as soon as SIGHUP would be handled, calls `then`, waits for the end.
Ran signalled_in_vain(const std::vector<std::string>& arguments, int signal, const std::function<void()>& then);

/// A folder of the test, removed at the end of the program, with model/ (a tiny llama with tokenizer and chat template)
/// and the .jsonl files that the tests use.
const std::filesystem::path& playground();
std::string model();
/// A path in it.
std::string at(const std::string& name);

/// All of a file.
std::string text_of(const std::filesystem::path& file);
void write(const std::filesystem::path& file, const std::string& text);

std::vector<std::string> keys(const Json& object);

}  // namespace metal_candle::test
