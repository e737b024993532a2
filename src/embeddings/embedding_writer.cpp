// EmbeddingWriter: rows behind a header of fixed size, which is filled in when their number is known.
#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "io/files.h"
#include "metal_candle/embedding_files.hpp"
#include "metal_candle/error.hpp"

namespace metal_candle {
namespace {

constexpr std::size_t kBuffered = 1 << 20;

enum class Format { npy, jsonl, safetensors };

Format format_of(const std::filesystem::path& path) {
  const auto ending = path.extension();
  if (ending == ".npy") return Format::npy;
  if (ending == ".jsonl") return Format::jsonl;
  if (ending == ".safetensors") return Format::safetensors;
  throw UserError(ErrorKind::argument,
                  fmt::format("\"{}\": embeddings are written as .npy, .jsonl or .safetensors", path.string()));
}

std::string npy_header(std::int64_t rows, std::int64_t width) {
  constexpr std::size_t kSize = 128, kFixed = 10;  // magic, version 1.0, length of the rest
  std::string head("\x93NUMPY\x01\x00", 8);
  head += static_cast<char>(kSize - kFixed);
  head += '\0';
  head += fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, width);
  head.resize(kSize - 1, ' ');
  return head + '\n';
}

std::string safetensors_header(std::int64_t rows, std::int64_t width) {
  constexpr std::size_t kSize = 256, kLength = 8;
  std::string head(kLength, '\0');
  head[0] = static_cast<char>(kSize - kLength);
  head += fmt::format(R"({{"embeddings":{{"dtype":"F32","shape":[{},{}],"data_offsets":[0,{}]}}}})", rows, width,
                      static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(width) * sizeof(float));
  head.resize(kSize, ' ');
  return head;
}

std::string header(Format format, std::int64_t rows, std::int64_t width) {
  switch (format) {
    case Format::npy: return npy_header(rows, width);
    case Format::safetensors: return safetensors_header(rows, width);
    case Format::jsonl: return {};
  }
  throw InternalError("a format without a header");
}

/// The file beside the vectors that says a row's id in a line, null where it has none; it is begun with the first id.
class IdFile {
 public:
  explicit IdFile(const std::filesystem::path& vectors) : path_(vectors) { path_ += ".ids.jsonl"; }

  const std::filesystem::path& path() const { return path_; }
  bool any() const { return file_ != nullptr; }
  void add(const Json& id) {
    if (!file_ && id.is_null()) {
      ++nulls_;
      return;
    }
    if (!file_) file_ = std::make_unique<io::AtomicFile>(path_);
    for (; nulls_ > 0; --nulls_) put("null\n");
    put(id.dump() + "\n");
  }
  /// What an earlier run left there would be of other rows: it is replaced or taken away.
  void commit() {
    if (file_) {
      file_->write(waiting_);
      file_->commit();
      return;
    }
    std::error_code error;
    std::filesystem::remove(path_, error);
    if (error) throw FileError(FileFault::create, path_.string(), "", "to be removed", error.message());
  }

 private:
  void put(std::string_view line) {
    waiting_.append(line);
    if (waiting_.size() < kBuffered) return;
    file_->write(waiting_);
    waiting_.clear();
  }

  std::filesystem::path path_;
  std::unique_ptr<io::AtomicFile> file_;
  std::string waiting_;
  std::int64_t nulls_ = 0;  // rows so far, none of them with an id
};

}  // namespace

struct EmbeddingWriter::Impl {
  Format format;
  std::int64_t width, rows = 0;
  io::AtomicFile file;
  IdFile ids;
  std::string waiting;

  Impl(const std::filesystem::path& path, std::int64_t w) : format(format_of(path)), width(w), file(path), ids(path) {
    file.write(header(format, 0, width));
  }
  void flush() {
    file.write(waiting);
    waiting.clear();
  }
};

EmbeddingWriter::EmbeddingWriter(const std::filesystem::path& path, std::int64_t width)
    : impl_(std::make_unique<Impl>(path, width)) {}
EmbeddingWriter::~EmbeddingWriter() = default;
EmbeddingWriter::EmbeddingWriter(EmbeddingWriter&&) noexcept = default;
EmbeddingWriter& EmbeddingWriter::operator=(EmbeddingWriter&&) noexcept = default;

void EmbeddingWriter::add(std::span<const float> embedding, const Json& id) {
  if (static_cast<std::int64_t>(embedding.size()) != impl_->width)
    throw UserError(ErrorKind::shape,
                    fmt::format("an embedding of {} components among those of {}", embedding.size(), impl_->width));
  if (impl_->format == Format::jsonl) {
    impl_->waiting.append(embedding_line(impl_->rows, id, embedding)).append("\n");
  } else {
    impl_->waiting.append(reinterpret_cast<const char*>(embedding.data()), embedding.size_bytes());
    impl_->ids.add(id);
  }
  ++impl_->rows;
  if (impl_->waiting.size() >= kBuffered) impl_->flush();
}

void EmbeddingWriter::commit() {
  impl_->flush();
  if (impl_->format != Format::jsonl) {
    impl_->file.rewrite(0, header(impl_->format, impl_->rows, impl_->width));
    impl_->ids.commit();
  }
  impl_->file.commit();
}

std::filesystem::path EmbeddingWriter::id_file() const {
  return impl_->ids.any() ? impl_->ids.path() : std::filesystem::path();
}

std::string embedding_line(std::int64_t index, const Json& id, std::span<const float> embedding) {
  fmt::memory_buffer out;
  const auto end = std::back_inserter(out);
  fmt::format_to(end, "{{\"index\": {}, ", index);
  if (!id.is_null()) fmt::format_to(end, "\"id\": {}, ", id.dump());
  fmt::format_to(end, "\"embedding\": [");
  for (std::size_t i = 0; i < embedding.size(); ++i) {
    if (i > 0) fmt::format_to(end, ", ");
    if (std::isfinite(embedding[i])) fmt::format_to(end, "{}", embedding[i]);
    else fmt::format_to(end, "null");
  }
  fmt::format_to(end, "]}}");
  return fmt::to_string(out);
}

}  // namespace metal_candle
