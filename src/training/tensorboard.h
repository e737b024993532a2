// TensorBoard event files: length-prefixed records of protocol-buffer messages, written by hand.
//
//   EventWriter events(folder, 120);                 // a run that goes on at step 120: later steps written before are
//   void events.scalar("train/loss", 121, 0.25f); events.flush();
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace metal_candle::training {

/// CRC-32 with Castagnoli's polynomial, as the record format has it.
std::uint32_t crc32c(std::string_view bytes);

class EventWriter {
 public:
  /// Begins a file of its own in the folder. Throws FileError where that cannot be made.
  explicit EventWriter(const std::filesystem::path& folder, std::int64_t resumed_at = 0);
  void scalar(std::string_view tag, std::int64_t step, float value);
  /// Throws FileError if anything written so far did not arrive.
  void flush();
  const std::filesystem::path& path() const { return path_; }

 private:
  void event(std::int64_t step, std::string_view rest);

  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace metal_candle::training
