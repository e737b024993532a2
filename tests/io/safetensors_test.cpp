#include "metal_candle/safetensors.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "io/files.h"
#include "metal_candle/error.hpp"
#include "metal_candle/json.hpp"
#include "metal_candle/ops.hpp"
#include "tests/io/fixture.h"
#include "tests/io/temp_folder.h"

namespace metal_candle {
namespace {

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

/// A file of one header and zeros.
std::string file_of(std::string header, std::size_t data) {
  std::string out(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return out + header + std::string(data, '\0');
}

TEST(SafeTensors, JudgesAsTheReferenceDoes) {
  const TempFolder folder;
  int good = 0, bad = 0;
  const Json cases = io_fixture("safetensors_cases.json");
  for (const Json& c : cases.elements()) {
    SCOPED_TRACE(c.at("name").as_string());
    const auto path = folder.write("case.safetensors", from_hex(c.at("hex").as_string()));
    const bool expected = (c.find("ours") ? c.at("ours") : c.at("reference")).as_bool();
    bool read = true;
    try {
      const auto file = SafeTensors::open(path);
      for (const TensorInfo& t : file.tensors()) EXPECT_EQ(file.bytes(t.name).size(), t.bytes);
    } catch (const FileError& e) {
      read = false;
      EXPECT_EQ(e.fault(), FileFault::bad);
      EXPECT_EQ(e.file(), path.string());
      EXPECT_TRUE(!e.expected().empty() && !e.got().empty()) << e.what();
    }
    EXPECT_EQ(read, expected);
    ++(expected ? good : bad);
  }
  EXPECT_GE(good, 40);
  EXPECT_GE(bad, 200);
}

TEST(SafeTensors, ErrorsSayWhatIsWrong) {
  const TempFolder folder;
  const auto open = [&](const std::string& header, std::size_t data) {
    const auto path = folder.write("f", file_of(header, data));
    return message_of([&] { SafeTensors::open(path); }).substr(path.string().size());
  };
  EXPECT_EQ(open(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,7]}})", 7),
            ": tensor \"a\": expected 8 bytes for F32 [2], got 7 bytes");
  EXPECT_EQ(open(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})", 9),
            ": tensor \"a\": expected data from 0, where the one before ends, got data_offsets [1, 9]");
  EXPECT_EQ(open(R"({"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}})", 8),
            ": tensor \"a\": expected a dtype of the format, got \"F31\"");
  EXPECT_EQ(open(R"({"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})", 8),
            ": tensor \"a\": expected an extent, got 2.5");
  EXPECT_EQ(open(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 9),
            ": expected 8 bytes of data, as the header says, got 9");
  EXPECT_EQ(open(R"({"a" 1})", 0), ": header, line 1, column 6: expected \":\", got \"1\"");
  EXPECT_EQ(
      open(
          R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
          0),
      ": tensor \"a\": expected it once, got it twice");
  EXPECT_EQ(open(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8), ": tensor \"a\": expected a shape, got none");
}

TEST(SafeTensors, LoadsViewsAndCopies) {
  const TempFolder folder;
  // The header of the first is padded; that of the second is not, so its data is not aligned.
  for (const char* pad : {"", "x"}) {
    std::string header =
        std::string(R"({"__metadata__":{"k":")") + pad +
        R"("},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"flag":{"dtype":"BOOL","shape":[2],"data_offsets":[16,18]}})";
    if (pad[0] == '\0') header.resize((header.size() + 7) / 8 * 8, ' ');
    else
      while (header.size() % 4 != 1) header += ' ';
    std::string bytes = file_of(header, 18);
    const float values[] = {1, -2, 3.5f, 4};
    std::memcpy(bytes.data() + bytes.size() - 18, values, sizeof values);
    bytes.back() = 1;
    Tensor w, flag;
    {
      const auto file = SafeTensors::open(folder.write("f.safetensors", bytes));
      w = file.load("w");
      flag = file.load("flag");
      EXPECT_EQ(file.find("w")->shape, (Shape{2, 2}));
      EXPECT_EQ(file.find("w")->dtype, DType::f32);
      EXPECT_EQ(file.metadata().at("k"), pad);
      EXPECT_FALSE(file.contains("x"));
      const bool view = w.raw_data() == static_cast<const void*>(file.bytes("w").data());
      EXPECT_EQ(view, pad[0] == '\0');
      EXPECT_NE(message_of([&] { file.load("x"); }).find("tensor \"x\""), std::string::npos);
    }
    std::filesystem::remove(folder / "f.safetensors");
    EXPECT_EQ((w + 1).eval().to_vector<float>(),
              (std::vector<float>{2, -1, 4.5f, 5}));  // outlives the handle and the name
    EXPECT_EQ(flag.to_vector<bool>(), (std::vector<bool>{false, true}));
  }
}

