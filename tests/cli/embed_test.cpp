// The commands embed and search.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "metal_candle/json.hpp"
#include "metal_candle/safetensors.hpp"
#include "tests/cli/command.h"

namespace metal_candle::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

std::vector<double> numbers(const Json& list) {
  std::vector<double> out;
  for (const Json& v : list.elements()) out.push_back(v.as_double());
  return out;
}

TEST(EmbedCommand, WritesAnEventAText) {
  const Ran ran = command({"embed", "--model", model(), "--text", "Hello", "", "world", "--json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto events = ran.events();
  ASSERT_EQ(events.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(events[i].at("event").as_string(), "embedding");
    EXPECT_EQ(events[i].at("index").as_int64(), static_cast<std::int64_t>(i));
    EXPECT_EQ(events[i].at("embedding").size(), 32u);
    EXPECT_FALSE(events[i].contains("id"));
  }
  // In another order, each is what it was; given one by one, too.
  const auto other = command({"embed", "--model", model(), "--text", "world", "--text=Hello", "--json"}).events();
  ASSERT_EQ(other.size(), 2u);
  EXPECT_EQ(other[0].at("embedding"), events[2].at("embedding"));
  EXPECT_EQ(other[1].at("embedding"), events[0].at("embedding"));
}

TEST(EmbedCommand, WritesFiles) {
  std::ofstream(at("rows.jsonl")) << "{\"text\": \"Hello\", \"id\": \"a\"}\n{\"text\": \"world\", \"id\": 3}\n";
  for (const char* name : {"e.npy", "e.jsonl", "e.safetensors", "new/folder/e.npy"}) {
    const Ran ran = command({"embed", "--model", model(), "--input", at("rows.jsonl"), "--output", at(name)});
    ASSERT_EQ(ran.code, 0) << ran.err;
    EXPECT_THAT(ran.out, IsEmpty());
    EXPECT_THAT(ran.err, HasSubstr("2 embeddings in"));
    EXPECT_THAT(ran.err, HasSubstr("made in f32"));
  }
  for (const char* name : {"e.npy.ids.jsonl", "e.safetensors.ids.jsonl"}) {
    std::ifstream ids(at(name));
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(ids), {}), "\"a\"\n3\n") << name;
  }
  EXPECT_FALSE(std::filesystem::exists(at("e.jsonl.ids.jsonl")));
  EXPECT_EQ(std::filesystem::file_size(at("e.npy")), 128u + 2 * 32 * 4);
  const Tensor t = SafeTensors::open(at("e.safetensors")).load("embeddings");
  ASSERT_EQ(t.shape(), (Shape{2, 32}));
  std::ifstream lines(at("e.jsonl"));
  std::string first, second;
  std::getline(lines, first), std::getline(lines, second);
  EXPECT_EQ(Json::parse(first, "first").at("id"), Json("a"));
  EXPECT_EQ(Json::parse(second, "second").at("id"), Json(3));
  const auto row = numbers(Json::parse(second, "second").at("embedding"));
  for (std::size_t i = 0; i < row.size(); ++i) EXPECT_EQ(static_cast<float>(row[i]), t.to_vector<float>()[32 + i]);
  // From a pipe, the same.
  const Ran piped = command({"embed", "--model", model(), "--input", "-", "--json"}, {}, "Hello\nworld\n");
  ASSERT_EQ(piped.code, 0) << piped.err;
  EXPECT_EQ(numbers(piped.events().at(1).at("embedding")), row);
}

TEST(EmbedCommand, KilledItLeavesNothing) {
  const std::string folder = at("embed_killed"), pipe = at("texts.pipe");
  std::filesystem::create_directory(folder);
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::fstream held(pipe);  // reading never ends
  held << "Hello\n" << std::flush;
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    const Ran ran =
        signalled_early({"embed", "--model", model(), "--input", pipe, "--output", folder + "/e.npy"}, signal);
    EXPECT_EQ(ran.code, 128 + signal) << ran.err;
    EXPECT_TRUE(std::filesystem::is_empty(folder)) << signal;
    held << "Hello\n" << std::flush;
  }
}

