#include "metal_candle/error.hpp"

#include <fmt/format.h>

namespace metal_candle {

Error::Error(ErrorKind kind, std::string message, std::string op, std::string scope)
    : std::runtime_error(std::move(message)), kind_(kind), op_(std::move(op)), scope_(std::move(scope)) {}

OutOfMemory::OutOfMemory(std::size_t asked, std::size_t free)
    : UserError(ErrorKind::memory, fmt::format("out of memory: {} bytes asked, {} free", asked, free)),
      asked_(asked),
      free_(free) {}

InternalError::InternalError(std::string message)
    : Error(ErrorKind::internal, "internal error in metal-candle, please report it: " + std::move(message)) {}

}  // namespace metal_candle