TEST(SafeTensors, RefusesToLoadWhatCannotBeComputedWith) {
  const TempFolder folder;
  std::string bytes = file_of(
      R"({"n":{"dtype":"U16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"BOOL","shape":[1],"data_offsets":[2,3]},"r":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[3,4]}})",
      4);
  bytes[bytes.size() - 2] = 2;
  const auto file = SafeTensors::open(folder.write("f", bytes));
  EXPECT_EQ(file.find("n")->format, "U16");
  EXPECT_FALSE(file.find("n")->dtype.has_value());
  for (const char* name : {"n", "b", "r"}) EXPECT_THROW(file.load(name), FileError) << name;
  EXPECT_EQ(file.bytes("n").size(), 2u);
}

TEST(SafeTensors, ReadsNoPageThatItDoesNotNeed) {
  const TempFolder folder;
  constexpr std::size_t kBytes = 64 << 20;
  const std::string count = std::to_string(kBytes);
  const std::string header =
      file_of(R"({"w":{"dtype":"U8","shape":[)" + count + R"(],"data_offsets":[0,)" + count + "]}}", 0);
  const auto path = folder.write("f.safetensors", header);
  std::filesystem::resize_file(path, header.size() + kBytes);
  const auto resident = [] {  // bytes of files in this process's memory
    std::ifstream in("/proc/self/statm");
    std::size_t size = 0, all = 0, shared = 0;
    in >> size >> all >> shared;
    return shared * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  };
  const std::size_t before = resident();
  const auto file = SafeTensors::open(path);
  const Tensor w = file.load("w");
  EXPECT_LE(resident(), before + kBytes / 8);  // the kernel maps what lies around a page that is touched
  EXPECT_EQ(sum(w.cast(DType::i64)).eval().item<std::int64_t>(), 0);
  EXPECT_GE(resident(), before + kBytes / 2);
}

// ---- shards ---------------------------------------------------------------------------------------------------------

std::string tensor_file(const char* name, float value) {
  const TempFolder folder;
  save_safetensors(folder / "t", {{name, Tensor::from<float>({value}, {1})}});
  return folder.read("t");
}

TEST(SafeTensors, OpensFoldersAndShards) {
  const TempFolder folder;
  EXPECT_THROW(SafeTensors::open(folder.path()), FileError);
  folder.write("model-1.safetensors", tensor_file("a", 1));
  EXPECT_EQ(SafeTensors::open(folder.path()).load("a").item<float>(), 1);
  folder.write("model-2.safetensors", tensor_file("b", 2));
  EXPECT_NE(message_of([&] { SafeTensors::open(folder.path()); }).find("2 files"), std::string::npos);
  folder.write("model.safetensors.index.json",
               R"({"metadata":{"total_size":8},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}})");
  const auto set = SafeTensors::open(folder.path());
  EXPECT_EQ(set.tensors().size(), 2u);
  EXPECT_EQ(set.load("b").item<float>(), 2);
  EXPECT_EQ(set.path(), folder / "model.safetensors.index.json");
  EXPECT_EQ(SafeTensors::open(folder / "model.safetensors.index.json").load("a").item<float>(), 1);
  folder.write("model.safetensors", tensor_file("c", 3));
  EXPECT_TRUE(SafeTensors::open(folder.path()).contains("c"));
}

