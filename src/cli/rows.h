// Rows of a jsonl file.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "metal_candle/json.hpp"

namespace metal_candle::cli {

struct Row {
  Json json;          // an object
  std::string place;  // "file:line"
};

/// Every row; blank lines are passed over. Throws FileError "file:line: …" for what is no object, and when there is
/// none. "-" is standard input.
std::vector<Row> read_rows(const std::filesystem::path& path);
/// A text of the row, or a FileError that names the row.
std::string row_text(const Row& row, const char* key);
/// Throws FileError (bad) about a row.
[[noreturn]] void fail_row(const Row& row, const std::string& why);

}  // namespace metal_candle::cli
