// Texts in and embeddings out: what is legal, what is refused, and that files are whole or not there.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "io/files.h"
#include "metal_candle/embedding_files.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/safetensors.hpp"
#include "tests/io/temp_folder.h"

namespace metal_candle::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<TextRow> rows_of(const std::filesystem::path& path) {
  TextReader reader(path);
  std::vector<TextRow> rows;
  for (TextRow row; reader.next(row);) rows.push_back(row);
  return rows;
}

std::vector<std::string> texts_of(const std::filesystem::path& path) {
  std::vector<std::string> texts;
  for (const TextRow& row : rows_of(path)) texts.push_back(row.text);
  return texts;
}

std::string reading_error(const std::filesystem::path& path) {
  try {
    rows_of(path);
  } catch (const FileError& e) {
    return e.what();
  }
  return "nothing";
}

TEST(TextReader, ReadsLines) {
  const TempFolder folder;
  EXPECT_THAT(texts_of(folder.write("a.txt", "\xef\xbb\xbfone\r\n\n{\"text\": 1}\nlast")),
              ElementsAre("one", "", "{\"text\": 1}", "last"));
  EXPECT_THAT(texts_of(folder.write("b.txt", "one\n")), ElementsAre("one"));
  EXPECT_THAT(texts_of(folder.write("c.txt", "")), ElementsAre());
  EXPECT_THAT(texts_of(folder.write("d.txt", "\xef\xbb\xbf")), ElementsAre());
  EXPECT_THAT(texts_of(folder.write("e", "one\n{\n")), ElementsAre("one", "{"));
}

TEST(TextReader, ReadsRows) {
  const TempFolder folder;
  const std::string text =
      "{\"text\": \"a\", \"id\": \"x\"}\r\n \n{\"id\": 7, \"text\": \"b\\n\", \"more\": []}\n{\"text\": \"\"}";
  for (const char* name : {"a.jsonl", "b"}) {
    const auto rows = rows_of(folder.write(name, text));
    ASSERT_EQ(rows.size(), 3u) << name;
    EXPECT_EQ(rows[0].id, Json("x"));
    EXPECT_EQ(rows[1].id, Json(7));
    EXPECT_TRUE(rows[2].id.is_null());
    EXPECT_EQ(rows[1].text, "b\n");
    EXPECT_EQ(rows[1].line, 3);
    EXPECT_EQ(rows[1].begin, text.find("{\"id\""));
    EXPECT_EQ(rows[2].begin, text.rfind('{'));
  }
}

TEST(TextReader, RefusesWhatIsNoRow) {
  const TempFolder folder;
  EXPECT_THAT(reading_error(folder.write("a.jsonl", "{\"text\": \"a\"}\n\n{\"text\": 5}\n")),
              HasSubstr("a.jsonl:3: text"));
  EXPECT_THAT(reading_error(folder.write("a.jsonl", "{\"txt\": \"a\"}\n")), HasSubstr("a.jsonl:1: text"));
  EXPECT_THAT(reading_error(folder.write("a.jsonl", "[]\n")), HasSubstr("a.jsonl:1"));
  EXPECT_THAT(reading_error(folder.write("a.jsonl", "{\"text\": \"a\", \"id\": 1.5}\n")),
              HasSubstr("id: expected a string or a whole number"));
  EXPECT_THAT(reading_error(folder.write("a.jsonl", "{\"text\"\n")), HasSubstr("a.jsonl:1"));
  EXPECT_THAT(reading_error(folder.write("a.txt", "caf\xc3\xa9\ncaf\xe9\n")),
              HasSubstr("a.txt:2: expected UTF-8, got byte 0xe9 behind 3 others"));
  EXPECT_THAT(reading_error(folder / "none"), HasSubstr("none"));
  EXPECT_THAT(reading_error(folder.path()), HasSubstr("a folder"));
  EXPECT_THAT(reading_error(folder.write("long.txt", std::string((64u << 20) + 1, 'x'))),
              HasSubstr("long.txt:1: expected a line of at most 64 MiB"));
}

// Lines that lie across the ends of buffers, from a pipe that gives a little at a time.
TEST(TextReader, ReadsPipes) {
  const TempFolder folder;
  const std::filesystem::path pipe = folder / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::vector<std::string> wanted;
  for (std::size_t i = 0; i < 40; ++i)
    wanted.push_back(std::string(i * 7919 % 300000, static_cast<char>('a' + i % 26)));
  std::thread writer([&] {
    const int fd = open(pipe.c_str(), O_WRONLY);
    std::string all;
    for (const std::string& line : wanted) all += line + "\n";
    for (std::size_t at = 0; at < all.size();) {
      const ssize_t n = write(fd, all.data() + at, std::min<std::size_t>(all.size() - at, 4001));
      if (n <= 0) break;
      at += static_cast<std::size_t>(n);
    }
    close(fd);
  });
  const auto got = texts_of(pipe);
  writer.join();
  EXPECT_EQ(got, wanted);
  EXPECT_FALSE(TextReader(folder.write("a.txt", "a\nb")).lines() != 2);
}