TEST(SafeTensors, RefusesBadIndexes) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "sub");
  folder.write("s1", tensor_file("a", 1));
  folder.write("s2", tensor_file("b", 2));
  folder.write("sub/s3", tensor_file("c", 3));
  folder.write("again", tensor_file("a", 3));
  const auto open = [&](const std::string& map) {
    const auto path = folder.write("i.index.json", map);
    return message_of([&] { SafeTensors::open(path); });
  };
  const auto with = [&](const std::string& map) { return open("{\"weight_map\":" + map + "}"); };
  const std::string inside = (folder / "s1").string();
  for (const std::string& shard :
       {std::string("../s1"), std::string("sub/s3"), inside, std::string(".."), std::string("."), std::string(""),
        std::string("./s1"), std::string("..\\\\s1"), std::string("s1\\u0000"), std::string("sub/../s1")})
    EXPECT_NE(with("{\"a\":\"" + shard + "\"}").find("weight_map.a: expected the name of a file beside the index"),
              std::string::npos)
        << shard;
  EXPECT_NE(with(R"({"a":"none"})").find("none"), std::string::npos);
  EXPECT_NE(with(R"({"a":"sub"})").find("a regular file"), std::string::npos);
  EXPECT_NE(with(R"({"a":1})").find("weight_map.a: expected a string, got 1"), std::string::npos);
  EXPECT_NE(with(R"([])").find("weight_map: expected an object"), std::string::npos);
  EXPECT_NE(with(R"({"x":"s1"})").find("tensor \"x\": expected it in this file, as the index says, got none"),
            std::string::npos);
  EXPECT_NE(with(R"({"a":"s2","b":"s1"})").find("expected it in this file"), std::string::npos);
  EXPECT_NE(with(R"({"a":"s1","b":"again"})").find("tensor \"a\": expected it once, got it in"), std::string::npos);
  EXPECT_NE(with(R"({"a":"s1","a":"s1"})").find("weight_map.a: expected each key once"), std::string::npos);
  EXPECT_NE(open("{}").find("weight_map: expected a value"), std::string::npos);
  EXPECT_NE(open("[]").find("expected an object"), std::string::npos);
  folder.write("s1", "broken");
  EXPECT_NE(with(R"({"a":"s1"})").find("s1: header: expected a safetensors file"), std::string::npos);
}

// ---- writing --------------------------------------------------------------------------------------------------------

std::vector<NamedTensor> of_every_type() {
  return {
      {"b.bf16", Tensor::arange(0, 6, 1, DType::bf16).reshape({2, 3}).eval()},
      {"a.f32", Tensor::from<float>({0, 0.5f, 1}, {3})},
      {"z.f32", Tensor::zeros({0, 4})},
      {"flags", Tensor::from(std::vector<bool>{true, false, true}, {3})},
      {"i", Tensor::scalar<std::int64_t>(-7)},
      {"d", Tensor::from<double>({1.5}, {1})},
      {"h", Tensor::from<f16>({f16(0.5f), f16(-2)}, {2})},
      {"i8", Tensor::from<std::int8_t>({-1}, {1})},
      {"u8", Tensor::from<std::uint8_t>({255}, {1})},
      {"i32", Tensor::from<std::int32_t>({1, -2}, {1, 2})},
      {"odd\"\n\x01\xc3\xa9", Tensor::from<float>({4}, {1})},
  };
}

TEST(SaveSafeTensors, WritesTheReferencesBytes) {
  const TempFolder folder;
  const Json expected = io_fixture("safetensors_written.json");
  auto tensors = of_every_type();
  save_safetensors(folder / "f", tensors);
  EXPECT_EQ(folder.read("f"), from_hex(expected.at("plain").as_string()));
  std::ranges::reverse(tensors);
  save_safetensors(folder / "f", tensors);
  EXPECT_EQ(folder.read("f"), from_hex(expected.at("plain").as_string()));
  save_safetensors(folder / "f", {{"w", Tensor::from<float>({1}, {1})}}, {{"format", "pt"}});
  EXPECT_EQ(folder.read("f"), from_hex(expected.at("with metadata").as_string()));
  EXPECT_EQ(folder.entries(), 1);
}

