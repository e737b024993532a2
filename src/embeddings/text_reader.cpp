// TextReader: a file or a pipe through a buffer, line by line.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "io/files.h"
#include "io/json_lexer.h"
#include "metal_candle/embedding_files.hpp"
#include "metal_candle/error.hpp"

namespace metal_candle {
namespace {

constexpr std::size_t kBuffer = 1 << 20, kLongestLine = 64u << 20;

class Descriptor {
 public:
  explicit Descriptor(const std::filesystem::path& path)
      : owned_(path != "-"), fd_(owned_ ? ::open(path.c_str(), O_RDONLY | O_CLOEXEC) : STDIN_FILENO) {
    const int error = errno;
    struct stat info;
    if (fd_ >= 0 && (::fstat(fd_, &info) != 0 || !S_ISDIR(info.st_mode))) return;
    if (fd_ < 0)
      throw FileError(FileFault::missing, path.string(), "", "a file with texts that can be opened",
                      std::strerror(error));
    ::close(fd_);
    throw FileError(FileFault::bad, path.string(), "", "a file with texts", "a folder");
  }
  ~Descriptor() {
    if (owned_) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  std::size_t read(char* to, std::size_t size, const std::string& name, const std::function<bool()>& stopped) const {
    for (;;) {
      if (stopped && stopped()) throw FileError(FileFault::transfer, name, "", "stopped");
      const ssize_t got = ::read(fd_, to, size);
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno != EINTR) throw FileError(FileFault::transfer, name, "", "to be read", std::strerror(errno));
    }
  }

 private:
  bool owned_;
  int fd_;
};

/// A line in another encoding, or of no text at all, would get an embedding that means nothing.
void check_utf8(const std::string& line, const std::string& place) {
  const char *p = line.data(), *end = p + line.size();
  while (p < end) {
    const int length = io::utf8_length(p, end);
    if (length == 0)
      throw FileError(FileFault::bad, place, "", "UTF-8",
                      fmt::format("byte {:#04x} behind {} others", static_cast<unsigned char>(*p), p - line.data()));
    p += length;
  }
}

}  // namespace

struct TextReader::Impl {
  std::filesystem::path path;
  std::string name;
  std::function<bool()> stopped;
  Descriptor file;
  std::optional<bool> jsonl;
  std::string buffer;
  std::size_t at = 0;        // in the buffer
  std::uint64_t before = 0;  // bytes of the file before the buffer
  std::int64_t line = 0;
  bool ended = false;

  Impl(const std::filesystem::path& p, std::function<bool()> stop)
      : path(p), name(p == "-" ? "standard input" : p.string()), stopped(std::move(stop)), file(p) {
    if (path.extension() == ".jsonl") jsonl = true;
    if (path.extension() == ".txt") jsonl = false;
    while (buffer.size() < 3 && more()) {
    }
    if (buffer.starts_with("\xef\xbb\xbf")) at = 3;
  }

  bool more() {
    if (ended) return false;
    before += at;
    buffer.erase(0, std::exchange(at, 0));
    const std::size_t size = buffer.size();
    buffer.resize(size + kBuffer);
    const std::size_t got = file.read(buffer.data() + size, kBuffer, name, stopped);
    buffer.resize(size + got);
    ended = got == 0;
    return !ended;
  }

  /// Where the line at `at` ends, without its end; the whole of it is then in the buffer.
  std::size_t line_end() {
    std::size_t seen = at;
    for (;;) {
      const std::size_t end = buffer.find('\n', seen);
      if (end != std::string::npos) return end;
      if (buffer.size() - at > kLongestLine)
        throw FileError(FileFault::bad, fmt::format("{}:{}", name, line + 1), "", "a line of at most 64 MiB", "more");
      const std::size_t length = buffer.size() - at;
      if (!more()) return buffer.size();
      seen = at + length;
    }
  }

  bool next_line(std::string& text, std::uint64_t& begin) {
    const std::size_t end = line_end();
    if (at == buffer.size()) return false;
    ++line;
    begin = before + at;
    text.assign(buffer, at, end - at);
    if (text.ends_with('\r')) text.pop_back();
    at = std::min(end + 1, buffer.size());
    return true;
  }

  bool is_jsonl() {
    if (!jsonl) {
      const std::size_t end = line_end(), first = buffer.find_first_not_of(" \t", at);
      jsonl = first < end && buffer[first] == '{';
    }
    return *jsonl;
  }
};

TextReader::TextReader(const std::filesystem::path& path, std::function<bool()> stopped)
    : impl_(std::make_unique<Impl>(path, std::move(stopped))) {}
TextReader::~TextReader() = default;
TextReader::TextReader(TextReader&&) noexcept = default;
TextReader& TextReader::operator=(TextReader&&) noexcept = default;

bool TextReader::is_jsonl() { return impl_->is_jsonl(); }

bool TextReader::next(TextRow& row) {
  const bool jsonl = impl_->is_jsonl();
  std::string text;
  std::uint64_t begin = 0;
  do {
    if (!impl_->next_line(text, begin)) return false;
  } while (jsonl && text.find_first_not_of(" \t") == std::string::npos);
  row = parse(std::move(text), jsonl, fmt::format("{}:{}", impl_->name, impl_->line));
  row.line = impl_->line;
  row.begin = begin;
  return true;
}

TextRow TextReader::parse(std::string line, bool jsonl, const std::string& place) {
  TextRow row;
  if (!jsonl) {
    check_utf8(line, place);
    row.text = std::move(line);
    return row;
  }
  const Json json = Json::parse(line, place);
  row.text = std::string(json.at("text").as_string());
  if (const Json* id = json.find_value("id")) {
    if (!id->is_string() && !id->is_integer()) id->fail("a string or a whole number");
    row.id = id->is_string() ? Json(id->as_string()) : *id;
  }
  return row;
}

std::optional<std::int64_t> TextReader::lines() const {
  std::error_code error;
  if (impl_->path == "-" || !std::filesystem::is_regular_file(impl_->path, error)) return std::nullopt;
  const auto file = io::MappedFile::open(impl_->path);
  const auto bytes = file->bytes();
  const auto ends = std::count(bytes.begin(), bytes.end(), std::byte{'\n'});
  return ends + (!bytes.empty() && bytes.back() != std::byte{'\n'});
}

}  // namespace metal_candle
