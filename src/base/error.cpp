#include "metal_candle/error.hpp"

#include <fmt/format.h>

namespace metal_candle {

Error::Error(ErrorKind kind, std::string message, std::string op, std::string scope)
    : std::runtime_error(message), kind_(kind), op_(std::move(op)), scope_(std::move(scope)) {}

OutOfMemory::OutOfMemory(std::size_t asked, std::size_t free)
    : UserError(ErrorKind::memory, fmt::format("out of memory: {} bytes asked, {} free", asked, free)),
      asked_(asked),
      free_(free) {}

namespace {

std::string file_message(const std::string& file, const std::string& field, const std::string& expected,
                         const std::string& got) {
  std::string message = file;
  if (!field.empty()) message += ": " + field;
  if (!expected.empty()) message += got.empty() ? ": " + expected : ": expected " + expected;
  if (!got.empty()) message += (expected.empty() ? ": got " : ", got ") + got;
  return message;
}

}  // namespace

FileError::FileError(FileFault fault, std::string file, std::string field, std::string expected, std::string got)
    : UserError(ErrorKind::file, file_message(file, field, expected, got)),
      fault_(fault),
      file_(std::move(file)),
      field_(std::move(field)),
      expected_(std::move(expected)),
      got_(std::move(got)) {}

InternalError::InternalError(std::string message)
    : Error(ErrorKind::internal, "internal error in metal-candle, please report it: " + std::move(message)) {}

}  // namespace metal_candle
