// metal-candle bench: how fast a model reads and writes here.
#include <fmt/format.h>

#include <algorithm>

#include "cli/commands.h"
#include "cli/loading.h"
#include "cli/report.h"
#include "metal_candle/runtime.hpp"

namespace metal_candle::cli {

int bench(const Invocation& run) {
  const std::int64_t length = run.whole("--prompt-tokens", 512, 1, 1 << 20);
  GenerateOptions options;
  options.ignore_eos = true;
  options.max_tokens = static_cast<int>(run.whole("--max-tokens", 64, 2, 1 << 20));
  const Model model = load_model(run);
  Generator generator(model, {.batch = 1});
  double prefill = 0, decode = 0;
  constexpr int kRuns = 4;  // the first plans, and is not counted
  for (int i = 0; i < kRuns; ++i) {
    // Prompts that begin differently, so that none goes on from the kept keys of another.
    std::vector<std::int32_t> prompt(static_cast<std::size_t>(length));
    for (std::size_t k = 0; k < prompt.size(); ++k)
      prompt[k] =
          static_cast<std::int32_t>((1 + static_cast<std::int64_t>(k) * 7 + i * 31) % model.config().vocabulary);
    const Generated g = generator.generate(prompt, options);
    if (i == 0) continue;
    prefill = std::max(prefill, static_cast<double>(length) / g.prefill_s);
    decode = std::max(decode, static_cast<double>(g.tokens.size() - 1) / g.decode_s);
  }
  if (run.json())
    write_event(Json::object({{"event", "result"},
                              {"prefill_tokens_per_s", prefill},
                              {"decode_tokens_per_s", decode},
                              {"prompt_tokens", length},
                              {"generated_tokens", options.max_tokens},
                              {"dtype", name(model.dtype())},
                              {"threads", threads()},
                              {"peak_bytes", resident_memory().peak}}));
  else
    write_text(fmt::format("reads {:.1f} tokens a second ({} at a time), writes {:.1f}; {} on {} threads, {} at most\n",
                           prefill, length, decode, name(model.dtype()), threads(), size_text(resident_memory().peak)));
  return kDone;
}

}  // namespace metal_candle::cli
