// What tests of training share.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "metal_candle/trainer.hpp"

namespace metal_candle::test {

/// A folder that is removed with its content.
struct TempFolder {
  std::filesystem::path path = std::filesystem::temp_directory_path() /
                               ("mc_training_" + std::to_string(getpid()) + "_" + std::to_string(counter++));
  TempFolder() { std::filesystem::create_directories(path); }
  ~TempFolder() { std::filesystem::remove_all(path); }
  static inline int counter = 0;
};

inline std::string text_of(const std::filesystem::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

}  // namespace metal_candle::test
