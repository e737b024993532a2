#include "metal_candle/gguf.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <memory>

#include "io/dequantize.h"
#include "metal_candle/error.hpp"
#include "metal_candle/runtime.hpp"
#include "metal_candle/safetensors.hpp"
#include "tests/io/fixture.h"
#include "tests/io/gguf_bytes.h"
#include "tests/io/temp_folder.h"

namespace metal_candle {
namespace {

const std::string kFixtures = METAL_CANDLE_TESTS_DIR "/fixtures/io/";
using Type = GgufValue::Type;

// ---- values ---------------------------------------------------------------------------------------------------------

TEST(Gguf, ReadsEveryTypeOfValue) {
  const Gguf file = Gguf::open(kFixtures + "small.gguf");
  EXPECT_EQ(file.at("general.architecture").as_string(), "llama");
  EXPECT_EQ(file.at("test.u8").as_int64(), 200);
  EXPECT_EQ(file.at("test.i8").as_int64(), -100);
  EXPECT_EQ(file.at("test.u16").as_int64(), 60000);
  EXPECT_EQ(file.at("test.i16").as_int64(), -30000);
  EXPECT_EQ(file.at("test.u32").as_int64(), 4000000000);
  EXPECT_EQ(file.at("test.i32").as_int64(), -2000000000);
  EXPECT_EQ(file.at("test.u64").as_uint64(), (std::uint64_t{1} << 63) + 5);
  EXPECT_EQ(file.at("test.i64").as_int64(), -(std::int64_t{1} << 62));
  EXPECT_EQ(file.at("test.f32").as_double(), 0.5);
  EXPECT_EQ(file.at("test.f64").as_double(), -0.1);
  EXPECT_TRUE(file.at("test.bool").as_bool());
  EXPECT_EQ(file.at("test.string").as_string(), "h\xc3\xa9");
  EXPECT_EQ(file.at("test.empty").as_string(), "");
  EXPECT_EQ(file.at("test.array.strings").strings(), (std::vector<std::string_view>{"a", "", "\xc3\xa9t\xc3\xa9"}));
  EXPECT_EQ(file.at("test.array.i32s").integers(), (std::vector<std::int64_t>{1, -2, 3}));
  EXPECT_EQ(file.at("test.array.u8s").integers(), (std::vector<std::int64_t>{0, 255}));
  EXPECT_EQ(file.at("test.array.f32s").reals(), (std::vector<double>{0.25, -1}));
  EXPECT_EQ(file.at("test.array.i32s").reals(), (std::vector<double>{1, -2, 3}));
  EXPECT_EQ(file.at("test.array.f64s").reals(), std::vector<double>{1e300});
  EXPECT_EQ(file.at("test.array.bools").booleans(), (std::vector<bool>{true, false}));
  EXPECT_EQ(file.at("test.array.bools").element_type(), Type::boolean);
  EXPECT_EQ(file.values()[0].key(), "general.architecture");
  EXPECT_EQ(file.find("none"), nullptr);
  EXPECT_EQ(file.metadata(2).at("test.array.strings").as_string(), "an array of 3 strings");
  EXPECT_EQ(
      file.metadata().dump(),
      R"({"general.architecture": "llama", "test.u8": 200, "test.i8": -100, "test.u16": 60000, "test.i16": -30000, )"
      R"("test.u32": 4000000000, "test.i32": -2000000000, "test.f32": 0.5, "test.bool": true, "test.string": "hé", )"
      R"("test.u64": 9223372036854775813, "test.i64": -4611686018427387904, "test.f64": -0.1, "test.empty": "", )"
      R"("test.array.strings": ["a", "", "été"], "test.array.i32s": [1, -2, 3], "test.array.u8s": [0, 255], )"
      R"("test.array.f32s": [0.25, -1.0], "test.array.bools": [true, false], "test.array.u64s": [1, 9223372036854775808], )"
      R"("test.array.f64s": [1e+300]})");
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const FileError& e) {
    EXPECT_NE(e.field(), "");
    return e.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

TEST(Gguf, GettersRefuseWhatDoesNotFit) {
  const Gguf file = Gguf::open(kFixtures + "small.gguf");
  EXPECT_EQ(message_of([&] { file.at("test.i8").positive(); }),
            kFixtures + "small.gguf: test.i8: expected an integer from 1 to 2147483647, got -100 (i8)");
  EXPECT_EQ(message_of([&] { file.at("none"); }), kFixtures + "small.gguf: none: expected a value, got no such key");
  EXPECT_EQ(message_of([&] { file.at("test.u64").as_int64(); }),
            kFixtures + "small.gguf: test.u64: expected an integer below 2^63, got 9223372036854775813 (u64)");
  for (const char* key : {"test.f32", "test.bool", "test.string", "test.array.i32s"})
    EXPECT_THROW(file.at(key).as_int64(), FileError) << key;
  for (const char* key : {"test.i8", "test.i64", "test.f64"}) EXPECT_THROW(file.at(key).as_uint64(), FileError) << key;
  for (const char* key : {"test.bool", "test.string", "test.array.f32s"})
    EXPECT_THROW(file.at(key).as_double(), FileError) << key;
  for (const char* key : {"test.u8", "test.array.strings"}) EXPECT_THROW(file.at(key).as_string(), FileError) << key;
  for (const char* key : {"test.u8", "test.string"}) EXPECT_THROW(file.at(key).as_bool(), FileError) << key;
  for (const char* key : {"test.string", "test.array.i32s", "test.empty"})
    EXPECT_THROW(file.at(key).strings(), FileError) << key;
  for (const char* key : {"test.i32", "test.array.strings", "test.array.f32s", "test.array.u64s", "test.array.bools"})
    EXPECT_THROW(file.at(key).integers(), FileError) << key;
  EXPECT_THROW(file.at("test.array.bools").reals(), FileError);
  EXPECT_THROW(file.at("test.array.i32s").booleans(), FileError);
  EXPECT_THROW(file.at("test.i32").element_type(), FileError);
}

TEST(Gguf, ValuesAndTensorsLiveOn) {
  Tensor norm;
  {
    auto opened = std::make_unique<Gguf>(Gguf::open(kFixtures + "small.gguf"));
    const Gguf copy = *opened;
    opened.reset();
    EXPECT_EQ(message_of([&] { copy.at("test.f32").as_bool(); }).find(kFixtures), 0u);
    norm = copy.load("norm", DType::f32);
    EXPECT_EQ(norm.raw_data(), static_cast<const void*>(copy.bytes("norm").data()));
  }
  EXPECT_EQ(norm.to_vector<float>(), (std::vector<float>{0, 1, 2, 3, 4}));
}

// ---- tensors --------------------------------------------------------------------------------------------------------

/// The same bits; any NaN is as good as any other.
::testing::AssertionResult same(float a, float b) {
  if ((std::isnan(a) && std::isnan(b)) || std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b))
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << a << " is not " << b;
}

TEST(Gguf, DecodesEveryEncodingExactly) {
  const Gguf file = Gguf::open(kFixtures + "blocks.gguf");
  const auto expected = SafeTensors::open(kFixtures + "blocks.safetensors");
  int encodings = 0;
  for (const GgufTensor& t : file.tensors()) {
    if (!Gguf::can_load(t.encoding)) continue;
    SCOPED_TRACE(t.encoding);
    ++encodings;
    const auto want = expected.load(t.name).to_vector<float>();
    EXPECT_EQ(t.shape, expected.find(t.name)->shape);
    const Tensor exact = file.load(t.name, DType::f32), brain = file.load(t.name, DType::bf16),
                 half = file.load(t.name, DType::f16);
    EXPECT_EQ(exact.dtype(), DType::f32);
    const auto f = exact.to_vector<float>();
    const auto b = brain.to_vector<bf16>();
    const auto h = half.to_vector<f16>();
    ASSERT_EQ(f.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      ASSERT_TRUE(same(f[i], want[i])) << i;
      ASSERT_TRUE(same(static_cast<float>(b[i]), static_cast<float>(bf16(want[i])))) << i;
      ASSERT_TRUE(same(static_cast<float>(h[i]), static_cast<float>(f16(want[i])))) << i;
    }
  }
  EXPECT_EQ(encodings, 11);
}

TEST(Gguf, RoundsEveryKindOfFloatToHalves) {
  // A file of all upper 20 bits of a float with some lower ones: every exponent, ties and their neighbours.
  std::vector<float> values;
  for (std::uint32_t top = 0; top < 1u << 18; ++top)
    for (const std::uint32_t low : {0u, 1u, 0x1000u, 0x1fffu, 0x2000u})
      values.push_back(std::bit_cast<float>(top << 14 | low));
  std::vector<bf16> brain(values.size());
  std::vector<f16> half(values.size());
  const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
  io::dequantize(*io::find_encoding("F32"), bytes, values.size(), DType::bf16, brain.data());
  io::dequantize(*io::find_encoding("F32"), bytes, values.size(), DType::f16, half.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_TRUE(same(static_cast<float>(brain[i]), static_cast<float>(bf16(values[i])))) << values[i];
    ASSERT_TRUE(same(static_cast<float>(half[i]), static_cast<float>(f16(values[i])))) << values[i];
  }
}

TEST(Gguf, ResultsDoNotDependOnThreads) {
  std::string blocks(std::size_t{20} * 40'000, '\0');
  std::uint32_t state = 1;
  for (char& c : blocks) c = static_cast<char>((state = state * 1664525u + 1013904223u) >> 24);
  std::vector<float> one(32 * 40'000), many(one.size());
  const int before = threads();
  for (auto& [count, out] : {std::pair<int, std::vector<float>*>{1, &one}, {7, &many}}) {
    set_threads(count);
    io::dequantize(*io::find_encoding("Q4_1"), reinterpret_cast<const std::byte*>(blocks.data()), 40'000, DType::f32,
                   out->data());
  }
  set_threads(before);
  for (std::size_t i = 0; i < one.size(); ++i) ASSERT_TRUE(same(one[i], many[i]));
}

TEST(Gguf, ListsButDoesNotLoadOtherEncodings) {
  const Gguf file = Gguf::open(kFixtures + "blocks.gguf");
  EXPECT_EQ(file.find_tensor("Q2_K")->encoding, "Q2_K");
  for (const char* name : {"Q2_K", "IQ4_NL", "I32", "none"})
    EXPECT_THROW(file.load(name, DType::f32), FileError) << name;
  EXPECT_THROW(file.load("F32", DType::i32), UserError);
  EXPECT_EQ(file.bytes("I32").size(), 16u);
  EXPECT_FALSE(Gguf::can_load("Q9"));
}

// ---- bad files ------------------------------------------------------------------------------------------------------

class GgufFiles : public ::testing::Test {
 protected:
  std::string open(const std::string& bytes) {
    const auto path = folder_.write("f.gguf", bytes);
    const std::string message = message_of([&] { Gguf::open(path); });
    return message.substr(std::min(message.size(), path.string().size()));
  }
  Gguf good(const std::string& bytes) { return Gguf::open(folder_.write("good.gguf", bytes)); }
  TempFolder folder_;
};

TEST_F(GgufFiles, HeadersMustBeTrue) {
  EXPECT_EQ(open(""), ": header: expected the word GGUF, of 4 bytes, got the end after 0");
  EXPECT_EQ(open("GGML1234"), ": header: expected the word GGUF, got \"GGML\"");
  EXPECT_EQ(open(GgufBytes().header(0, 0, 1)), ": header: expected version 2 or 3, got 1");
  EXPECT_EQ(open(GgufBytes().header(0, 0, 4)), ": header: expected version 2 or 3, got 4");
  EXPECT_EQ(open(GgufBytes().header(0, 0, 0x03000000)),
            ": header: expected a little-endian file, got a big-endian one");
  EXPECT_EQ(open(GgufBytes().header(1, 0)), ": header: expected at most the 0 tensors there is room for, got 1");
  EXPECT_EQ(open(GgufBytes().header(0, 1u << 20)),
            ": header: expected at most the 0 values there is room for, got 1048576");
  EXPECT_NE(open(GgufBytes().header(~std::uint64_t{0}, 0).zeros(100)), "");
  EXPECT_NE(open(GgufBytes().header(0, std::uint64_t{1} << 63).zeros(100)), "");
  EXPECT_TRUE(good(GgufBytes().header(0, 0)).tensors().empty());
  EXPECT_TRUE(good(GgufBytes().header(0, 0, 2).pad()).values().empty());
}

TEST_F(GgufFiles, ValuesMustBeTrue) {
  const auto one = [] { return GgufBytes().header(0, 1); };
  EXPECT_EQ(open(one().key("k", 13).zeros(64)), ": k: expected a type from 0 to 12, got 13");
  EXPECT_EQ(open(one().key("k", 7).put<std::uint8_t>(2)), ": k: expected a bool of 0 or 1, got 2");
  EXPECT_EQ(open(one().key("k", 9).put<std::uint32_t>(9).put<std::uint64_t>(1).zeros(64)),
            ": k: expected numbers or strings in an array, got type 9");
  EXPECT_EQ(open(one().key("k", 9).put<std::uint32_t>(77).put<std::uint64_t>(0)),
            ": k: expected numbers or strings in an array, got type 77");
  EXPECT_EQ(open(one().key("k", 9).put<std::uint32_t>(0).put<std::uint64_t>((1u << 30) + 1).zeros(64)),
            ": k: expected an array of at most 2^30 elements, got 1073741825");
  EXPECT_EQ(open(one().key("k", 9).put<std::uint32_t>(10).put<std::uint64_t>(std::uint64_t{1} << 61).zeros(64))
                .find(": k: expected an array of at most"),
            0u);
  EXPECT_EQ(open(one().key("k", 9).put<std::uint32_t>(12).put<std::uint64_t>(3).zeros(16)),
            ": k: expected an array, of 24 bytes, got the end after 16");
  EXPECT_EQ(open(one().key("k", 9).put<std::uint32_t>(8).put<std::uint64_t>(1u << 30).zeros(64))
                .find(": k: expected a string"),
            0u);
  EXPECT_EQ(open(one().key("k", 9).put<std::uint32_t>(7).put<std::uint64_t>(2).put<std::uint16_t>(0x0300)),
            ": k: expected a bool of 0 or 1, got 3");
  EXPECT_EQ(open(one().key("k", 8).put<std::uint64_t>((1u << 30) + 1).zeros(64)),
            ": k: expected a string of at most 2^30 bytes, got 1073741825");
  EXPECT_EQ(
      open(one().key("k", 8).put<std::uint64_t>(~std::uint64_t{0}).zeros(64)).find(": k: expected a string of at most"),
      0u);
  EXPECT_EQ(open(one().key("k", 8).put<std::uint64_t>(65).zeros(64)),
            ": k: expected a string, of 65 bytes, got the end after 64");
  EXPECT_EQ(open(one().key("k", 6).put<std::uint16_t>(0)), ": k: expected a number, of 4 bytes, got the end after 2");
  EXPECT_EQ(open(one().key("", 0).zeros(8)), ": value 0: expected a key of 1 to 65535 bytes of UTF-8, got \"\"");
  EXPECT_EQ(open(one().key("\xff", 0).zeros(8)),
            ": value 0: expected a key of 1 to 65535 bytes of UTF-8, got \"\\xff\"");
  EXPECT_NE(open(one().key(std::string(65536, 'k'), 0).zeros(8)), "");
  EXPECT_EQ(open(GgufBytes().header(0, 2).key("k", 0).zeros(1).key("k", 0).zeros(1)),
            ": key \"k\": expected it once, got it twice");
  EXPECT_EQ(open(one().key("split.count", 2).put<std::uint16_t>(3)),
            ": split.count: expected a file in one piece, got 3 (u16)");
  EXPECT_EQ(good(one().key("k", 9).put<std::uint32_t>(8).put<std::uint64_t>(0)).at("k").strings().size(), 0u);
}

TEST_F(GgufFiles, AlignmentIsAPowerOfTwo) {
  const auto with = [](auto value, std::uint32_t type) {
    return GgufBytes().header(1, 1).key("general.alignment", type).put(value).tensor("t", {1}, 0, 0);
  };
  EXPECT_EQ(open(with(std::uint32_t{0}, 4).zeros(64)), ": general.alignment: expected a power of two, got 0 (u32)");
  EXPECT_EQ(open(with(std::uint32_t{48}, 4).zeros(64)), ": general.alignment: expected a power of two, got 48 (u32)");
  EXPECT_EQ(open(with(std::uint64_t{32}, 10).zeros(64)), ": general.alignment: expected a u32, got 32 (u64)");
  EXPECT_NE(open(with(std::uint32_t{1} << 31, 4).zeros(64)), "");
  EXPECT_EQ(good(with(std::uint32_t{1}, 4).put(2.5f)).load("t", DType::f32).item<float>(), 2.5f);
  EXPECT_EQ(good(with(std::uint32_t{4096}, 4).pad(4096).put(2.5f)).load("t", DType::f32).item<float>(), 2.5f);
}

TEST_F(GgufFiles, TensorsMustBeTrue) {
  const auto one = [](const std::vector<std::uint64_t>& extents, std::uint32_t encoding, std::uint64_t offset = 0) {
    return GgufBytes().header(1, 0).tensor("t", extents, encoding, offset).pad();
  };
  EXPECT_EQ(open(one({2, 3}, 0).zeros(23)), ": tensor \"t\": expected data up to 120, got a file of 119 bytes");
  EXPECT_EQ(open(one({2, 3}, 0, 32).zeros(64)), ": tensor \"t\": expected data at 0, behind the tensor before, got 32");
  EXPECT_EQ(open(one({2, 3}, 0, ~std::uint64_t{0}).zeros(64)).find(": tensor \"t\": expected data at 0"), 0u);
  EXPECT_EQ(open(one({31}, 3).zeros(64)), ": tensor \"t\": expected rows of whole blocks of 32 for Q4_1, got 31");
  EXPECT_EQ(open(one({16, 2}, 3).zeros(64)), ": tensor \"t\": expected rows of whole blocks of 32 for Q4_1, got 16");
  EXPECT_EQ(open(one({}, 3).zeros(64)), ": tensor \"t\": expected rows of whole blocks of 32 for Q4_1, got 1");
  EXPECT_EQ(open(one({1}, 4).zeros(64)), ": tensor \"t\": expected an encoding that is known, got number 4");
  EXPECT_EQ(open(one({1}, 0xffffffff).zeros(64)),
            ": tensor \"t\": expected an encoding that is known, got number 4294967295");
  EXPECT_EQ(open(one({1, 1, 1, 1, 1}, 0).zeros(64)), ": tensor \"t\": expected at most 4 axes, got 5");
  for (const std::vector<std::uint64_t>& wrap : std::vector<std::vector<std::uint64_t>>{
           {std::uint64_t{1} << 32, std::uint64_t{1} << 32},
           {std::uint64_t{1} << 62, 4},
           {~std::uint64_t{0}},
           {std::uint64_t{1} << 63},
           {std::uint64_t{1} << 63, 2},
           {(std::uint64_t{1} << 62) + 1},
           {std::uint64_t{1} << 62},
           {std::uint64_t{1} << 60},
           {1, 1, 1, ~std::uint64_t{0}},
           {0, ~std::uint64_t{0}},
           {std::uint64_t{1} << 32, std::uint64_t{1} << 32, 0},
           {std::uint64_t{1} << 20, std::uint64_t{1} << 20, std::uint64_t{1} << 20, 16}})
    for (const std::uint32_t encoding : {0u, 3u, 14u})
      EXPECT_EQ(open(one(wrap, encoding).zeros(64)).find(": tensor \"t\": expected "), 0u);
  EXPECT_NE(open(GgufBytes().header(1, 0).tensor(std::string(64, 'n'), {1}, 0, 0).pad().zeros(64))
                .find("a name of at most 63 bytes"),
            std::string::npos);
  EXPECT_NE(open(GgufBytes().header(1, 0).tensor("\xc3", {1}, 0, 0).pad().zeros(64))
                .find("a name of at most 63 bytes of UTF-8, got \"\\xc3\""),
            std::string::npos);
  EXPECT_EQ(good(one({}, 0).put(1.5f)).load("t", DType::f32).shape(), Shape{});
  EXPECT_EQ(good(one({0, 3}, 3)).load("t", DType::bf16).shape(), (Shape{3, 0}));
  EXPECT_EQ(good(one({3, 2, 1}, 0).zeros(24)).find_tensor("t")->shape, (Shape{1, 2, 3}));
}

TEST_F(GgufFiles, TensorsLieEndToEnd) {
  const auto two = [](std::uint64_t second, const char* name = "b") {
    return GgufBytes().header(2, 0).tensor("a", {3}, 0, 0).tensor(name, {2}, 0, second).pad();
  };
  const Gguf file = good(two(32).put(1.f).put(2.f).put(3.f).zeros(20).put(4.f).put(5.f));
  EXPECT_EQ(file.load("b", DType::f32).to_vector<float>(), (std::vector<float>{4, 5}));
  EXPECT_EQ(file.load("a", DType::bf16).to_f64(), (std::vector<double>{1, 2, 3}));
  for (const std::uint64_t second : {0, 12, 31, 33, 64})
    EXPECT_EQ(open(two(second).zeros(128)).find(": tensor \"b\": expected data at 32"), 0u) << second;
  EXPECT_EQ(open(two(32, "a").zeros(128)), ": tensor \"a\": expected it once, got it twice");
}

TEST_F(GgufFiles, CutFilesAreRefused) {
  std::ifstream in(kFixtures + "small.gguf", std::ios::binary);
  const std::string whole(std::istreambuf_iterator<char>(in), {});
  // Up to the last byte of data; the padding behind it is nobody's.
  const Gguf file = good(whole);
  const std::size_t end =
      static_cast<std::size_t>(file.bytes("k").data() + file.bytes("k").size() - file.bytes("norm").data());
  const std::size_t data = whole.size() - (end + 31) / 32 * 32;
  for (std::size_t n = 0; n < data + end; ++n) {
    SCOPED_TRACE(n);
    EXPECT_NE(open(whole.substr(0, n)), "");
  }
  EXPECT_NO_THROW(good(whole.substr(0, data + end)));
}

}  // namespace
}  // namespace metal_candle
