#include "metal_candle/json.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "metal_candle/error.hpp"
#include "tests/io/temp_folder.h"

namespace metal_candle {
namespace {

using namespace std::string_literals;

/// The error that f throws.
template <class F>
FileError error_of(F&& f) {
  try {
    f();
  } catch (const FileError& e) {
    return e;
  }
  ADD_FAILURE() << "nothing was thrown";
  return FileError(FileFault::bad, "", "", "");
}

Json parsed(std::string_view text) { return Json::parse(text, "t.json"); }

TEST(Json, ReadsEveryKind) {
  const Json j = parsed(R"( {"a": [1, -2.5e1, true, false, null, "x\u00e9\ud83d\ude00\n"], "b": {}, "c": []} )");
  const auto& a = j.at("a");
  EXPECT_EQ(a.at(0).as_int64(), 1);
  EXPECT_EQ(a.at(1).as_double(), -25.0);
  EXPECT_TRUE(a.at(2).as_bool());
  EXPECT_FALSE(a.at(3).as_bool());
  EXPECT_TRUE(a.at(4).is_null());
  EXPECT_EQ(a.at(5).as_string(), "x\xc3\xa9\xf0\x9f\x98\x80\n");
  EXPECT_EQ(j.at("b").size(), 0u);
  EXPECT_EQ(j.at("c").elements().size(), 0u);
  EXPECT_EQ(j.items()[2].key, "c");
  EXPECT_EQ(j.find("d"), nullptr);
  EXPECT_EQ(a.size(), 6u);
}

TEST(Json, RefusesWhatIsNotJson) {
  const std::vector<std::string> bad = {"",
                                        " ",
                                        "{",
                                        "[",
                                        "}",
                                        "]",
                                        "[1",
                                        "[1,",
                                        "[1,]",
                                        "[,1]",
                                        "{\"a\"",
                                        "{\"a\":",
                                        "{\"a\":1",
                                        "{\"a\":1,",
                                        "{\"a\":1,}",
                                        "{a:1}",
                                        "{'a':1}",
                                        "{1:1}",
                                        "{\"a\" 1}",
                                        "{\"a\":1 \"b\":2}",
                                        "[1 2]",
                                        "1 2",
                                        "[1]]",
                                        "nul",
                                        "nulll",
                                        "True",
                                        "tru",
                                        "truefalse",
                                        "NaN",
                                        "Infinity",
                                        "-Infinity",
                                        "-",
                                        "+1",
                                        "01",
                                        "-01",
                                        "00",
                                        "1.",
                                        ".5",
                                        "1.e3",
                                        "1e",
                                        "1e+",
                                        "0x10",
                                        "1_000",
                                        "1e999",
                                        "-1e999",
                                        "\"",
                                        "\"a",
                                        "\"\\",
                                        "\"\\q\"",
                                        "\"\\u12\"",
                                        "\"\\u12g4\"",
                                        "\"\\ud800\"",
                                        "\"\\ud800x\"",
                                        "\"\\ud800\\u0041\"",
                                        "\"\\udc00\"",
                                        "\"\\ud800\\ud800\"",
                                        "\"a\nb\"",
                                        "\"a\tb\"",
                                        "\"\x01\"",
                                        "\"\xff\"",
                                        "\"\xc0\xaf\"",
                                        "\"\xe0\x80\x80\"",
                                        "\"\xed\xa0\x80\"",
                                        "\"\xf4\x90\x80\x80\"",
                                        "\"\xc3\"",
                                        "\"\xf0\x9f\x98\"",
                                        "\xef\xbb\xbf{}",
                                        "// c\n1",
                                        "/* c */ 1",
                                        "[1] // c",
                                        "\v1",
                                        "\u00a01",
                                        "{\"a\":1,\"a\":1}",
                                        "{\"a\":1,\"\\u0061\":2}",
                                        "[1,2"s + '\0' + "]",
                                        "1"s + '\0',
                                        "\""s + '\0' + "\"",
                                        "{}{}",
                                        "\"\\u-123\"",
                                        "[\"a\",\n1 1]",
                                        "--1",
                                        "- 1",
                                        "1e5.5",
                                        "[1}",
                                        "{\"a\":1]",
                                        "\"\\u+123\"",
                                        "\"\\u 123\"",
                                        "{\"\":1,\"\":2}"};
  for (const std::string& text : bad) EXPECT_THROW(parsed(text), FileError) << text;
}

TEST(Json, AcceptsWhatLooksOdd) {
  EXPECT_EQ(parsed("\t\r\n 0 ").as_int64(), 0);
  EXPECT_EQ(parsed("-0").as_int64(), 0);
  EXPECT_TRUE(std::signbit(parsed("-0.0").as_double()));
  EXPECT_EQ(parsed("1e-999").as_double(), 0.0);
  EXPECT_EQ(parsed("4.9e-324").as_double(), std::numeric_limits<double>::denorm_min());
  EXPECT_EQ(parsed("1E+2").as_double(), 100.0);
  EXPECT_EQ(parsed("\"\\u0000\"").as_string(), "\0"s);
  EXPECT_EQ(parsed("\"\\/\\b\\f\\r\\t\\\"\\\\\"").as_string(), "/\b\f\r\t\"\\");
  EXPECT_EQ(parsed("\"\x7f\xef\xbf\xbf\"").as_string(), "\x7f\xef\xbf\xbf");
  EXPECT_EQ(parsed("{\"\":1}").at("").as_int64(), 1);
  EXPECT_EQ(parsed("\"" + std::string(100000, 'x') + "\"").as_string().size(), 100000u);
}

TEST(Json, DepthIsBounded) {
  const auto nested = [](int n) {
    return std::string(static_cast<std::size_t>(n), '[') + std::string(static_cast<std::size_t>(n), ']');
  };
  EXPECT_NO_THROW(parsed(nested(Json::kMaxDepth)));
  EXPECT_THROW(parsed(nested(Json::kMaxDepth + 1)), FileError);
  EXPECT_THROW(parsed(nested(5'000'000)), FileError);
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_THROW(parsed(objects), FileError);
}

TEST(Json, IntegersAreNotReals) {
  for (const char* text : {"1.0", "1e3", "1.5", "\"1\"", "true", "null", "[1]", "9223372036854775808",
                           "-9223372036854775809", "123456789012345678901234567890"})
    EXPECT_THROW(parsed(text).as_int64(), FileError) << text;
  EXPECT_EQ(parsed("9223372036854775807").as_int64(), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(parsed("-9223372036854775808").as_int64(), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(parsed("18446744073709551615").as_uint64(), std::numeric_limits<std::uint64_t>::max());
  for (const char* text : {"-1", "18446744073709551616", "-18446744073709551615", "1.0"})
    EXPECT_THROW(parsed(text).as_uint64(), FileError) << text;
  for (const char* text : {"0", "-1", "2147483648", "9223372036854775808", "1.0"})
    EXPECT_THROW(parsed(text).positive(), FileError) << text;
  EXPECT_EQ(parsed("2147483647").positive(), 2147483647);
  EXPECT_EQ(parsed("3").as_int(3, 3), 3);
  EXPECT_THROW(parsed("4").as_int(0, 3), FileError);
  EXPECT_EQ(parsed("7").as_double(), 7.0);
  EXPECT_EQ(parsed("18446744073709551616").as_double(), 0x1p64);
  EXPECT_THROW(parsed("1" + std::string(400, '0')).as_double(), FileError);
  EXPECT_THROW(parsed("\"NaN\"").as_double(), FileError);
}

TEST(Json, ErrorsNameFileFieldExpectedAndGot) {
  const Json j = parsed(R"({"layers": [{"n": 1}, {"n": -3, "a.b": "x\ty", "deep": {"k": [[1, 2.5]]}}]})");
  const Json copy = j.at("layers").at(1);  // knows where it came from, alone
  const auto e = error_of([&] { copy.at("n").positive(); });
  EXPECT_STREQ(e.what(), "t.json: layers[1].n: expected a positive integer, got -3");
  EXPECT_EQ(e.fault(), FileFault::bad);
  EXPECT_STREQ(error_of([&] { copy.at("missing"); }).what(),
               "t.json: layers[1].missing: expected a value, got no such key");
  EXPECT_STREQ(error_of([&] { copy.at("a.b").as_bool(); }).what(),
               "t.json: layers[1].a.b: expected true or false, got the string \"x\\x09y\"");
  EXPECT_STREQ(error_of([&] { j.at("layers").at(2); }).what(),
               "t.json: layers[2]: expected an index below 2, got none there");
  EXPECT_STREQ(error_of([&] { j.at("layers").at("x"); }).what(),
               "t.json: layers: expected an object, got an array of 2");
  EXPECT_STREQ(error_of([&] { copy.at("deep").at("k").at(0).at(1).as_int64(); }).what(),
               "t.json: layers[1].deep.k[0][1]: expected an integer, got 2.5");
  EXPECT_STREQ(error_of([] { parsed("{\"a\": {\"b\": 1,\n \"b\": 2}}"); }).what(),
               "t.json: a.b: expected each key once, got it twice");
  EXPECT_STREQ(error_of([] { parsed("{\n  \"a\": 01}"); }).what(),
               "t.json: line 2, column 9: expected no digit after a leading zero, got \"1\"");
  EXPECT_STREQ(error_of([] { parsed("[1,"); }).what(), "t.json: line 1, column 4: expected a value, got the end");
  EXPECT_STREQ(error_of([] { parsed("{a: 1}"); }).what(),
               "t.json: line 1, column 2: expected a name in quotes, got \"a\"");
  EXPECT_STREQ(error_of([] { parsed(R"({"question": 1, "answer": 2})").as_string(); }).what(),
               "t.json: expected a string, got an object of \"question\", \"answer\"");
  EXPECT_STREQ(error_of([] { parsed(R"({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6})").as_int64(); }).what(),
               "t.json: expected an integer, got an object of \"a\", \"b\", \"c\", \"d\" and 2 more");
  EXPECT_STREQ(error_of([] { Json(5).as_string(); }).what(), "(value): expected a string, got 5");
}

TEST(Json, EveryPrefixIsRefusedOrRead) {
  const std::string text = R"({"a": [1, -2.5e1, true, null, "x\u00e9\ud83d\ude00é"], "b": {"c": 1.25}})";
  for (std::size_t n = 0; n < text.size(); ++n) EXPECT_THROW(parsed(text.substr(0, n)), FileError) << n;
  EXPECT_NO_THROW(parsed(text));
}

TEST(Json, LargeObjectsFindTheirKeys) {
  std::string text = "{";
  for (int i = 0; i < 5000; ++i) text += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":" + std::to_string(i);
  const Json j = parsed(text + "}");
  for (int i = 0; i < 5000; ++i) ASSERT_EQ(j.at("k" + std::to_string(i)).as_int64(), i);
  EXPECT_EQ(j.find("k5000"), nullptr);
  EXPECT_STREQ(error_of([&] { parsed(text + ",\"k17\":1}"); }).what(),
               "t.json: k17: expected each key once, got it twice");
}

TEST(Json, BuildsAndWrites) {
  Json j = Json::object({{"event", "step"}, {"step", 3}, {"loss", 0.5}, {"ok", true}, {"none", nullptr}});
  j.set("list", Json::array({1, "two", 3.0}));
  j.set("step", std::uint64_t{1} << 63);
  EXPECT_EQ(
      j.dump(),
      R"({"event": "step", "step": 9223372036854775808, "loss": 0.5, "ok": true, "none": null, "list": [1, "two", 3.0]})");
  EXPECT_EQ(Json::object({{"a", Json::array({1, 2})}, {"b", Json::object()}, {"c", Json::array()}}).dump(2),
            "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": {},\n  \"c\": []\n}");
  Json list;
  list.push_back(1);
  EXPECT_EQ(list.dump(), "[1]");
  EXPECT_THROW(list.set("a", 1), UserError);
  EXPECT_THROW(Json(1).push_back(1), UserError);
  EXPECT_THROW(Json::object({{"a", 1}, {"a", 2}}), UserError);
}

TEST(Json, WritesValidText) {
  EXPECT_EQ(Json("a\"\\\n\x01\x7f\xff\xc3\xa9\xed\xa0\x80").dump(),
            "\"a\\\"\\\\\\n\\u0001\x7f\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
  EXPECT_EQ(Json(std::nan("")).dump(), "\"NaN\"");
  EXPECT_EQ(Json(-HUGE_VAL).dump(), "\"-Infinity\"");
  EXPECT_EQ(Json(HUGE_VAL).dump(), "\"Infinity\"");
}

TEST(Json, RealsReadBackTheSame) {
  std::uint64_t bits = 0x243f6a8885a308d3u;
  for (int i = 0; i < 20'000; ++i) {
    bits = bits * 6364136223846793005u + 1442695040888963407u;
    const double value = std::bit_cast<double>(bits ^ bits >> 31);
    if (!std::isfinite(value)) continue;
    const Json back = parsed(Json(value).dump());
    ASSERT_EQ(back.kind(), Json::Kind::real);
    ASSERT_EQ(std::bit_cast<std::uint64_t>(back.as_double()), std::bit_cast<std::uint64_t>(value));
  }
}

TEST(Json, CopiesOutliveTheirSourceAndChangesKeepKeys) {
  Json kept;
  {
    Json whole = parsed(R"({"a": {"k": "text\n", "big": 123456789012345678901234567890}, "b": 1})");
    kept = whole.at("a");
    whole.set("c", whole.at("a"));
    whole.set("a", 1);  // the old value goes, its key stays
    EXPECT_EQ(whole.dump(), R"({"a": 1, "b": 1, "c": {"k": "text\n", "big": 123456789012345678901234567890}})");
    const Json copy = whole;
    EXPECT_EQ(copy, whole);
  }
  EXPECT_EQ(kept.at("k").as_string(), "text\n");
  EXPECT_EQ(kept.dump(), R"({"k": "text\n", "big": 123456789012345678901234567890})");
  EXPECT_EQ(kept, parsed(R"({"big": 123456789012345678901234567890, "k": "text\n"})"));
  EXPECT_FALSE(kept == parsed(R"({"k": "text\n"})"));
  EXPECT_FALSE(Json(1) == Json(1.0));
}

TEST(Json, LoadsFiles) {
  const TempFolder folder;
  folder.write("a.json", "{\"x\": 0.5}");
  EXPECT_EQ(Json::load(folder / "a.json").at("x").as_double(), 0.5);
  EXPECT_EQ(error_of([&] { Json::load(folder / "none.json"); }).fault(), FileFault::missing);
  EXPECT_EQ(error_of([&] { Json::load(folder / "a.json").at("x").as_int64(); }).file(), (folder / "a.json").string());
  EXPECT_EQ(error_of([&] { Json::load(folder.path()); }).fault(), FileFault::bad);
  folder.write("empty.json", "");
  EXPECT_EQ(error_of([&] { Json::load(folder / "empty.json"); }).fault(), FileFault::bad);
}

}  // namespace
}  // namespace metal_candle