TEST(EmbedCommand, GoesOnAfterASignalThatItWasToldToIgnore) {
  const std::string pipe = at("ignoring.pipe"), output = at("ignoring.npy");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  for (const int signal : {SIGINT, SIGTERM}) {
    const int held = open(pipe.c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_EQ(::write(held, "Hello\n", 6), 6);
    const Ran ran = signalled_in_vain({"embed", "--model", model(), "--input", pipe, "--output", output}, signal, [&] {
      EXPECT_EQ(::write(held, "world\n", 6), 6);
      close(held);
    });
    EXPECT_EQ(ran.code, 0) << ran.err;
    EXPECT_TRUE(std::filesystem::remove(output)) << signal;
  }
}

TEST(EmbedCommand, CutsDimensions) {
  const auto whole = command({"embed", "--model", model(), "--text", "Hello", "--json"}).events();
  const auto some = command({"embed", "--model", model(), "--text", "Hello", "--json", "--dimensions", "4"}).events();
  const auto all = numbers(whole.at(0).at("embedding")), few = numbers(some.at(0).at("embedding"));
  ASSERT_EQ(few.size(), 4u);
  double length = 0;
  for (std::size_t i = 0; i < 4; ++i) length += all[i] * all[i];
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(few[i], all[i] / std::sqrt(length), 1e-6);
}

TEST(EmbedCommand, Mistakes) {
  const auto fails = [](std::vector<std::string> line, int code, const char* says) {
    const Ran ran = command(line);
    EXPECT_EQ(ran.code, code) << ran.err;
    EXPECT_THAT(ran.err, HasSubstr(says));
    EXPECT_THAT(ran.out, IsEmpty());
  };
  const std::string m = model();
  fails({"embed", "--model", m}, 2, "--input, --text");
  fails({"embed", "--text", "x"}, 2, "embed needs --model");
  fails({"embed", "--model", m, "--input", at("nowhere")}, 66, "nowhere");
  fails({"embed", "--model", at("nowhere"), "--text", "x"}, 66, "nowhere");
  fails({"embed", "--model", m, "--input", at("broken.jsonl")}, 65, "broken.jsonl:2: text");
  fails({"embed", "--model", m, "--text", "x", "--output", at("x.csv")}, 2, ".npy, .jsonl or .safetensors");
  fails({"embed", "--model", m, "--text", "x", "--output", at("train.jsonl") + "/x.npy"}, 73, "train.jsonl");
  fails({"embed", "--model", m, "--text", "x", "--dimensions", "33"}, 2,
        "dimensions: expected at most the model's 32, got 33");
  fails({"embed", "--model", m, "--text", "x", "--prompt-name", "query"}, 2, "no prompt \"query\"");
  fails({"embed", "--model", m, "--text", "fine", "so\xff"}, 2,
        "--text: expected UTF-8, got byte 0xff behind 2 others");
  fails({"search", "--model", m, "--corpus", at("texts.jsonl"), "--query", "\xc3"}, 2, "--query: expected UTF-8");
  fails({"search", "--model", m, "--corpus", "-", "--query", "x"}, 2, "--corpus: expected a file");
  fails({"search", "--model", m, "--corpus", at("texts.jsonl")}, 2, "search needs --query");
  fails({"search", "--model", m, "--corpus", at("nowhere"), "--query", "x"}, 66, "nowhere");
  fails({"search", "--model", m, "--corpus", at("broken.jsonl"), "--query", "x"}, 65, "broken.jsonl:2");
  // Nothing is left where it failed half-way.
  const Ran ran = command({"embed", "--model", m, "--input", at("broken.jsonl"), "--output", at("half.npy")});
  EXPECT_EQ(ran.code, 65);
  for (const auto& entry : std::filesystem::directory_iterator(playground()))
    EXPECT_THAT(entry.path().filename().string(), testing::Not(HasSubstr("half.npy")));
}

TEST(SearchCommand, FindsAndKeepsItsIndex) {
  std::ofstream(at("notes.txt")) << "Hello world\nGood morning\nHello there\n";
  const std::vector<std::string> line{"search",       "--model",     model(), "--corpus", at("notes.txt"), "--query",
                                      "Good morning", "Hello world", "--top", "2",        "--json"};
  const Ran ran = command(line);
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("indexed 3 texts"));
  const auto events = ran.events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].at("query").as_string(), "Good morning");
  ASSERT_EQ(events[0].at("hits").size(), 2u);
  EXPECT_EQ(events[0].at("hits").at(0).at("text").as_string(), "Good morning");
  EXPECT_EQ(events[0].at("hits").at(0).at("index").as_int64(), 1);
  EXPECT_NEAR(events[0].at("hits").at(0).at("score").as_double(), 1, 1e-5);
  EXPECT_EQ(events[1].at("hits").at(0).at("index").as_int64(), 0);
  const Ran again = command(line);
  EXPECT_EQ(again.out, ran.out);
  EXPECT_THAT(again.err, testing::Not(HasSubstr("indexed")));
  const Ran people = command({"search", "--model", model(), "--corpus", at("notes.txt"), "--query", "Good morning"});
  EXPECT_THAT(people.out, testing::StartsWith("1.0000  1  Good morning\n"));
}

}  // namespace
}  // namespace metal_candle::test
