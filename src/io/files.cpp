#include "io/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include "io/temporary.h"
#include "metal_candle/error.hpp"

namespace metal_candle::io {
namespace {

namespace fs = std::filesystem;

std::string reason(int error) { return std::system_category().message(error); }

[[noreturn]] void refuse(FileFault fault, const fs::path& path, const char* doing, int error) {
  throw FileError(fault, path.string(), "", fmt::format("cannot be {}: {}", doing, reason(error)));
}

/// Which failures say that an output cannot be there, rather than that writing it went wrong.
FileFault fault_of(int error) {
  return error == EIO || error == ENOSPC || error == EDQUOT || error == EFBIG ? FileFault::transfer : FileFault::create;
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  operator int() const { return fd_; }

 private:
  int fd_;
};

// ---- system calls of writers, which tests can make fail -------------------------------------------------------------

std::atomic<WriteFaults*> faults{nullptr};

/// Counts a call. True: it shall fail, and errno says how. `size`, where given, may be made smaller.
bool sabotaged(bool room = false, std::size_t* size = nullptr) {
  WriteFaults* const active = faults.load(std::memory_order_acquire);
  if (!active || !active->hit(room)) return false;
  if (active->kind_ == WriteFaults::Kind::die) ::_exit(137);
  if (active->kind_ == WriteFaults::Kind::error || active->kind_ == WriteFaults::Kind::full) {
    errno = active->error_;
    return true;
  }
  if (size) *size = (*size + 1) / 2;
  return false;
}

/// For what complains about nothing, so that only its end can be told.
void may_die() {
  if (WriteFaults* const active = faults.load(std::memory_order_acquire);
      active && active->kind_ == WriteFaults::Kind::die)
    sabotaged();
}

/// Calls until it is not interrupted.
template <class Call>
auto retried(Call&& call) {
  for (;;) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

int open_new(const fs::path& path) {
  return retried(
      [&] { return sabotaged(true) ? -1 : ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
}

ssize_t write_some_at(int fd, const char* data, std::size_t size, std::size_t offset) {
  return retried(
      [&]() -> ssize_t { return sabotaged(true, &size) ? -1 : ::pwrite(fd, data, size, static_cast<off_t>(offset)); });
}

ssize_t write_some(int fd, const std::byte* data, std::size_t size) {
  return retried([&]() -> ssize_t { return sabotaged(true, &size) ? -1 : ::write(fd, data, size); });
}

int sync(int fd) {
  return retried([&] { return sabotaged() ? -1 : ::fsync(fd); });
}

/// Not tried again when interrupted: the descriptor is gone either way.
int close_written(int fd) {
  const bool fails = sabotaged();
  const int error = errno;
  const int result = ::close(fd);
  if (fails) errno = error;
  return fails || result < 0 ? (errno == EINTR ? 0 : -1) : 0;
}

int move(const fs::path& from, const fs::path& to, unsigned flags) {
  return retried([&] { return sabotaged() ? -1 : ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags); });
}

/// -1 and EEXIST where something is.
int move_where_nothing_is(const fs::path& from, const fs::path& to) {
  const int result = move(from, to, RENAME_NOREPLACE);
  return result != 0 && (errno == EINVAL || errno == ENOSYS) ? move(from, to, 0) : result;  // no such flag here
}

fs::path parent_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

/// Makes what happened in a folder last. Some file systems have no fsync of folders.
void sync_folder(const fs::path& folder) {
  const Descriptor fd(retried([&] { return ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (fd < 0) refuse(FileFault::transfer, folder, "opened", errno);
  if (sync(fd) != 0 && errno != EINVAL && errno != ENOTSUP) refuse(FileFault::transfer, folder, "synced", errno);
}

void remove_quietly(const fs::path& path) {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

}  // namespace

// ---- reading --------------------------------------------------------------------------------------------------------

std::shared_ptr<const MappedFile> MappedFile::open(const fs::path& path) {
  // O_NONBLOCK: opening a pipe that nobody writes to must not hang; it is refused below.
  const Descriptor fd(retried([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); }));
  if (fd < 0) refuse(FileFault::missing, path, "opened", errno);
  struct stat info;
  if (::fstat(fd, &info) != 0) refuse(FileFault::missing, path, "examined", errno);
  if (!S_ISREG(info.st_mode))
    throw FileError(FileFault::bad, path.string(), "", "a regular file",
                    S_ISDIR(info.st_mode) ? "a folder" : "something else");
  std::shared_ptr<MappedFile> file(new MappedFile(path));
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size == 0) return file;
  void* const data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (data == MAP_FAILED && errno == ENOMEM)
    throw UserError(ErrorKind::memory,
                    fmt::format("{}: its {} bytes cannot be mapped: out of addresses", path.string(), size));
  if (data == MAP_FAILED) refuse(FileFault::transfer, path, "mapped", errno);
  file->data_ = static_cast<const std::byte*>(data);
  file->size_ = size;
  return file;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::will_need(std::size_t offset, std::size_t bytes) const {
  if (offset >= size_) return;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t begin = offset / page * page;
  const std::size_t end = offset + std::min(bytes, size_ - offset);
  ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_WILLNEED);
}

std::string read_file(const fs::path& path) {
  const auto file = MappedFile::open(path);
  const auto bytes = file->bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// ---- a file ---------------------------------------------------------------------------------------------------------

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  remove_abandoned(path_);
  for (int attempt = 0;; ++attempt) {  // a killed process with our number may have left its own
    temporary_ = temporary_for(path_);
    fd_ = open_new(temporary_);
    if (fd_ >= 0 && claim(fd_, temporary_)) break;
    const int error = fd_ < 0 ? errno : EEXIST;
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    if (error != EEXIST || attempt == 100) refuse(FileFault::create, path_, "created", error);
  }
  lock_ = ::fcntl(fd_, F_DUPFD_CLOEXEC, 0);
  struct stat before;
  if (::stat(path_.c_str(), &before) == 0 && S_ISREG(before.st_mode)) ::fchmod(fd_, before.st_mode & 07777);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  if (lock_ >= 0) ::close(lock_);
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  constexpr std::size_t kMostAtOnce = 1 << 30;
  while (!bytes.empty()) {
    const ssize_t done = write_some(fd_, bytes.data(), std::min(bytes.size(), kMostAtOnce));
    if (done < 0) refuse(FileFault::transfer, path_, "written", errno);
    if (done == 0) refuse(FileFault::transfer, path_, "written", EIO);
    bytes = bytes.subspan(static_cast<std::size_t>(done));
    written_ += static_cast<std::size_t>(done);
  }
}

void AtomicFile::rewrite(std::size_t offset, std::string_view bytes) {
  if (offset > written_ || bytes.size() > written_ - offset)
    throw InternalError("a part of a file is written over that is not there");
  while (!bytes.empty()) {
    const ssize_t done = write_some_at(fd_, bytes.data(), bytes.size(), offset);
    if (done <= 0) refuse(FileFault::transfer, path_, "written", done < 0 ? errno : EIO);
    bytes.remove_prefix(static_cast<std::size_t>(done));
    offset += static_cast<std::size_t>(done);
  }
}

void AtomicFile::commit() {
  if (sync(fd_) != 0) refuse(FileFault::transfer, path_, "synced", errno);
  if (close_written(std::exchange(fd_, -1)) != 0) refuse(FileFault::transfer, path_, "closed", errno);
  if (move(temporary_, path_, 0) != 0) refuse(fault_of(errno), path_, "put in place", errno);
  temporary_.clear();
  sync_folder(parent_of(path_));
}

void write_file(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

// ---- a folder -------------------------------------------------------------------------------------------------------

AtomicFolder::AtomicFolder(fs::path target, Existing existing) : target_(std::move(target)), existing_(existing) {
  if (!target_.has_filename()) target_ = target_.parent_path();  // "out/" is "out"
  std::error_code error;
  fills_ = existing == Existing::refuse && fs::is_directory(target_, error);
  const fs::path place = fills_ ? target_ / "new" : target_;
  remove_abandoned(place);
  struct stat info;
  if (::lstat(target_.c_str(), &info) == 0) {
    const bool taken = existing == Existing::refuse && !(fills_ && fs::is_empty(target_, error));
    if (taken) refuse(FileFault::create, target_, "created", EEXIST);
    if (!fills_ && !S_ISDIR(info.st_mode)) refuse(FileFault::create, target_, "created", ENOTDIR);
  }
  for (int attempt = 0;; ++attempt) {
    temporary_ = temporary_for(place);
    const bool made = !sabotaged(true) && ::mkdir(temporary_.c_str(), 0777) == 0;
    if (!made && (errno != EEXIST || attempt == 100)) refuse(FileFault::create, target_, "created", errno);
    if (!made) continue;
    lock_ = retried([&] { return ::open(temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
    if (lock_ < 0 || claim(lock_, temporary_)) return;
    ::close(std::exchange(lock_, -1));
  }
}

AtomicFolder::~AtomicFolder() {
  if (!done_) remove_quietly(temporary_);
  if (lock_ >= 0) ::close(lock_);
}

void AtomicFolder::commit() {
  std::vector<fs::path> folders{temporary_};
  std::error_code error;
  for (fs::recursive_directory_iterator it(temporary_, error), end; !error && it != end; it.increment(error)) {
    if (it->is_symlink()) continue;
    if (it->is_directory()) {
      folders.push_back(it->path());
    } else if (it->is_regular_file()) {
      const Descriptor fd(retried([&] { return ::open(it->path().c_str(), O_RDONLY | O_CLOEXEC); }));
      if (fd < 0 || sync(fd) != 0) refuse(FileFault::transfer, it->path(), "synced", errno);
    }
  }
  if (error) refuse(FileFault::transfer, temporary_, "listed", error.value());
  for (const fs::path& folder : folders) sync_folder(folder);
  put_in_place();
  sync_folder(fills_ ? target_ : parent_of(target_));
}

void AtomicFolder::put_in_place() {
  if (fills_) return fill();
  done_ = move_where_nothing_is(temporary_, target_) == 0;
  if (done_) return;
  if (errno != EEXIST) refuse(fault_of(errno), target_, "put in place", errno);
  if (existing_ == Existing::refuse) {
    done_ = move(temporary_, target_, 0) == 0;  // takes the place of an empty folder only
    if (!done_) refuse(FileFault::create, target_, "put in place", errno);
    return;
  }
  if (move(temporary_, target_, RENAME_EXCHANGE) != 0) refuse(fault_of(errno), target_, "put in place", errno);
  done_ = true;
  remove_quietly(temporary_);  // now the old one
}

/// The folder may be a mount or one that somebody works in: no other can take its place.
void AtomicFolder::fill() {
  std::vector<fs::path> names, there;
  for (const fs::directory_entry& entry : fs::directory_iterator(temporary_)) names.push_back(entry.path().filename());
  for (const fs::path& name : names) {
    if (move_where_nothing_is(temporary_ / name, target_ / name) == 0) {
      there.push_back(target_ / name);
      continue;
    }
    const int error = errno;
    for (const fs::path& path : there) remove_quietly(path);
    refuse(fault_of(error), target_ / name, "put in place", error);
  }
  done_ = true;
  remove_quietly(temporary_);
}

void remove_folder(const fs::path& path) {
  const fs::path temporary = temporary_for(path);
  may_die();
  if (::rename(path.c_str(), temporary.c_str()) != 0) return;
  may_die();
  remove_quietly(temporary);
}

// ---- faults ---------------------------------------------------------------------------------------------------------

WriteFaults::WriteFaults(int nth, Kind kind, int error) : nth_(nth), kind_(kind), error_(error) {
  faults.store(this, std::memory_order_release);
}

WriteFaults::~WriteFaults() { faults.store(nullptr, std::memory_order_release); }

}  // namespace metal_candle::io
