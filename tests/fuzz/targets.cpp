#include "tests/fuzz/targets.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "tests/io/fixture.h"

namespace metal_candle::fuzz {
namespace {

std::string fixture(const char* name) {
  std::ifstream in(std::string(METAL_CANDLE_TESTS_DIR "/fixtures/io/") + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> json_seeds() {
  return {
      R"({"a": [1, -2.5e1, true, false, null, "x\u00e9\ud83d\ude00\n"], "b": {}, "c": [], "": 18446744073709551615})",
      R"([[[["deep"]]], {"k": {"k": {"k": 0.1}}}, 1e308, 123456789012345678901234567890, -0])",
      R"({"weight_map": {"a": "model-00001-of-00002.safetensors"}, "metadata": {"total_size": 8}})",
  };
}

std::vector<std::string> safetensors_seeds() {
  std::vector<std::string> out;
  const Json cases = io_fixture("safetensors_cases.json");
  for (const Json& c : cases.elements())
    if (c.at("reference").as_bool()) out.push_back(from_hex(c.at("hex").as_string()));
  const Json written = io_fixture("safetensors_written.json");
  for (const JsonMember& m : written.items()) out.push_back(from_hex(m.value.as_string()));
  return out;
}

std::vector<std::string> gguf_seeds() { return {fixture("small.gguf")}; }

}  // namespace

const std::vector<Target>& targets() {
  static const std::vector<Target> all = {
      {"json",
       json,
       json_seeds,
       {"\\u", "\\ud800", "\"\"", "[[", "{\"", "e999", "-", "null", "\xef\xbb\xbf", "\xed\xa0\x80"}},
      {"safetensors",
       safetensors,
       safetensors_seeds,
       {"__metadata__", "dtype", "shape", "data_offsets", "BF16", "4294967296", "18446744073709551615", "F4", "[",
        "0,"}},
      {"gguf", gguf, gguf_seeds, {"GGUF", "general.alignment", "split.count"}},
  };
  return all;
}

void must(bool truth, const char* what) {
  if (truth) return;
  std::fprintf(stderr, "not true: %s\n", what);
  std::abort();
}

}  // namespace metal_candle::fuzz
