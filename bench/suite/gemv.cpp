// The products of decoding: all weights of a language model read once a step, by a few rows, in one replayed plan. The
// ceiling is reading as many bytes. Between the products stand the norms and sums that make them wait for each other;
// attention is left out.
#include <fmt/format.h>

#include "suite/language.h"
#include "suite/memory_ceiling.h"
#include "suite/ours.h"
#include "suite/suite.h"

namespace bench {
namespace {

using mc::LazyTensor;

std::int64_t weights_of(const mc::ModelConfig& c) {
  const std::int64_t kv = c.key_heads * c.head_width;
  return c.layers * c.hidden * (2 * c.hidden + 2 * kv + 3 * c.intermediate) + c.hidden * c.vocabulary;
}

mc::Tensor weight(std::int64_t in, std::int64_t out, mc::DType dtype) {
  static std::uint64_t key = 0;
  const LazyTensor w = mc::randn({in, out}, {.key = mc::Key{++key}}) * (1 / std::sqrt(static_cast<double>(in)));
  mc::Tensor result = mc::cast(w, dtype).eval();
  result.freeze();
  return result;
}

struct Layer {
  mc::Tensor q, k, v, o, gate, up, down;
};

class Decoder {
 public:
  Decoder(const mc::ModelConfig& s, mc::DType dtype)
      : norm_(mc::ones({s.hidden}, dtype).eval()), head_(weight(s.hidden, s.vocabulary, dtype)) {
    const std::int64_t kv = s.key_heads * s.head_width;
    for (std::int64_t i = 0; i < s.layers; ++i)
      layers_.push_back({weight(s.hidden, s.hidden, dtype), weight(s.hidden, kv, dtype), weight(s.hidden, kv, dtype),
                         weight(s.hidden, s.hidden, dtype), weight(s.hidden, s.intermediate, dtype),
                         weight(s.hidden, s.intermediate, dtype), weight(s.intermediate, s.hidden, dtype)});
  }

  void step(const mc::Tensor& x) const {
    LazyTensor h = x;
    std::vector<LazyTensor> roots;
    for (const Layer& l : layers_) {
      const LazyTensor n = mc::rms_norm(h, norm_);
      roots.push_back(mc::matmul(n, l.k));
      roots.push_back(mc::matmul(n, l.v));
      h = h + mc::matmul(mc::matmul(n, l.q), l.o);
      const LazyTensor f = mc::rms_norm(h, norm_);
      h = h + mc::matmul(mc::silu(mc::matmul(f, l.gate)) * mc::matmul(f, l.up), l.down);
    }
    roots.push_back(mc::matmul(mc::rms_norm(h, norm_), head_));
    mc::eval(roots);
  }

 private:
  std::vector<Layer> layers_;
  mc::Tensor norm_, head_;
};

void one(Suite& suite, const LanguageShape& shape, const Decoder& decoder, std::int64_t m, mc::DType dtype) {
  const mc::Tensor x = random_tensor({m, shape.config.hidden}, dtype);
  Contest contest(suite);
  contest.local("ours", [&] { decoder.step(x); }).local("read", best_model_read().run).run();
  const double bytes = static_cast<double>(weights_of(shape.config)) * static_cast<double>(mc::size_of(dtype));
  Row row{"gemv", fmt::format("{} M={} {}", shape.name, m, dtype_name(dtype))};
  row.add("rate", bytes / contest.seconds("ours") * 1e-9, "GB/s");
  row.add("rate of reading", best_model_read().bytes / contest.seconds("read") * 1e-9, "GB/s");
  contest.describe(row);
  const double of_read = contest.ratio("ours", "read") * bytes / best_model_read().bytes;
  const bool bound = shape.peer == "qwen" && m == 1 && dtype == mc::DType::bf16;  // the work that the bound names
  bound ? row.at_least("of the best read", of_read, 0.9) : row.add("of the best read", of_read);
  suite.report.add(std::move(row));
}

}  // namespace

void gemv(Suite& suite) {
  for (const LanguageShape& shape : {smol(), qwen()})
    for (const auto dtype : {mc::DType::bf16, mc::DType::f32}) {
      const Decoder decoder(shape.config, dtype);
      for (const std::int64_t m : {1, 2, 4, 8}) one(suite, shape, decoder, m, dtype);
    }
}

}  // namespace bench
