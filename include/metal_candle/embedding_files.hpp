// Texts in, embeddings out: files larger than the memory.
//
//   mc::TextReader texts("corpus.jsonl");                      // or lines of text; "-" is standard input
//   mc::EmbeddingWriter out("corpus.npy", model.width());      // or .jsonl, .safetensors
//   mc::TextRow row;
//   model.for_each([&](std::string& text) { return texts.next(row) ? (text = row.text, true) : false; },
//                  [&](std::int64_t, std::span<const float> v) { out.add(v); });
//   out.commit();                                              // before that, nothing is at that place
//
// Errors are FileErrors that name file and line. Objects are one thread's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "metal_candle/json.hpp"

namespace metal_candle {

struct TextRow {
  std::string text;
  Json id;                  // of a jsonl row: a string, a whole number, or null
  std::int64_t line = 0;    // from 1
  std::uint64_t begin = 0;  // where the line begins in the file
};

/// Reads a file or a pipe, a line at a time. Rows are those of a .jsonl file, objects with "text" and perhaps "id",
/// blank lines passed over; or the lines of a .txt file, each a text, empty ones too. Another name leaves it to the
/// first line: rows where that begins with {. A byte-order mark and CRLF are legal, lines beyond 64 MiB are not.
class TextReader {
 public:
  /// "-" is standard input. `stopped` is asked before each read and when a signal interrupts one: true is a FileError.
  explicit TextReader(const std::filesystem::path& path, std::function<bool()> stopped = {});
  ~TextReader();
  TextReader(TextReader&&) noexcept;
  TextReader& operator=(TextReader&&) noexcept;

  /// False at the end. Throws FileError "file:line: …".
  bool next(TextRow& row);
  /// Reads a row from its line; `place` stands for the file in errors.
  static TextRow parse(std::string line, bool jsonl, const std::string& place);
  bool is_jsonl();
  /// Lines that a regular file has; nothing for a pipe.
  std::optional<std::int64_t> lines() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Writes embeddings of one width, whole or not at all, in little memory. By the name's ending: .npy, [n, width] float32;
/// .safetensors, the same as "embeddings"; .jsonl, the lines of `embedding_line`. The first two have no place for ids:
/// where a row has one, "<path>.ids.jsonl" is written too, a row's id in each line, null where it has none; where none
/// has, such a file of an earlier run is removed.
class EmbeddingWriter {
 public:
  /// Throws UserError for another ending, FileError where nothing can be made there.
  EmbeddingWriter(const std::filesystem::path& path, std::int64_t width);
  /// Removes what was written unless committed.
  ~EmbeddingWriter();
  EmbeddingWriter(EmbeddingWriter&&) noexcept;
  EmbeddingWriter& operator=(EmbeddingWriter&&) noexcept;

  void add(std::span<const float> embedding, const Json& id = {});
  void commit();
  /// The file with the ids; empty while no row of a .npy or .safetensors had one.
  std::filesystem::path id_file() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// {"index": 0, "id": "a", "embedding": [0.25, …]}, without an id where it is null. Numbers read back as the same
/// floats; what is not finite becomes null.
std::string embedding_line(std::int64_t index, const Json& id, std::span<const float> embedding);

}  // namespace metal_candle
