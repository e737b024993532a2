// Sentence embeddings, text in and vectors out: 1,000 texts of mixed length and one query, beside sentence-transformers,
// ONNX Runtime and the bare matrix products. The model is all-MiniLM-L6-v2, or METAL_CANDLE_EMBED_MODEL.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <metal_candle/embeddings.hpp>

#include "suite/mixed_texts.h"
#include "suite/needed.h"

namespace bench {
namespace {

namespace fs = std::filesystem;

constexpr int kTexts = 1000;
const char* const kQuery = "how do I turn off the lights in the kitchen";

fs::path model_folder() {
  const char* named = std::getenv("METAL_CANDLE_EMBED_MODEL");
  return named && *named ? fs::path(named) : fs::path(METAL_CANDLE_BENCH_DIR "/../build/models/all-MiniLM-L6-v2");
}

std::string write_lines(const fs::path& file, const std::vector<std::string>& lines) {
  std::ofstream out(file);
  for (const std::string& line : lines) out << line << '\n';
  return file.string();
}

/// What a folder's config.json says of an encoder in BERT's manner.
struct Encoder {
  std::int64_t width, inner, layers, heads;

  explicit Encoder(const fs::path& folder) {
    const mc::Json json = mc::Json::load(folder / "config.json");
    width = json.at("hidden_size").positive();
    inner = json.at("intermediate_size").positive();
    layers = json.at("num_hidden_layers").positive();
    heads = json.at("num_attention_heads").positive();
  }
};

/// Products with weights, over all tokens in passes of `pass`.
std::vector<Needed> weight_products(const Encoder& e, std::int64_t tokens, std::int64_t pass, mc::DType t) {
  std::vector<Needed> all;
  const std::int64_t whole = tokens / pass;
  const auto add = [&](const char* name, std::int64_t in, std::int64_t out) {
    all.push_back({name, {pass, out, in, t, true}, static_cast<double>(whole * e.layers)});
    if (tokens % pass) all.push_back({name, {tokens % pass, out, in, t, true}, static_cast<double>(e.layers)});
  };
  add("q,k,v", e.width, 3 * e.width);
  add("out", e.width, e.width);
  add("up", e.width, e.inner);
  add("down", e.inner, e.width);
  return all;
}

/// Attention's, with all texts of one length as one batch.
std::vector<Needed> attention_products(const Encoder& e, const std::vector<std::int64_t>& lengths, mc::DType t) {
  std::map<std::int64_t, std::int64_t> texts;
  for (const std::int64_t n : lengths) ++texts[n];
  std::vector<Needed> all;
  for (const auto& [n, count] : texts) {
    const auto times = static_cast<double>(e.layers);
    all.push_back({"qk'", {n, n, e.width / e.heads, t, false, false, true, count * e.heads}, times});
    all.push_back({"pv", {n, e.width / e.heads, n, t, false, false, false, count * e.heads}, times});
  }
  return all;
}

/// All of them, each as often as it is needed, by whichever GEMM is faster at its shape.
std::function<void()> bare(const std::vector<Needed>& products) {
  std::vector<std::pair<std::function<void()>, int>> all;
  for (const Needed& need : products) {
    auto own = own_product(need.product), onednn = onednn_product(need.product);
    constexpr double kTry = 0.005;
    const double own_time = median_call(own, kTry);
    if (onednn) onednn();
    const double begin = now();
    if (onednn) onednn();  // one call says enough of those that are many times slower
    if (onednn && now() - begin < 2 * own_time && median_call(onednn, kTry) < own_time) own = std::move(onednn);
    all.emplace_back(std::move(own), static_cast<int>(need.times));
  }
  return [all = std::move(all)] {
    for (const auto& [product, times] : all)
      for (int i = 0; i < times; ++i) product();
  };
}

struct Work {
  fs::path folder;
  std::vector<std::string> texts;
  std::string file, query_file;
  std::vector<std::int64_t> lengths;
  std::int64_t tokens = 0;
};

void add_peers(Contest& contest, const Work& work, const std::string& file, const std::string& dtype, int batch) {
  const std::string name = fmt::format("embed:{}:{}:{}:{}", work.folder.string(), file, dtype, batch);
  contest.peer({.kind = PeerKind::sentence_transformers}, name);  // reusing its heap changes nothing here
  contest.peer({.kind = PeerKind::onnxruntime}, name);
}

void many(Suite& suite, const Work& work, const mc::EmbeddingModel& model, mc::DType dtype) {
  const Encoder encoder(work.folder);
  const auto ours = [&] { model.embed(work.texts); };
  Contest contest(suite);
  contest.local("ours", ours);
  contest.local("its products with weights",
                bare(weight_products(encoder, work.tokens, mc::EmbedOptions{}.batch_tokens, dtype)));
  contest.local("its products of attention", bare(attention_products(encoder, work.lengths, dtype)));
  add_peers(contest, work, work.file, dtype_name(dtype), 32);
  contest.run();
  Row row{"embeddings", fmt::format("{} texts, {} tokens, MiniLM-L6, {}", kTexts, work.tokens, dtype_name(dtype))};
  contest.describe(row);
  row.add("texts a second", kTexts / contest.seconds("ours"));
  std::string best = contest.fastest("sentence-transformers");
  if (contest.has("onnxruntime") && contest.seconds("onnxruntime") < contest.seconds(best)) best = "onnxruntime";
  if (!best.empty()) row.at_least("x " + best, contest.ratio("ours", best), dtype == mc::DType::f32 ? 1.25 : 1.5);
  row.at_most("of its matmuls",
              contest.seconds("ours") /
                  (contest.seconds("its products with weights") + contest.seconds("its products of attention")),
              1.25);
  suite.report.add(row.note(longest_kernels(ours)));
}

void one(Suite& suite, const Work& work, const mc::EmbeddingModel& model, mc::DType dtype) {
  const std::vector<std::string> query{kQuery};
  Contest contest(suite);
  contest.local("ours", [&] { model.embed(query); });
  add_peers(contest, work, work.query_file, dtype_name(dtype), 1);
  contest.run();
  Row row{"embeddings", fmt::format("one query, MiniLM-L6, {}", dtype_name(dtype))};
  contest.describe(row);
  if (const auto best = contest.fastest("sentence-transformers"); !best.empty())
    row.at_least("x " + best, contest.ratio("ours", best), 5);
  suite.report.add(row);
}

void section(Suite& suite, mc::DType dtype) {
  Work work{.folder = model_folder(), .texts = mixed_texts(kTexts), .file = {}, .query_file = {}, .lengths = {}};
  if (!fs::exists(work.folder / "config.json")) {
    suite.report.add(Row{"embeddings", "left out"}.note(
        fmt::format("{} is not there: `tools/fetch_model.sh encoder` fetches it", work.folder.string())));
    return;
  }
  work.file = write_lines(suite.options.json + ".texts.txt", work.texts);
  work.query_file = write_lines(suite.options.json + ".query.txt", {kQuery});
  const mc::EmbeddingModel model = mc::EmbeddingModel::load(work.folder, {.dtype = dtype});
  for (const auto& ids : mc::Tokenizer::load(work.folder).encode_batch(work.texts)) {
    work.lengths.push_back(std::min(static_cast<std::int64_t>(ids.size()), model.max_tokens()));
    work.tokens += work.lengths.back();
  }
  one(suite, work, model, dtype);
  many(suite, work, model, dtype);
  suite.peers.stop();
}

}  // namespace

void embeddings(Suite& suite) { section(suite, mc::DType::f32); }
void embeddings_bf16(Suite& suite) { section(suite, mc::DType::bf16); }

}  // namespace bench
