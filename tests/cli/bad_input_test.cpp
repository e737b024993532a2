// Bad input as a user meets it: every kind of file cut short, emptied, mixed up with another, at odds with itself, or
// absurdly large. Each is an error with the documented code that names the file, and nothing that was there changes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "metal_candle/safetensors.hpp"
#include "tests/cli/command.h"

namespace metal_candle::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// Names and contents of a folder's files.
std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file() && entry.file_size() < (1u << 28)) out[entry.path().string()] = text_of(entry.path());
  return out;
}

/// A fresh copy of a folder.
fs::path copy_of(const fs::path& folder, const std::string& name) {
  fs::path to = playground() / name;
  fs::remove_all(to);
  fs::copy(folder, to, fs::copy_options::recursive);
  return to;
}

/// The line fails with a code of the table for bad files, its message names the file, and nothing changes in `kept`.
void expect_refusal(const std::vector<std::string>& line, const std::string& file, const std::string& what,
                    const fs::path& kept) {
  const auto before = contents(kept);
  const Ran ran = command(line);
  SCOPED_TRACE(line[0] + ": " + file + " " + what + "\n" + ran.err);
  EXPECT_THAT(ran.code, testing::AnyOf(65, 66, 71, 73, 74));
  EXPECT_THAT(ran.err, HasSubstr(file));
  EXPECT_LT(ran.err.size(), 4000u);
  EXPECT_EQ(ran.out, "");
  EXPECT_TRUE(contents(kept) == before) << "something changed";
}

struct Damage {
  std::string what, bytes;
};

