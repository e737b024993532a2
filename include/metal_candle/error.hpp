// Errors say whose fault it is and carry what happened as data.
//
// UserError: your shapes, your file, your machine's memory. InternalError: our bug, please report it.
// Recording throws at the call that made the mistake; evaluation throws where you wait.
//
//   try { mc::matmul(a, b).eval(); }
//   catch (const mc::OutOfMemory& e) { shrink_the_batch(e.bytes_asked()); }
//   catch (const mc::UserError& e) { std::cerr << e.what() << '\n'; }               // op, shapes, dtypes, scope
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

/// What is wrong with a file: the file itself, or one thing in it.
enum class FileFault {
  missing,   // it is not there, or may not be read
  bad,       // its content is not what it must be
  create,    // an output cannot be made there
  transfer,  // reading or writing it failed half-way
};

/// A file that cannot be used. The message is put together from the parts: "file: field: expected …, got …".
class FileError : public UserError {
 public:
  /// `field` names the place in the file (a key, a tensor, "line 7"); `expected` and `got` may be empty.
  FileError(FileFault fault, std::string file, std::string field, std::string expected, std::string got = {});

  FileFault fault() const { return fault_; }
  const std::string& file() const { return file_; }
  const std::string& field() const { return field_; }
  const std::string& expected() const { return expected_; }
  const std::string& got() const { return got_; }

 private:
  FileFault fault_;
  std::string file_, field_, expected_, got_;
};

class InternalError : public Error {
 public:
  explicit InternalError(std::string message);
};

}  // namespace metal_candle
