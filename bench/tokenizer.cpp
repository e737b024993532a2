// Tokenizing on one thread, beside Hugging Face's tokenizers: bench_tokenizer TOKENIZER [TEXT]
//
// TOKENIZER is a tokenizer.json or a GGUF file. TEXT is a file; without one, 10 MB are made of this project's sources and
// of Chinese. The peer runs between our runs if METAL_CANDLE_PEERS_PYTHON names a Python that has the package.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "metal_candle/bundle.hpp"
#include "metal_candle/gguf.hpp"
#include "metal_candle/json.hpp"
#include "metal_candle/tokenizer.hpp"

namespace mc = metal_candle;
namespace fs = std::filesystem;

namespace {

std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string mixed_text() {
  std::vector<std::string> files;
  for (const char* folder : {"docs", "src", "include", "tests", "tools"}) {
    for (const auto& e : fs::recursive_directory_iterator(fs::path(METAL_CANDLE_BENCH_DIR).parent_path() / folder)) {
      const fs::path x = e.path().extension();
      if (e.is_regular_file() && (x == ".cpp" || x == ".h" || x == ".hpp" || x == ".md" || x == ".py" || x == ".sh"))
        files.push_back(content(e.path()));
    }
  }
  std::sort(files.begin(), files.end());
  std::mt19937 random(1);
  const auto chinese = [&random](std::string& out) {
    const unsigned c = 0x4E00 + random() % (random() % 4 ? 600 : 20000);
    for (const unsigned b : {0xE0 | c >> 12, 0x80 | (c >> 6 & 63), 0x80 | (c & 63)}) out += static_cast<char>(b);
  };
  std::string out;
  while (out.size() < 10'000'000) {
    const std::string& file = files[random() % files.size()];
    out += file.substr(file.rfind('\n', random() % file.size()) + 1, 4000);
    // What was cut may end within a character.
    while (!out.empty() && static_cast<unsigned char>(out.back()) >= 0x80) out.pop_back();
    for (int i = 0; i < 250; ++i) i % 25 == 24 ? void(out += "\u3002") : chinese(out);
    out += '\n';
  }
  return out;
}

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Runs the peer once; false if there is none.
bool run_peer(const std::string& tokenizer, const std::string& text, std::size_t& ids, double& whole, double& pieces) {
  const char* python = std::getenv("METAL_CANDLE_PEERS_PYTHON");
  if (!python) return false;
  const std::string command =
      fmt::format("'{}' '{}/peers/tokenize_work.py' '{}' '{}'", python, METAL_CANDLE_BENCH_DIR, tokenizer, text);
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return false;
  const bool good = std::fscanf(pipe, "%zu %lf %lf", &ids, &whole, &pieces) == 3;
  return pclose(pipe) == 0 && good;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) {
    fmt::print("bench_tokenizer TOKENIZER [TEXT]\n");
    return 2;
  }
  const fs::path folder = fs::temp_directory_path() / fmt::format("bench_tokenizer_{}", std::random_device()());
  fs::create_directory(folder);
  std::string path = argv[1], text_path = argc > 2 ? argv[2] : (folder / "text").string();
  if (argc <= 2) std::ofstream(text_path, std::ios::binary) << mixed_text();
  if (path.ends_with(".gguf")) {
    std::ofstream(folder / "tokenizer.json") << mc::tokenizer_json(mc::Gguf::open(path)).dump();
    path = (folder / "tokenizer.json").string();
  }
  const double begin = seconds();
  const mc::Tokenizer tokenizer = mc::Tokenizer::load(path);
  fmt::print("load {:.1f} ms\n", (seconds() - begin) * 1e3);
  const std::string text = content(text_path);
  double best = 1e30, whole = 1e30, pieces = 1e30;
  for (int round = 0; round < 3; ++round) {
    const double start = seconds();
    const std::size_t ours = tokenizer.encode(text, {.add_special_tokens = false}).size();
    best = std::min(best, seconds() - start);
    std::size_t theirs = ours;
    double a = 1e30, b = 1e30;
    if (run_peer(path, text_path, theirs, a, b) && theirs != ours)
      fmt::print("the peer has {} tokens, we have {}\n", theirs, ours);
    whole = std::min(whole, a);
    pieces = std::min(pieces, b);
  }
  const double mb = static_cast<double>(text.size()) / 1e6;
  fmt::print("{:.1f} MB: {:.1f} MB/s\n", mb, mb / best);
  if (whole < 1e30)
    fmt::print("tokenizers: encode {:.2f} MB/s ({:.1f} x), encode_batch_fast in pieces {:.2f} MB/s ({:.1f} x)\n",
               mb / whole, whole / best, mb / pieces, pieces / best);
  fs::remove_all(folder);
} catch (const std::exception& e) {
  fmt::print(stderr, "{}\n", e.what());
  return 1;
}