TEST(EmbeddingWriter, WritesNpy) {
  const TempFolder folder;
  EmbeddingWriter out(folder / "a.npy", 3);
  EXPECT_FALSE(std::filesystem::exists(folder / "a.npy"));
  const std::vector<float> values{1, 2, 3, -4, 0.5f, 6};
  out.add(std::span(values).first(3));
  out.add(std::span(values).last(3));
  out.commit();
  const std::string bytes = folder.read("a.npy");
  ASSERT_EQ(bytes.size(), 128 + values.size() * sizeof(float));
  EXPECT_EQ(bytes.substr(0, 10), std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  EXPECT_THAT(bytes.substr(10, 118),
              testing::StartsWith("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"));
  EXPECT_EQ(bytes[127], '\n');
  EXPECT_EQ(std::memcmp(bytes.data() + 128, values.data(), values.size() * sizeof(float)), 0);
}

TEST(EmbeddingWriter, WritesSafetensors) {
  const TempFolder folder;
  EmbeddingWriter out(folder / "a.safetensors", 2);
  for (int i = 0; i < 1000; ++i) out.add(std::vector<float>{static_cast<float>(i), 0.5f});
  out.commit();
  const Tensor t = SafeTensors::open(folder / "a.safetensors").load("embeddings");
  ASSERT_EQ(t.shape(), (Shape{1000, 2}));
  EXPECT_EQ(t.to_vector<float>()[1998], 999);
}

TEST(EmbeddingWriter, WritesLines) {
  const TempFolder folder;
  EmbeddingWriter out(folder / "a.jsonl", 2);
  const std::vector<float> values{0.1f, -1e-20f};
  out.add(values, "x \"y\"");
  out.add(std::vector<float>{1, std::numeric_limits<float>::quiet_NaN()});
  out.commit();
  const std::string text = folder.read("a.jsonl");
  const std::size_t end = text.find('\n');
  const Json first = Json::parse(text.substr(0, end), "first");
  EXPECT_EQ(first.at("id").as_string(), "x \"y\"");
  EXPECT_EQ(static_cast<float>(first.at("embedding").at(0).as_double()), values[0]);
  EXPECT_EQ(static_cast<float>(first.at("embedding").at(1).as_double()), values[1]);
  EXPECT_EQ(text.substr(end + 1), "{\"index\": 1, \"embedding\": [1, null]}\n");
}

TEST(EmbeddingWriter, WritesIdsBeside) {
  const TempFolder folder;
  const std::vector<float> row{1, 2};
  {
    EmbeddingWriter out(folder / "a.npy", 2);
    out.add(row);
    out.add(row);
    EXPECT_TRUE(out.id_file().empty());
    out.add(row, "x \"y\"");
    out.add(row);
    out.add(row, 7);
    EXPECT_EQ(out.id_file(), folder / "a.npy.ids.jsonl");
    EXPECT_FALSE(std::filesystem::exists(folder / "a.npy.ids.jsonl"));
    out.commit();
  }
  EXPECT_EQ(folder.read("a.npy.ids.jsonl"), "null\nnull\n\"x \\\"y\\\"\"\nnull\n7\n");
  {
    EmbeddingWriter out(folder / "a.npy", 2);
    out.add(row, 8);
  }
  EXPECT_THAT(folder.read("a.npy.ids.jsonl"), HasSubstr("7"));
  EmbeddingWriter out(folder / "a.npy", 2);
  out.add(row);
  out.commit();
  EXPECT_FALSE(std::filesystem::exists(folder / "a.npy.ids.jsonl"));
}

TEST(EmbeddingWriter, LeavesNothingHalfWritten) {
  const TempFolder folder;
  folder.write("a.npy", "old");
  {
    EmbeddingWriter out(folder / "a.npy", 2);
    out.add(std::vector<float>{1, 2});
    EXPECT_THROW(out.add(std::vector<float>{1}), UserError);
  }
  EXPECT_EQ(folder.read("a.npy"), "old");
  EXPECT_EQ(folder.entries(), 1);
  const auto write_all = [&] {
    EmbeddingWriter out(folder / "a.npy", 2);
    for (int i = 0; i < 3; ++i) out.add(std::vector<float>{1, 2});
    out.commit();
  };
  int calls = 0;
  {
    const io::WriteFaults count(-1, io::WriteFaults::Kind::error);
    write_all();
    calls = count.calls();
  }
  for (int nth = 1; nth < calls; ++nth) {  // the folder's sync comes when the new file is in place
    folder.write("a.npy", "old");
    const io::WriteFaults faults(nth, io::WriteFaults::Kind::error, ENOSPC);
    EXPECT_THROW(write_all(), FileError) << nth;
    EXPECT_EQ(folder.read("a.npy"), "old") << nth;
    EXPECT_EQ(folder.entries(), 1) << nth;
  }
}

TEST(EmbeddingWriter, RefusesOtherEndings) {
  const TempFolder folder;
  EXPECT_THROW(EmbeddingWriter(folder / "a.csv", 2), UserError);
  EXPECT_THROW(EmbeddingWriter(folder / "no" / "a.npy", 2), FileError);
  EXPECT_EQ(folder.entries(), 0);
}

}  // namespace
}  // namespace metal_candle::test