TEST(SaveSafeTensors, ReadsBackTheSame) {
  const TempFolder folder;
  const auto tensors = of_every_type();
  save_safetensors(folder / "f", tensors, {{"a", "1"}, {"", "\xc3\xa9\n"}});
  const auto file = SafeTensors::open(folder / "f");
  EXPECT_EQ(file.metadata(), (FileMetadata{{"a", "1"}, {"", "\xc3\xa9\n"}}));
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const Tensor back = file.load(name);
    EXPECT_EQ(back.dtype(), tensor.dtype());
    EXPECT_EQ(back.shape(), tensor.shape());
    EXPECT_EQ(back.to_f64(), tensor.to_f64());
  }
  save_safetensors(folder / "none", std::vector<NamedTensor>{});
  EXPECT_TRUE(SafeTensors::open(folder / "none").tensors().empty());
}

TEST(SaveSafeTensors, TakesViewsTreesAndSources) {
  const TempFolder folder;
  const Tensor m = Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3});
  const Tensor turned = transpose(m, 0, 1).eval();
  save_safetensors(folder / "view", {{"m", turned}});
  EXPECT_EQ(SafeTensors::open(folder / "view").load("m").to_vector<float>(), (std::vector<float>{1, 4, 2, 5, 3, 6}));
  save_safetensors(folder / "tree", ParamTree{{"m", m * 2}, {"n", m + 1}});
  EXPECT_EQ(SafeTensors::open(folder / "tree").load("m").to_vector<float>(), (std::vector<float>{2, 4, 6, 8, 10, 12}));
  EXPECT_EQ(SafeTensors::open(folder / "tree").load("n").to_vector<float>()[0], 2);
  save_safetensors(folder / "made", std::vector<TensorSource>{{"m", DType::f32, {2, 3}, [&] { return Tensor(m); }}});
  EXPECT_EQ(SafeTensors::open(folder / "made").load("m").to_vector<float>(), m.to_vector<float>());
  EXPECT_THROW(save_safetensors(folder / "made",
                                std::vector<TensorSource>{{"m", DType::f32, {3, 2}, [&] { return Tensor(m); }}}),
               UserError);
  EXPECT_EQ(SafeTensors::open(folder / "made").load("m").shape(), (Shape{2, 3}));  // the old file
  EXPECT_EQ(folder.entries(), 3);
}

TEST(SaveSafeTensors, RefusesBadNames) {
  const TempFolder folder;
  const Tensor x = Tensor::zeros({1});
  EXPECT_THROW(save_safetensors(folder / "f", {{"a", x}, {"a", x}}), UserError);
  EXPECT_THROW(save_safetensors(folder / "f", {{"a", x}, {"a", Tensor::zeros({1}, DType::i8)}}), UserError);
  EXPECT_THROW(save_safetensors(folder / "f", {{"\xff", x}}), UserError);
  EXPECT_THROW(save_safetensors(folder / "f", {{"__metadata__", x}}), UserError);
  EXPECT_THROW(save_safetensors(folder / "f", {{"a", x}}, {{"k", "\xff"}}), UserError);
  EXPECT_EQ(folder.entries(), 0);
}

TEST(SaveSafeTensors, EveryFailingCallLeavesTheOldFile) {
  const TempFolder folder;
  const auto tensors = of_every_type();
  folder.write("f", "old");
  int calls = 1;
  for (int nth = 1; nth <= calls; ++nth) {
    io::WriteFaults faults(nth, io::WriteFaults::Kind::error, ENOSPC);
    try {
      save_safetensors(folder / "f", tensors);
      calls = 0;
    } catch (const FileError&) {
      calls = nth + 1;
    }
    EXPECT_EQ(folder.entries(), 1);
    const bool replaced = folder.read("f") != "old";
    EXPECT_TRUE(replaced || calls > 0);
    if (replaced) {
      EXPECT_NO_THROW(SafeTensors::open(folder / "f"));
    }
    if (calls == 0) {
      EXPECT_GE(nth, 10);
    }
  }
}

}  // namespace
}  // namespace metal_candle
