// Text into tokens on one thread, beside Hugging Face's tokenizers in a process of its own: 10 MB of this project's
// sources and of Chinese. Of the peer's two ways the faster one, in
// pieces, counts; full mode runs the other as well.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <metal_candle/bundle.hpp>
#include <metal_candle/gguf.hpp>
#include <metal_candle/json.hpp>
#include <metal_candle/tokenizer.hpp>
#include <random>

#include "suite/ours.h"
#include "suite/suite.h"

namespace bench {
namespace {

namespace fs = std::filesystem;

std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> sources() {
  std::vector<std::string> files;
  for (const char* folder : {"docs", "src", "include", "tests", "tools"}) {
    for (const auto& e : fs::recursive_directory_iterator(fs::path(METAL_CANDLE_BENCH_DIR).parent_path() / folder)) {
      const fs::path x = e.path().extension();
      if (e.is_regular_file() && (x == ".cpp" || x == ".h" || x == ".hpp" || x == ".md" || x == ".py" || x == ".sh"))
        files.push_back(content(e.path()));
    }
  }
  std::erase_if(files, [](const std::string& f) { return f.empty(); });
  std::sort(files.begin(), files.end());
  return files;
}

std::string mixed_text() {
  const std::vector<std::string> files = sources();
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

struct Folder {
  fs::path path = fs::temp_directory_path() / fmt::format("mc_tokenize_{}", getpid());
  Folder() { fs::create_directory(path); }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

}  // namespace

void tokenize(Suite& suite) {
  Row row{"tokenize", "10 MB of text, one thread"};
  if (suite.options.model.empty()) {
    suite.report.add(row.note("no model: METAL_CANDLE_BENCH_MODEL names none (tools/fetch_model.sh fetches one)"));
    return;
  }
  const Folder folder;
  const std::string text = mixed_text();
  std::ofstream(folder.path / "text", std::ios::binary) << text;
  // The peer reads what we make of the GGUF file's vocabulary, and so do we.
  std::ofstream(folder.path / "tokenizer.json") << mc::tokenizer_json(mc::Gguf::open(suite.options.model)).dump();
  const mc::Tokenizer tokenizer = mc::Tokenizer::load(folder.path / "tokenizer.json");
  std::size_t ids = 0;
  Contest contest(suite);
  contest.local("ours", [&] { ids = tokenizer.encode(text, {.add_special_tokens = false}).size(); });
  contest.peer({.kind = PeerKind::tokenizers, .label = "pieces"}, "pieces:" + folder.path.string());
  if (suite.options.full)
    contest.peer({.kind = PeerKind::tokenizers, .label = "whole"}, "whole:" + folder.path.string());
  contest.run();
  row.name = fmt::format("{:.1f} MB, {}, one thread", static_cast<double>(text.size()) * 1e-6,
                         fs::path(suite.options.model).stem().string());
  contest.describe(row);
  row.add("rate", static_cast<double>(text.size()) / contest.seconds("ours") * 1e-6, "MB/s");
  row.add("tokens", static_cast<double>(ids));
  if (const auto best = contest.fastest("tokenizers"); !best.empty())
    row.at_least("x " + best, contest.ratio("ours", best), 1.5);
  suite.report.add(std::move(row));
}

}  // namespace bench