/// What may happen to any file.
std::vector<Damage> damages(const std::string& good, bool text) {
  std::vector<Damage> out{
      {"is empty", ""},
      {"is an ELF program",
       "\x7f"
       "ELF\x02\x01\x01" +
           std::string(100, '\0')},
      {"is a web page", "<!DOCTYPE html><html><body>404</body></html>"},
      {"is a pointer of Git LFS", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"},
      {"is zeros", std::string(4096, '\0')},
      {"is all ones", std::string(64, '\xff')}};
  for (const double part : {0.01, 0.3, 0.6, 0.9})
    out.push_back({"ends at " + std::to_string(part),
                   good.substr(0, static_cast<std::size_t>(part * static_cast<double>(good.size())))});
  out.push_back({"lacks its last byte", good.substr(0, good.find_last_not_of(" \n"))});
  if (text) {
    out.push_back({"is a list", "[]"});
    out.push_back({"is a number", "5"});
    out.push_back({"is deep", std::string(100'000, '[')});
    out.push_back({"is not UTF-8", "{\"\xff\": 1}"});
  }
  return out;
}

TEST(BadInput, FilesOfAModel) {
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    const fs::path folder = copy_of(model(), "bad-model");
    const std::string good = text_of(folder / name);
    for (const Damage& d : damages(good, fs::path(name).extension() == ".json")) {
      write(folder / name, d.bytes);
      expect_refusal({"score", "--model", folder.string(), "--text", "a"}, name, d.what, folder);
    }
    fs::remove(folder / name);
    expect_refusal({"score", "--model", folder.string(), "--text", "a"}, folder.string(), "is gone", folder);
    fs::create_directory(folder / name);
    expect_refusal({"score", "--model", folder.string(), "--text", "a"}, name, "is a folder", folder);
  }
}

/// Members put in place of a file's own.
using Change = std::pair<const char*, const char*>;

void expect_members_refused(const fs::path& folder, const char* name, const std::vector<Change>& changes,
                            const std::vector<std::string>& line) {
  const Json good = Json::load(folder / name);
  for (const auto& [key, value] : changes) {
    Json bad = good;
    bad.set(key, Json::parse(value, "value"));
    write(folder / name, bad.dump());
    expect_refusal(line, name, std::string(key) + " = " + value, folder);
    const Ran ran = command(line);
    EXPECT_EQ(ran.code, 65) << key << " = " << value;
    EXPECT_THAT(ran.err, HasSubstr(key)) << key << " = " << value;
  }
  write(folder / name, good.dump());
}

TEST(BadInput, ConfigurationsAtOddsWithThemselves) {
  const fs::path folder = copy_of(model(), "bad-model");
  expect_members_refused(folder, "config.json",
                         {{"model_type", "\"mystery\""},
                          {"model_type", "5"},
                          {"hidden_size", "-1"},
                          {"hidden_size", "0"},
                          {"hidden_size", "\"32\""},
                          {"hidden_size", "9223372036854775807"},
                          {"num_hidden_layers", "0"},
                          {"num_hidden_layers", "1e9"},
                          {"num_attention_heads", "0"},
                          {"num_attention_heads", "2.5"},
                          {"num_key_value_heads", "3"},
                          {"intermediate_size", "-5"},
                          {"vocab_size", "18446744073709551616"},
                          {"vocab_size", "null"},
                          {"head_dim", "7"},
                          {"rms_norm_eps", "\"small\""},
                          {"max_position_embeddings", "0"},
                          {"rope_scaling", "{\"rope_type\": \"mystery\", \"factor\": 2}"},
                          {"tie_word_embeddings", "\"yes\""},
                          {"eos_token_id", "\"end\""}},
                         {"score", "--model", folder.string(), "--text", "a"});
  // Sizes that are none of the weights': the tensor is named.
  for (const Change& c : {Change{"hidden_size", "64"}, Change{"intermediate_size", "65"}, Change{"vocab_size", "7"}}) {
    Json config = Json::load(folder / "config.json");
    config.set(c.first, Json::parse(c.second, "value"));
    const fs::path other = copy_of(model(), "bad-sizes");
    write(other / "config.json", config.dump());
    expect_refusal({"score", "--model", other.string(), "--text", "a"}, "model.safetensors", c.first, other);
  }
}

TEST(BadInput, FilesOfAnAdapter) {
  const std::string out = (playground() / "adapter-source").string();
  const std::string rows = (playground() / "train.jsonl").string();
  ASSERT_EQ(command({"train", "--model", model(), "--data", rows, "--output", out, "--steps", "1", "--rank", "2"}).code,
            0);
  const fs::path folder = copy_of(out, "bad-adapter");
  fs::remove_all(folder / "checkpoints");
  const std::string merged = (playground() / "never").string();
  const std::vector<std::string> line = {"merge", "--model", model(), "--adapter", folder.string(), "--output", merged};
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
    const std::string good = text_of(folder / name);
    for (const Damage& d : damages(good, fs::path(name).extension() == ".json")) {
      write(folder / name, d.bytes);
      expect_refusal(line, name, d.what, folder);
      EXPECT_FALSE(fs::exists(merged)) << name << " " << d.what;
    }
    write(folder / name, good);
  }
  expect_members_refused(folder, "adapter_config.json",
                         {{"r", "0"},
                          {"r", "-3"},
                          {"r", "\"two\""},
                          {"r", "99999999999999999999"},
                          {"lora_alpha", "\"x\""},
                          {"target_modules", "5"},
                          {"target_modules", "\"(\""},
                          {"use_dora", "true"},
                          {"peft_type", "\"IA3\""},
                          {"rank_pattern", "5"}},
                         line);
}

// ---- a model in shards ----------------------------------------------------------------------------------------------

constexpr const char* kIndex = "model.safetensors.index.json";

/// The model with its weights in two files and an index.
fs::path sharded(const std::string& name) {
  fs::path folder = copy_of(model(), name);
  std::vector<NamedTensor> shards[2];
  Json map = Json::object({});
  {
    const SafeTensors whole = SafeTensors::open(folder / "model.safetensors");
    for (const TensorInfo& t : whole.tensors()) {
      const bool second = t.name.find("layers.1") != std::string::npos;
      shards[second].emplace_back(t.name, whole.load(t.name).copy());
      map.set(t.name, second ? "b.safetensors" : "a.safetensors");
    }
  }
  fs::remove(folder / "model.safetensors");
  save_safetensors(folder / "a.safetensors", shards[0]);
  save_safetensors(folder / "b.safetensors", shards[1]);
  write(folder / kIndex, Json::object({{"metadata", Json::object({})}, {"weight_map", map}}).dump());
  return folder;
}

TEST(BadInput, ModelsInShards) {
  const fs::path folder = sharded("bad-shards");
  const std::vector<std::string> line = {"score", "--model", folder.string(), "--text", "a", "--json"};
  const Ran good = command(line);
  ASSERT_EQ(good.code, 0) << good.err;
  EXPECT_EQ(good.out, command({"score", "--model", model(), "--text", "a", "--json"}).out);
  for (const char* name : {kIndex, "a.safetensors", "b.safetensors"}) {
    const std::string bytes = text_of(folder / name);
    for (const Damage& d : damages(bytes, name == kIndex)) {
      write(folder / name, d.bytes);
      expect_refusal(line, name, d.what, folder);
    }
    fs::remove(folder / name);
    expect_refusal(line, name == kIndex ? folder.string() : name, "is gone", folder);
    write(folder / name, bytes);
  }
  expect_members_refused(folder, kIndex, {{"weight_map", "5"}, {"weight_map", "[\"a\"]"}}, line);
  // One tensor said to be elsewhere: in the other shard, in a file that is none, outside the folder.
  const Json index = Json::load(folder / kIndex);
  for (const char* place : {"\"b.safetensors\"", "\"c.safetensors\"", "\"../a.safetensors\"", "5", "\"\"", "null"}) {
    Json map = index.at("weight_map"), changed = index;
    map.set("model.norm.weight", Json::parse(place, "place"));
    changed.set("weight_map", map);
    write(folder / kIndex, changed.dump());
    expect_refusal(line, folder.string(), place, folder);
    EXPECT_THAT(command(line).err, testing::AnyOf(HasSubstr("model.norm.weight"), HasSubstr("c.safetensors: cannot")))
        << place;
  }
}

// ---- settings of a training -----------------------------------------------------------------------------------------

TEST(BadInput, ConfigurationsOfATraining) {
  const fs::path file = playground() / "bad.toml";
  const std::string rows = (playground() / "train.jsonl").string(), out = (playground() / "never-trained").string();
  const std::vector<std::string> line = {"train",    "--model", model(),   "--data",   rows,
                                         "--output", out,       "--quiet", "--config", file.string()};
  const std::pair<std::string, const char*> texts[] = {
      {"rank = ", "line 1"},
      {"\n\nrank = 1\nrank = 2", "line 4"},
      {"rank == 1", "line 1"},
      {"\xff\xfe", "line 1"},
      {std::string("\x7f"
                   "ELF\0\0",
                   6),
       "line 1"},
      {"{\"rank\": 1}", "line 1"},
      {"rank = " + std::string(100'000, '['), "line 1"},
      {"rank = 99999999999999999999", "line 1"},
      {"lerning-rate = 1", "did you mean learning-rate"},
      {"[train]\nrank = 1", "train"},
      {"rank = [1]", "rank"},
      {"rank = 2026-11-21", "rank"},
      {"rank = \"two\"", "--rank: expected a whole number, got \"two\""},
      {"rank = 0", "--rank: expected a whole number from 1 to 65536, got \"0\""},
      {"learning-rate = -1", "--learning-rate: expected a number of at least 0, got \"-1\""},
      {"learning-rate = nan", "--learning-rate"},
      {"dropout = 1.5", "--dropout"},
      {"schedule = \"zigzag\"", "--schedule: expected constant|linear|cosine"},
      {"resume = \"maybe\"", "--resume: expected true or false"}};
  for (const auto& [text, said] : texts) {
    write(file, text);
    expect_refusal(line, "bad.toml", text.substr(0, 40), playground() / "model");
    const Ran ran = command(line);
    EXPECT_EQ(ran.code, 65) << text.substr(0, 40);
    EXPECT_THAT(ran.err, HasSubstr(said));
    EXPECT_FALSE(fs::exists(out)) << text.substr(0, 40);
  }
  fs::remove(file);
  expect_refusal(line, "bad.toml", "is gone", playground() / "model");
  fs::create_directory(file);
  expect_refusal(line, "bad.toml", "is a folder", playground() / "model");
  const Ran ran = command({"train", "--model", model(), "--data", rows, "--output", out}, {"METAL_CANDLE_RANK=0"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_THAT(ran.err, HasSubstr("METAL_CANDLE_RANK: --rank: expected a whole number from 1"));
}

TEST(BadInput, AdaptersOfMlx) {
  const fs::path folder = playground() / "bad-mlx";
  fs::create_directories(folder);
  const auto tensors = [&](const char* a, const Shape& shape_a, const char* b, const Shape& shape_b) {
    save_safetensors(folder / "adapters.safetensors", {{a, Tensor::ones(shape_a)}, {b, Tensor::ones(shape_b)}});
  };
  const char *a = "model.layers.0.self_attn.q_proj.lora_a", *b = "model.layers.0.self_attn.q_proj.lora_b";
  const std::string settings = R"({"fine_tune_type": "lora", "lora_parameters": {"scale": 2.0}, "model": "some/base"})";
  const std::vector<std::string> line = {"score", "--model", model(), "--adapter", folder.string(), "--text", "a"};
  tensors(a, {32, 2}, b, {2, 32});
  write(folder / "adapter_config.json", settings);
  ASSERT_EQ(command(line).code, 0) << command(line).err;
  for (const char* name : {"adapter_config.json", "adapters.safetensors"}) {
    const std::string bytes = text_of(folder / name);
    for (const Damage& d : damages(bytes, fs::path(name).extension() == ".json")) {
      write(folder / name, d.bytes);
      expect_refusal(line, name, d.what, folder);
    }
    write(folder / name, bytes);
  }
  expect_members_refused(folder, "adapter_config.json",
                         {{"fine_tune_type", "\"full\""}, {"fine_tune_type", "5"}, {"lora_parameters", "5"}}, line);
  write(folder / "adapter_config.json", R"({"lora_parameters": {"scale": "big"}})");
  expect_refusal(line, "adapter_config.json", "scale", folder);
  write(folder / "adapter_config.json", settings);
  const auto expect_tensors_refused = [&](const char* what, const char* said) {
    expect_refusal(line, "adapters.safetensors", what, folder);
    EXPECT_THAT(command(line).err, HasSubstr(said)) << what;
  };
  tensors(a, {64, 2}, b, {2, 32});
  expect_tensors_refused("of a wider model", "made for \"some/base\"; this model: llama, 2 layers, 32 wide");
  tensors(a, {32, 2}, b, {3, 32});
  expect_tensors_refused("of two ranks", "lora_b");
  tensors(a, {2}, b, {2, 32});
  expect_tensors_refused("of one axis", "lora_a");
  tensors(a, {32, 0}, b, {0, 32});
  expect_tensors_refused("of rank 0", "lora_a");
  tensors(a, {32, 2}, "model.layers.0.self_attn.k_proj.lora_b", {2, 16});
  expect_tensors_refused("without its b", "q_proj.lora_b");
  tensors("model.layers.9.self_attn.q_proj.lora_a", {32, 2}, "model.layers.9.self_attn.q_proj.lora_b", {2, 32});
  expect_tensors_refused("of a deeper model", "model.layers.9");
}

TEST(BadInput, MessagesThatSayWhatToDo) {
  const std::string good = (playground() / "train.jsonl").string(), out = (playground() / "never-trained").string();
  const auto says = [](const std::vector<std::string>& line, int code, const std::string& what) {
    const Ran ran = command(line);
    EXPECT_EQ(ran.code, code) << what;
    EXPECT_THAT(ran.err, testing::HasSubstr(what));
  };
  says({"score", "--model", model() + "/model.safetensors", "--text", "a"}, 65, "a part of a model");
  says({"merge", "--model", model(), "--adapter", "x", "--output", ""}, 2, "--output: expected a folder, got none");
  says({"train", "--model", model(), "--data", good, "--output", out, "--target-modules", "all-linear,lm_head"}, 2,
       "all-linear is a word that stands alone");
  const fs::path pickled = playground() / "pickled", config = playground() / "twice.toml";
  fs::copy(model(), pickled, fs::copy_options::recursive);
  fs::rename(pickled / "model.safetensors", pickled / "pytorch_model.bin");
  says({"score", "--model", pickled.string(), "--text", "a"}, 65, "a pickle, which could run any code");
  std::ofstream(config) << "batch-size = 2\nbatch_size = 3\n";
  says({"train", "--model", model(), "--data", good, "--output", out, "--config", config.string()}, 65,
       "is there twice");
  std::ofstream(config) << "device = \"cuda\"\n";
  says({"train", "--model", model(), "--data", good, "--output", out, "--config", config.string()}, 69, "twice.toml: ");
  // A pipe is a file, too.
  const Ran piped = shell("devices >/dev/null; echo 'rank = 3' | " METAL_CANDLE_COMMAND " train --model " + model() +
                          " --data " + good + " --output " + out + " --print-config --config /dev/stdin");
  EXPECT_EQ(piped.code, 0) << piped.err;
  EXPECT_THAT(piped.out, testing::HasSubstr("rank = 3"));
}

TEST(BadInput, RowsOfData) {
  const fs::path file = playground() / "bad.jsonl";
  const std::string out = (playground() / "never-trained").string();
  const std::pair<const char*, const char*> rows[] = {{"", "at least one row"},
                                                      {"{\"text\": \"a\"}\n{\"text\": 5}", ":2"},
                                                      {"{\"text\": \"a\"}\nnull", ":2"},
                                                      {"{\"text\": \"a\"}\n{\"text\": \"b\"", ":2"},
                                                      {"{\"prompt\": \"a\"}", ":1"},
                                                      {"{\"completion\": \"a\"}", ":1"},
                                                      {"{\"messages\": []}", ":1"},
                                                      {"{\"messages\": [{\"role\": \"user\"}]}", ":1"},
                                                      {"{\"messages\": [5]}", ":1"},
                                                      {"{\"txt\": \"a\"}", ":1"},
                                                      {"{\"text\": \"\\ud800\"}", ":1"},
                                                      {"{\"text\": \"\xff\"}", ":1"},
                                                      {"[[[[", ":1"},
                                                      {"{\"text\": \"a\", \"text\": \"b\"}", ":1"}};
  for (const auto& [row, where] : rows) {
    write(file, std::string(row) + "\n");
    const std::vector<std::string> line = {"train",    "--model", model(),   "--data", file.string(),
                                           "--output", out,       "--steps", "1"};
    expect_refusal(line, "bad.jsonl", row, playground() / "model");
    EXPECT_THAT(command(line).err, HasSubstr(where)) << row;
    EXPECT_FALSE(fs::exists(out)) << row;
  }
}

TEST(BadInput, GgufFilesAndWhatIsNone) {
  const fs::path file = playground() / "bad.gguf";
  const std::string out = (playground() / "never-converted").string();
  const std::string good = text_of(METAL_CANDLE_TESTS_DIR "/fixtures/io/small.gguf");
  std::vector<Damage> all = damages(good, false);
  all.push_back({"is of version 9", std::string("GGUF\x09\0\0\0", 8) + good.substr(8)});
  all.push_back({"is big-endian", std::string("GGUF\0\0\0\x03", 8) + good.substr(8)});
  all.push_back({"counts 2^60 tensors", good.substr(0, 8) + std::string("\0\0\0\0\0\0\0\x10", 8) + good.substr(16)});
  all.push_back({"counts 2^60 entries", good.substr(0, 16) + std::string("\0\0\0\0\0\0\0\x10", 8) + good.substr(24)});
  all.push_back({"has no architecture that is known", good});
  for (const Damage& d : all) {
    write(file, d.bytes);
    expect_refusal({"convert", "--model", file.string(), "--output", out}, "bad.gguf", d.what, playground() / "model");
    EXPECT_FALSE(fs::exists(out)) << d.what;
  }
}

/// A disk of so many pages, while it lives.
struct Disk {
  fs::path path = playground() / "disk";
  bool mounted;
  explicit Disk(int pages) {
    fs::create_directories(path);
    mounted = mount("tmpfs", path.c_str(), "tmpfs", 0, ("size=" + std::to_string(4 * pages) + "k").c_str()) == 0;
  }
  ~Disk() {
    if (mounted) umount(path.c_str());
  }
};

TEST(BadInput, AFullDiskIsSaidAndLeavesNothingHalf) {
  const std::string rows = (playground() / "train.jsonl").string(), adapter = (playground() / "full-adapter").string();
  ASSERT_EQ(
      command({"train", "--model", model(), "--data", rows, "--output", adapter, "--steps", "1", "--rank", "1"}).code,
      0);
  {
    const Disk disk(8);
    if (!disk.mounted) GTEST_SKIP() << "needs the right to mount";
    const std::string out = (disk.path / "merged").string();
    const Ran merged = command({"merge", "--model", model(), "--adapter", adapter, "--output", out});
    EXPECT_EQ(merged.code, 74) << merged.err;
    EXPECT_THAT(merged.err, HasSubstr("No space left"));
    EXPECT_TRUE(fs::is_empty(disk.path)) << "something was left";
  }
  const Disk disk(24);
  const std::string out = (disk.path / "run").string();
  const Ran trained = command({"train", "--model", model(), "--data", rows, "--output", out, "--steps", "40", "--rank",
                               "2", "--save-every", "1", "--json"});
  EXPECT_THAT(trained.code, testing::AnyOf(73, 74)) << trained.err;
  for (const auto& entry : fs::recursive_directory_iterator(disk.path))
    EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
}

TEST(BadInput, AHugeFileIsNotRead) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers want all addresses";
#endif
  const fs::path folder = copy_of(model(), "bad-model");
  for (const char* name : {"model.safetensors", "config.json", "tokenizer.json"}) {
    const std::string good = text_of(folder / name);
    fs::resize_file(folder / name, std::uintmax_t{1} << 40);
    const Ran ran = shell("devices > /dev/null; (ulimit -v 4000000; " METAL_CANDLE_COMMAND " score --model " +
                          folder.string() + " --text a)");
    EXPECT_EQ(ran.code, 71) << name << ran.err;  // there are no addresses for it
    EXPECT_THAT(ran.err, HasSubstr(name));
    write(folder / name, good);
  }
}

}  // namespace
}  // namespace metal_candle::test
