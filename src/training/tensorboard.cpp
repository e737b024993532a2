#include "training/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <system_error>

#include "metal_candle/error.hpp"

namespace metal_candle::training {
namespace {

constexpr std::array<std::uint32_t, 256> kCrcTable = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) != 0 ? 0x82f63b78u : 0);
    table[i] = c;
  }
  return table;
}();

template <class T>
void put_fixed(std::string& out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 128; value >>= 7) out.push_back(static_cast<char>(value | 128));
  out.push_back(static_cast<char>(value));
}

// A field's key is its number and how it is coded: 0 a varint, 1 eight bytes, 2 bytes with their length, 5 four bytes.
void put_key(std::string& out, unsigned field, unsigned coding) { put_varint(out, field << 3 | coding); }
void put_bytes(std::string& out, unsigned field, std::string_view bytes) {
  put_key(out, field, 2);
  put_varint(out, bytes.size());
  out += bytes;
}

std::uint32_t masked_crc(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

std::filesystem::path file_name(const std::filesystem::path& folder) {
  char host[256] = "localhost";
  gethostname(host, sizeof host - 1);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const std::string name =
      fmt::format("events.out.tfevents.{}.{}", std::chrono::duration_cast<std::chrono::seconds>(now).count(), host);
  std::filesystem::path path = folder / name;
  // Two runs within a second do not share a file.
  for (int i = 1; std::filesystem::exists(path); ++i) path = folder / fmt::format("{}.{}", name, i);
  return path;
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0u;
  for (const char c : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 255];
  return ~crc;
}

EventWriter::EventWriter(const std::filesystem::path& folder, std::int64_t resumed_at)
    : path_(file_name(folder)), file_(path_, std::ios::binary | std::ios::trunc) {
  if (!file_)
    throw FileError(FileFault::create, path_.string(), "",
                    "cannot be created: " + std::generic_category().message(errno));
  std::string version;
  put_bytes(version, 3, "brain.Event:2");
  event(0, version);
  if (resumed_at > 0) {
    // session_log {status: START}: readers drop what earlier files have from this step on.
    std::string start, session;
    put_key(start, 1, 0);
    put_varint(start, 1);
    put_bytes(session, 7, start);
    event(resumed_at + 1, session);
  }
  flush();
}

void EventWriter::scalar(std::string_view tag, std::int64_t step, float value) {
  std::string item, summary, field;
  put_bytes(item, 1, tag);
  put_key(item, 2, 5);
  put_fixed(item, std::bit_cast<std::uint32_t>(value));
  put_bytes(summary, 1, item);
  put_bytes(field, 5, summary);
  event(step, field);
}

void EventWriter::event(std::int64_t step, std::string_view rest) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  std::string message, record;
  put_key(message, 1, 1);
  put_fixed(message, std::bit_cast<std::uint64_t>(now.count()));
  put_key(message, 2, 0);
  put_varint(message, static_cast<std::uint64_t>(step));
  message += rest;
  put_fixed(record, static_cast<std::uint64_t>(message.size()));
  put_fixed(record, masked_crc(record));
  record += message;
  put_fixed(record, masked_crc(message));
  file_.write(record.data(), static_cast<std::streamsize>(record.size()));
}

void EventWriter::flush() {
  file_.flush();
  if (!file_) throw FileError(FileFault::transfer, path_.string(), "", "cannot be written");
}

}  // namespace metal_candle::training
