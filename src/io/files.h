// Files in and out: mapped for reading, whole or not at all for writing.
//
//   auto file = MappedFile::open(path);                    // pages come as they are touched
//   AtomicFile out(path);                                  // path.tmp-…, beside the target
//   out.write(header), out.write(data);
//   out.commit();                                          // fsync, rename, fsync of the folder
//
// A writer throws FileError: `create` when the output cannot be made there, `transfer` when writing failed half-way (a
// full disk). Its temporary is then removed and what stood at the target before is untouched. Only a failing last step,
// the fsync of the folder, leaves the new content, whole, in place. The "*.tmp-*" that a killed process leaves is
// removed by the next writer of the same target.
#pragma once

#include <atomic>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace metal_candle::io {

/// A regular file's bytes in memory, read-only, for as long as somebody holds it. Thread-safe. Whoever makes a mapped
/// file shorter under a reader gets what the system gives (SIGBUS): replace files by renaming, as the writers here do.
class MappedFile {
 public:
  /// Throws FileError: `missing` when it is not there or not readable, `bad` when it is not a regular file.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }
  /// Asks the system to read a part ahead.
  void will_need(std::size_t offset, std::size_t bytes) const;

 private:
  explicit MappedFile(std::filesystem::path path) : path_(std::move(path)) {}

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// The whole of a regular file; errors as MappedFile's.
std::string read_file(const std::filesystem::path& path);

/// Writes a file, whole or not at all. One thread.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  /// Removes the temporary unless committed.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view bytes) { write(std::as_bytes(std::span(bytes))); }
  /// Writes over what was written from `offset` on: for a header that says how much follows.
  void rewrite(std::size_t offset, std::string_view bytes);
  std::size_t written() const { return written_; }
  /// Once, at the end.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1, lock_ = -1;  // the lock outlives the descriptor that is written through
  std::size_t written_ = 0;
};

/// A file by AtomicFile.
void write_file(const std::filesystem::path& path, std::string_view bytes);

/// Writes a folder, whole or not at all: fill `path()` by whatever means, then commit. An empty folder that is there
/// already stays, and gets what was written one file after the other. One thread.
class AtomicFolder {
 public:
  enum class Existing { refuse, replace };
  /// With `refuse`, throws FileError (create) when the target is there already and is not an empty folder.
  explicit AtomicFolder(std::filesystem::path target, Existing existing = Existing::refuse);
  /// Removes the temporary folder with its content unless committed.
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  /// Where to write until commit.
  const std::filesystem::path& path() const { return temporary_; }
  /// fsync of every file and folder in it, rename into place, fsync of the parent. A folder that is replaced changes
  /// places with the new one in one step, and is deleted.
  void commit();

 private:
  void put_in_place();
  void fill();

  std::filesystem::path target_, temporary_;
  int lock_ = -1;
  Existing existing_;
  bool fills_ = false;  // the target is there, and empty
  bool done_ = false;
};

/// Deletes a folder, which is there whole or not at all meanwhile: a killed process leaves at most a "*.tmp-*". Complains
/// about nothing.
void remove_folder(const std::filesystem::path& path);

/// For tests: while one lives, the process's writers count their system calls (open, mkdir, write, fsync, close,
/// rename), and the n-th goes wrong. One at a time.
class WriteFaults {
 public:
  enum class Kind {
    error,        // fails with `error`
    short_write,  // a write does half of it; other calls work
    die,          // the process ends at once, as if killed
    full,         // from there on all that needs room (open, mkdir, write) fails with `error`
  };
  WriteFaults(int nth, Kind kind, int error = 0);
  ~WriteFaults();
  WriteFaults(const WriteFaults&) = delete;
  WriteFaults& operator=(const WriteFaults&) = delete;
  /// How many calls there were.
  int calls() const { return calls_.load(); }
  /// For the writers: whether this call is the one. `room`: it needs some.
  bool hit(bool room) {
    const int call = ++calls_;
    return kind_ == Kind::full ? room && call >= nth_ : call == nth_;
  }

  const int nth_;
  const Kind kind_;
  const int error_;

 private:
  std::atomic<int> calls_{0};
};

}  // namespace metal_candle::io
