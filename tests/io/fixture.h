// Files made by tests/fixtures/make_io_fixtures.py.
#pragma once

#include <string>
#include <string_view>

#include "metal_candle/json.hpp"

namespace metal_candle {

inline Json io_fixture(const char* name) {
  return Json::load(std::string(METAL_CANDLE_TESTS_DIR "/fixtures/io/") + name);
}

inline std::string from_hex(std::string_view hex) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::string out;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) out += static_cast<char>(digit(hex[i]) * 16 + digit(hex[i + 1]));
  return out;
}

}  // namespace metal_candle
