// Decoding and prefill of models with random weights, one sequence, beside llama.cpp and PyTorch.
#include <fmt/format.h>

#include <metal_candle/generate.hpp>

#include "backend/cpu/gemm/gemm.h"
#include "suite/language.h"
#include "suite/memory_ceiling.h"
#include "suite/needed.h"

namespace bench {
namespace {

constexpr int kPrompt = 64, kTokens = 32, kPrefill = 512;

std::vector<std::int32_t> prompt_of(int length, int first) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < length; ++i) ids.push_back((7 * i + first) % 40000);
  return ids;
}

double weight_bytes(const mc::Model& model) {
  double bytes = 0;
  for (const auto& [name, tensor] : model.parameters())
    bytes += static_cast<double>(tensor.numel()) * static_cast<double>(mc::size_of(tensor.dtype()));
  return bytes;
}

/// What decoding reads of them, if all are squeezed that can be.
double kept_bytes(const mc::Model& model) {
  double bytes = 0;
  for (const auto& [name, tensor] : model.parameters()) {
    const bool matrix = tensor.rank() == 2;
    const mc::cpu::GemmShape shape{0, matrix ? tensor.dim(0) : 0, matrix ? tensor.dim(1) : 0, mc::cpu::GemmType::bf16};
    bytes += static_cast<double>(matrix && squeezes_b(shape) ? squeezed_b_bytes(shape)
                                                             : tensor.numel() * mc::size_of(tensor.dtype()));
  }
  return bytes;
}

void add_peers(Contest& contest, const std::string& work) {
  for (const char* dtype : {"bf16", "f16"})
    contest.peer({.kind = PeerKind::llama, .label = dtype}, fmt::format("{}:{}", work, dtype));
  contest.peer({.kind = PeerKind::torch_eager, .reuse_heap = true, .label = "bf16"}, work + ":bf16");
}

void add_ratio(Row& row, const Contest& contest, const char* prefix, double bound) {
  if (const auto best = contest.fastest(prefix); !best.empty())
    row.at_least("x " + best, contest.ratio("ours", best), bound);
}

}  // namespace

void generation(Suite& suite) {
  for (const LanguageShape& shape : {smol(), qwen()}) {
    const bool small = shape.peer == "smol";
    mc::Generator generator(mc::Model::random(shape.config, mc::Key(1), mc::DType::bf16));
    {
      // The prompt's keys are kept from the first call on, so a call is that many single tokens.
      const auto prompt = prompt_of(kPrompt, 0);
      const auto decode = [&] { generator.generate(prompt, {.max_tokens = kTokens, .ignore_eos = true}); };
      Contest contest(suite);
      contest.local("ours", decode).local("read", best_model_read().run);
      add_peers(contest, fmt::format("lm_decode:{}:{}:{}", shape.peer, kPrompt, kTokens));
      contest.run();
      Row row{"generation", fmt::format("{} tokens one by one, {} bf16", kTokens, shape.name)};
      contest.describe(row);
      row.add("tokens a second", kTokens / contest.seconds("ours"));
      row.add("weights read", weight_bytes(generator.model()) * kTokens / contest.seconds("ours") * 1e-9, "GB/s");
      const double of_read =
          contest.ratio("ours", "read") * weight_bytes(generator.model()) * kTokens / best_model_read().bytes;
      row.add("of the best read, of what is kept",
              of_read * kept_bytes(generator.model()) / weight_bytes(generator.model()));
      small ? row.add("of the best read", of_read) : row.at_least("of the best read", of_read, 0.9);
      add_ratio(row, contest, "llama.cpp", small ? 1.3 : 1.0);
      suite.report.add(row.note(longest_kernels(decode)));
    }
    suite.peers.stop();
    {
      int first = 0;  // another prompt each time, so that nothing is kept from the one before
      const auto prefill = [&] { generator.generate(prompt_of(kPrefill, ++first), {.max_tokens = 1}); };
      Contest contest(suite);
      contest.local("ours", prefill);
      add_peers(contest, fmt::format("lm_prefill:{}:{}", shape.peer, kPrefill));
      contest.run();
      Row row{"generation", fmt::format("prompt of {}, {} bf16", kPrefill, shape.name)};
      contest.describe(row);
      row.add("tokens a second", kPrefill / contest.seconds("ours"));
      add_ratio(row, contest, "llama.cpp", 1.3);
      add_ratio(row, contest, "torch", 1.3);
      suite.report.add(row.note(longest_kernels(prefill)));
    }
    suite.peers.stop();
  }
}

}  // namespace bench
