// Options are named one by one, and what is left out has a default: no warning asks for the rest.
#include <metal_candle/metal_candle.hpp>

namespace mc = metal_candle;

void take_options() {
  [[maybe_unused]] const mc::LoadOptions load{.head = false};
  [[maybe_unused]] const mc::SamplingOptions sampling{.temperature = 0.5};
  [[maybe_unused]] const mc::GenerateOptions generate{.sampling = {.temperature = 0.5}, .max_tokens = 3};
  [[maybe_unused]] const mc::GeneratorOptions generator{.batch = 1};
  [[maybe_unused]] const mc::LoRAConfig lora{.rank = 4};
  [[maybe_unused]] const mc::DatasetOptions dataset{.end_token = 2};
  [[maybe_unused]] const mc::TrainOptions train{.output = "out", .steps = 3};
  [[maybe_unused]] const mc::TrainCallbacks callbacks{.step = [](const mc::StepEvent&) {}};
  [[maybe_unused]] const mc::AdamWOptions adamw{.learning_rate = 1e-3};
  [[maybe_unused]] const mc::AttentionOptions attention{.causal = false};
  [[maybe_unused]] const mc::CrossEntropyOptions loss{.label_smoothing = 0.1};
  [[maybe_unused]] const mc::RandomOptions random{.key = mc::Key(1)};
  [[maybe_unused]] const mc::ChatTemplateOptions chat{.add_generation_prompt = true};
  [[maybe_unused]] const mc::EmbedOptions embed{.normalize = true};
  [[maybe_unused]] const mc::nn::AttentionShape shape{.heads = 1};
  [[maybe_unused]] const mc::nn::RopeScaling scaling{.factor = 2};
}
