#include "io/temporary.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace metal_candle::io {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMark = ".tmp-";

bool is_number(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// Whether a name is one that temporary_for gives for a target of name `target`.
bool is_temporary_of(std::string_view name, std::string_view target) {
  if (!name.starts_with(target) || !name.substr(target.size()).starts_with(kMark)) return false;
  name.remove_prefix(target.size() + kMark.size());
  const std::size_t dash = name.find('-');
  return dash != std::string_view::npos && is_number(name.substr(0, dash)) && is_number(name.substr(dash + 1));
}

bool is_still(int fd, const fs::path& path) {
  struct stat held, there;
  return ::fstat(fd, &held) == 0 && ::lstat(path.c_str(), &there) == 0 && held.st_dev == there.st_dev &&
         held.st_ino == there.st_ino;
}

void remove_if_abandoned(const fs::path& path) {
  // O_NONBLOCK: somebody's pipe of this name is not waited for.
  const int fd = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return;
  struct stat info;
  const bool ours = ::fstat(fd, &info) == 0 && (S_ISREG(info.st_mode) || S_ISDIR(info.st_mode));
  std::error_code ignored;
  if (ours && ::flock(fd, LOCK_EX | LOCK_NB) == 0 && is_still(fd, path)) fs::remove_all(path, ignored);
  ::close(fd);
}

}  // namespace

fs::path temporary_for(const fs::path& target) {
  static std::atomic<unsigned> count{0};
  fs::path out = target;
  out += fmt::format("{}{}-{}", kMark, ::getpid(), count.fetch_add(1));
  return out;
}

bool claim(int fd, const fs::path& temporary) {
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) return errno != EWOULDBLOCK;  // somebody is just removing it, or no locks
  return is_still(fd, temporary);
}

void remove_abandoned(const fs::path& target) {
  const fs::path folder = target.has_parent_path() ? target.parent_path() : fs::path(".");
  const std::string name = target.filename().string();
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (is_temporary_of(it->path().filename().string(), name)) found.push_back(it->path());
  for (const fs::path& path : found) remove_if_abandoned(path);
}

}  // namespace metal_candle::io
