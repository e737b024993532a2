// SearchIndex: a safetensors file of unit vectors beside a corpus, scanned whole for every query.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <queue>

#include "io/files.h"
#include "metal_candle/embedding_files.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/ops.hpp"
#include "metal_candle/safetensors.hpp"
#include "metal_candle/search.hpp"
#include "training/hash.h"

namespace metal_candle {

struct SearchIndex::State {
  EmbeddingModel model;
  std::filesystem::path path;  // of the corpus
  std::shared_ptr<const io::MappedFile> corpus;
  bool jsonl = false, made = false;
  Tensor vectors, begins;  // [n, width] f32, [n] i64

  /// False: what the index holds is not of this corpus's lines.
  bool read(const std::filesystem::path& index);
};

namespace {

namespace fs = std::filesystem;

constexpr const char* kKind = "metal-candle search index 1";
constexpr std::string_view kAnyKind = "metal-candle search index";
constexpr std::int64_t kScanned = 8192;  // rows whose scores exist at a time

std::string hash_of(const io::MappedFile& file) {
  return fmt::format("{:016x}", training::Hash().add(file.bytes()).value());
}

/// The prompt for one side: the first of these names that the model has.
EmbedOptions options_for(const EmbeddingModel& model, std::initializer_list<const char*> names, std::int64_t batch) {
  EmbedOptions options{.batch_tokens = batch};
  for (const char* name : names)
    if (!options.prompt_name && model.prompts().contains(name)) options.prompt_name = name;
  return options;
}

FileMetadata stamp(const EmbeddingModel& model, const io::MappedFile& corpus) {
  return {{"kind", kKind},
          {"corpus", hash_of(corpus)},
          {"model", fmt::format("{:016x}", model.fingerprint())},
          {"width", std::to_string(model.width())}};
}

/// Scaled to length 1, so that a product is a cosine.
void scale(std::span<float> row) {
  double sum = 0;
  for (const float x : row) sum += static_cast<double>(x) * static_cast<double>(x);
  if (sum <= 0) return;
  const double factor = 1 / std::sqrt(sum);
  for (float& x : row) x = static_cast<float>(static_cast<double>(x) * factor);
}

/// Header, padded to a size known before the number of rows is; rows; where they begin.
std::string header(std::int64_t rows, std::int64_t width, const FileMetadata& metadata) {
  constexpr std::size_t kSize = 1024, kLength = 8;
  Json about = Json::object({{"kind", kKind}});  // first: by it a damaged file is known
  for (const auto& [key, value] : metadata) about.set(key, value);
  const auto end = static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(width) * sizeof(float);
  std::string head(kLength, '\0');
  for (std::size_t i = 0; i < kLength; ++i) head[i] = static_cast<char>((kSize - kLength) >> (8 * i) & 0xff);
  head += fmt::format(R"({{"__metadata__":{},"vectors":{{"dtype":"F32","shape":[{},{}],"data_offsets":[0,{}]}},)"
                      R"("begins":{{"dtype":"I64","shape":[{}],"data_offsets":[{},{}]}}}})",
                      about.dump(), rows, width, end, rows, end,
                      end + static_cast<std::uint64_t>(rows) * sizeof(std::int64_t));
  if (head.size() > kSize) throw InternalError("the header of an index is too long");
  head.resize(kSize, ' ');
  return head;
}

void make(const EmbeddingModel& model, const fs::path& corpus, const fs::path& index, const FileMetadata& metadata,
          const SearchOptions& options) {
  io::AtomicFile file(index);
  file.write(header(0, model.width(), metadata));
  TextReader reader(corpus);
  std::vector<std::int64_t> begins;
  std::vector<float> unit;
  const auto next = [&](std::string& text) {
    TextRow row;
    if (!reader.next(row)) return false;
    text = std::move(row.text);
    begins.push_back(static_cast<std::int64_t>(row.begin));
    return true;
  };
  const auto put = [&](std::int64_t i, std::span<const float> row) {
    unit.assign(row.begin(), row.end());
    scale(unit);
    file.write(std::as_bytes(std::span(unit)));
    if (options.progress) options.progress(i + 1);
  };
  const std::int64_t rows =
      model.for_each(next, put, options_for(model, {"document", "passage", "corpus"}, options.batch_tokens));
  if (rows == 0) throw FileError(FileFault::bad, corpus.string(), "", "at least one text", "none");
  file.write(std::as_bytes(std::span(begins)));
  file.rewrite(0, header(rows, model.width(), metadata));
  file.commit();
}

/// Whether a file begins as indexes do, as far as it goes: one that was cut short, or spoilt further on.
bool begins_as_index(const fs::path& path) {
  std::string ours = header(0, 0, {});
  ours.resize(ours.find(kAnyKind) + kAnyKind.size());
  const auto file = io::MappedFile::open(path);
  const auto bytes = file->bytes();
  return ours.starts_with({reinterpret_cast<const char*>(bytes.data()), std::min(bytes.size(), ours.size())});
}

/// Whether there is an index of just this; a damaged one is as good as none. A file that is none is somebody else's.
bool is_current(const fs::path& index, const FileMetadata& wanted) {
  std::error_code error;
  if (!fs::exists(index, error)) return false;
  const auto refuse = [&] {
    throw FileError(FileFault::create, index.string(), "", "a whole search index, or no file",
                    "something else, which is not written over: remove it, or name another index");
  };
  try {
    const FileMetadata found = SafeTensors::open(index).metadata();
    const auto kind = found.find("kind");
    if (kind == found.end() || !kind->second.starts_with(kAnyKind)) refuse();
    return found == wanted;
  } catch (const FileError& e) {
    if (e.fault() != FileFault::bad) throw;
    if (!begins_as_index(index)) refuse();
    return false;
  }
}

struct Found {
  float score;
  std::int64_t index;
  // Better ones are less: the worst is on top of a heap.
  bool operator<(const Found& o) const { return score != o.score ? score > o.score : index < o.index; }
};

/// The best rows for each query, best first.
std::vector<std::vector<Found>> scan(const Tensor& vectors, const Tensor& queries, std::int64_t most) {
  const std::int64_t rows = vectors.dim(0), count = queries.dim(0);
  std::vector<std::priority_queue<Found>> best(static_cast<std::size_t>(count));
  for (std::int64_t from = 0; from < rows; from += kScanned) {
    const std::int64_t n = std::min(kScanned, rows - from);
    const Tensor scores = matmul(queries, transpose(slice(vectors, 0, from, from + n))).eval();
    const float* values = scores.data<float>();
    for (std::int64_t q = 0; q < count; ++q) {
      auto& heap = best[static_cast<std::size_t>(q)];
      for (std::int64_t i = 0; i < n; ++i) {
        const Found one{values[q * n + i], from + i};
        if (static_cast<std::int64_t>(heap.size()) < most) heap.push(one);
        else if (one < heap.top()) heap.pop(), heap.push(one);
      }
    }
  }
  std::vector<std::vector<Found>> out;
  for (auto& heap : best) {
    auto& list = out.emplace_back();
    for (; !heap.empty(); heap.pop()) list.push_back(heap.top());
    std::reverse(list.begin(), list.end());
  }
  return out;
}

}  // namespace

bool SearchIndex::State::read(const fs::path& index) {
  const SafeTensors file = SafeTensors::open(index);
  vectors = file.load("vectors");
  begins = file.load("begins");
  const auto size = static_cast<std::int64_t>(corpus->bytes().size());
  const bool fits = vectors.rank() == 2 && vectors.dim(1) == model.width() && vectors.dtype() == DType::f32 &&
                    begins.dtype() == DType::i64 && begins.shape() == Shape{vectors.dim(0)};
  const auto* first = fits ? begins.data<std::int64_t>() : nullptr;
  return fits && std::all_of(first, first + begins.dim(0), [&](auto at) { return at >= 0 && at <= size; });
}

SearchIndex SearchIndex::open(const EmbeddingModel& model, const fs::path& corpus, const SearchOptions& options) {
  State state{.model = model, .path = corpus, .corpus = io::MappedFile::open(corpus)};
  fs::path index = options.index;
  if (index.empty()) (index = corpus) += ".mc-index";
  const FileMetadata wanted = stamp(model, *state.corpus);
  if (!is_current(index, wanted) || !state.read(index)) {
    make(model, corpus, index, wanted, options);
    state.made = true;
    if (!state.read(index))
      throw FileError(FileFault::bad, index.string(), "vectors, begins", "vectors of the corpus's lines", "others");
  }
  state.jsonl = TextReader(corpus).is_jsonl();
  return SearchIndex(std::make_shared<State>(std::move(state)));
}

std::int64_t SearchIndex::size() const { return state_->vectors.dim(0); }
bool SearchIndex::is_new() const { return state_->made; }

std::vector<SearchHit> SearchIndex::find(const std::string& query, std::int64_t most) const {
  return std::move(find({&query, 1}, most).front());
}

std::vector<std::vector<SearchHit>> SearchIndex::find(std::span<const std::string> queries, std::int64_t most) const {
  if (most < 1) throw UserError(ErrorKind::argument, fmt::format("search: the best {} texts", most));
  const EmbedOptions options = options_for(state_->model, {"query"}, EmbedOptions{}.batch_tokens);
  std::vector<float> unit = state_->model.embed(queries, options).to_vector<float>();
  const auto width = static_cast<std::size_t>(state_->model.width());
  for (std::size_t i = 0; i < queries.size(); ++i) scale(std::span(unit).subspan(i * width, width));
  const Tensor rows = Tensor::from(unit, {static_cast<std::int64_t>(queries.size()), state_->model.width()});
  const auto bytes = state_->corpus->bytes();
  const std::string_view corpus(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::vector<std::vector<SearchHit>> out;
  for (const auto& found : scan(state_->vectors, rows, most)) {
    auto& hits = out.emplace_back();
    for (const Found& f : found) {
      std::string_view line = corpus.substr(static_cast<std::size_t>(state_->begins.data<std::int64_t>()[f.index]));
      line = line.substr(0, line.find('\n'));
      if (line.ends_with('\r')) line.remove_suffix(1);
      TextRow row = TextReader::parse(std::string(line), state_->jsonl, state_->path.string());
      hits.push_back({.index = f.index, .score = f.score, .id = std::move(row.id), .text = std::move(row.text)});
    }
  }
  return out;
}

}  // namespace metal_candle
