// Errors say whose fault it is and carry what happened as data.
//
// UserError: your shapes, your file, your machine's memory. InternalError: our bug, please report it.
// Recording throws at the call that made the mistake; evaluation throws where you wait.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace metal_candle {

enum class ErrorKind { shape, dtype, argument, index, memory, device, poisoned, file, internal };

/// Base of everything this library throws.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string message, std::string op = {}, std::string scope = {});

  ErrorKind kind() const { return kind_; }
  /// The operation that failed, or empty.
  const std::string& op() const { return op_; }
  /// The `Scope` path that was open when the operation was recorded, or empty.
  const std::string& scope() const { return scope_; }

 private:
  ErrorKind kind_;
  std::string op_, scope_;
};

class UserError : public Error {
 public:
  using Error::Error;
};

/// Memory could not be had. Nothing leaks: what the failed plan held has been returned.
class OutOfMemory : public UserError {
 public:
  OutOfMemory(std::size_t asked, std::size_t free);
  std::size_t bytes_asked() const { return asked_; }
  std::size_t bytes_free() const { return free_; }

 private:
  std::size_t asked_, free_;
};

class InternalError : public Error {
 public:
  explicit InternalError(std::string message);
};

}  // namespace metal_candle
