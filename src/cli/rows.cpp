// Reading jsonl.
#include "cli/rows.h"

#include <fstream>
#include <iostream>

#include "metal_candle/error.hpp"

namespace metal_candle::cli {

void fail_row(const Row& row, const std::string& why) { throw FileError(FileFault::bad, row.place, "", why); }

namespace {

std::vector<Row> rows_of(std::istream& file, const std::string& name) {
  std::vector<Row> rows;
  std::string line;
  for (std::int64_t number = 1; std::getline(file, line); ++number) {
    if (number == 1 && line.starts_with("\xef\xbb\xbf")) line.erase(0, 3);
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string place = name + ":" + std::to_string(number);
    Row row{Json::parse(line, place), place};
    if (!row.json.is_object()) fail_row(row, "expected an object, got " + row.json.shown());
    rows.push_back(std::move(row));
  }
  if (file.bad()) throw FileError(FileFault::transfer, name, "", "reading failed");
  if (rows.empty()) throw FileError(FileFault::bad, name, "", "at least one row", "none");
  return rows;
}

}  // namespace

std::vector<Row> read_rows(const std::filesystem::path& path) {
  if (path == "-") return rows_of(std::cin, "standard input");
  std::error_code error;
  if (!std::filesystem::exists(path, error))
    throw FileError(FileFault::missing, path.string(), "", "a .jsonl file", "nothing");
  if (std::filesystem::is_directory(path))
    throw FileError(FileFault::bad, path.string(), "", "a .jsonl file", "a folder");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw FileError(FileFault::missing, path.string(), "", "a file that may be read");
  return rows_of(file, path.string());
}

std::string row_text(const Row& row, const char* key) {
  const Json* value = row.json.find(key);
  if (!value) fail_row(row, "expected a member \"" + std::string(key) + "\"");
  if (!value->is_string()) fail_row(row, std::string(key) + ": expected a string, got " + value->shown());
  return std::string(value->as_string());
}

}  // namespace metal_candle::cli
