// The table.
#include "cli/options.h"

#include <algorithm>

#include "cli/commands.h"

namespace metal_candle::cli {

namespace {

using enum Option::Takes;

constexpr Option kModel{"--model", path, "PATH",
                        "model folder (config.json, safetensors, tokenizer.json) or .gguf file"};
constexpr Option kAdapter{"--adapter", path, "DIR", "LoRA adapter of PEFT or mlx-lm"};
constexpr Option kSystem{"--system", text, "TEXT", "system message"};

constexpr Option kCommon[] = {
    {"--device", choice, "auto|cpu", "where to compute", "auto"},
    {"--threads", whole, "N", "threads that compute", "all the process may use"},
    {"--dtype", choice, "auto|f32|bf16|f16", "type of the model's weights",
     "auto: bf16 where the processor multiplies it, else f32; f32 for embed and search"},
    {"--seed", whole, "N", "seed of everything random", "0"},
    {"--json", nothing, "",
     "JSON lines on standard output (but for --help and completions), text for people on standard error"},
    {"--quiet", nothing, "", "errors only"},
    {"--help", nothing, "", "this help"},
    {"--version", nothing, "", "the version"},
};

// Where a model's generation_config.json says do_sample, its numbers are taken, unless --temperature 0 is given.
constexpr const char *kOrModels = "the model's generation_config.json if it samples, else 0",
                     *kOrModels1 = "the model's generation_config.json if it samples, else 1";

#define METAL_CANDLE_SAMPLING                                                                                     \
  {"--max-tokens", whole, "N", "most tokens of an answer; a full context ends it sooner, with a warning", "256"}, \
      {"--temperature", number, "T", "0 takes the likeliest token, more is more varied", kOrModels},              \
      {"--top-k", whole, "K", "of the K likeliest tokens only; 0: of all", kOrModels},                            \
      {"--top-p", number, "P", "of the fewest likeliest tokens that reach this probability", kOrModels1},         \
      {"--min-p", number, "P", "of tokens at least this many times as likely as the likeliest", kOrModels},       \
      {"--repetition-penalty", number, "R", "makes tokens seen before less likely; 1: does not",                  \
       "the model's generation_config.json, else 1"},                                                             \
      {"--presence-penalty", number, "X", "taken from the logits of tokens generated before", "0"},               \
      {"--frequency-penalty", number, "X", "the same, once for each time they were", "0"},                        \
      {"--logit-bias", text, "ID=X", "added to the logit of a token", {}, true}, {                                \
    "--stop", text, "TEXT", "ends an answer where this text begins", {}, true                                     \
  }

constexpr Option kGenerate[] = {
    kModel,
    {"--prompt", text, "TEXT", "what to go on from"},
    {"--prompts", path, "FILE.jsonl", "rows with `prompt` or `messages`; -: standard input"},
    {"--chat", nothing, "", "the prompt is a message of a user, shown by the model's chat template"},
    kSystem,
    kAdapter,
    METAL_CANDLE_SAMPLING,
    {"--ignore-eos", nothing, "",
     "exactly --max-tokens tokens: the model's end tokens end nothing, and a context too small for them is an error"},
    {"--stream", nothing, "", "text as it comes"},
    {"--batch-size", whole, "N", "prompts in progress at a time", "8"},
};
constexpr Option kChat[] = {kModel, kAdapter, kSystem, METAL_CANDLE_SAMPLING};
constexpr Option kScore[] = {
    kModel,
    kAdapter,
    {"--text", text, "TEXT", "the text"},
    {"--data", path, "FILE.jsonl", "rows with `text`; -: standard input"},
};
constexpr Option kTrain[] = {
    kModel,
    {"--data", path, "FILE|DIR",
     "examples: a .jsonl file, or a folder with train.jsonl and perhaps valid.jsonl; -: standard input"},
    {"--valid", path, "FILE", "examples to evaluate on"},
    {"--output", path, "DIR", "where the adapter, its checkpoints and plots go"},
    {"--config", path, "FILE.toml", "options from a file: learning-rate = 1e-4"},
    {"--rank", whole, "N", "rank of the adapter", "16"},
    {"--alpha", number, "X", "its scale is alpha / rank", "twice the rank"},
    {"--dropout", number, "P", "dropout on the adapter's inputs", "0"},
    {"--rslora", nothing, "", "the scale is alpha / sqrt(rank)"},
    {"--target-modules", text, "LIST",
     "names of modules with commas between (embeddings, q, k, v, o, gate, up, down, lm_head, or the model's own), "
     "all-linear, or a regular expression",
     "all-linear"},
    {"--learning-rate", number, "X", "at its peak", "2e-4"},
    {"--schedule", choice, "constant|linear|cosine", "of the learning rate", "linear"},
    {"--warmup", whole, "N", "steps until the peak", "0"},
    {"--weight-decay", number, "X", "decoupled decay", "0.01"},
    {"--max-grad-norm", number, "X", "clips the gradient's global norm; 0: does not", "1"},
    {"--batch-size", whole, "N", "rows at a time", "8"},
    {"--accumulate", whole, "N", "times that many rows a step", "1"},
    {"--max-length", whole, "N", "tokens of a row; longer ones are cut, at the latest where the model's context ends",
     "1024"},
    {"--steps", whole, "N", "steps to train"},
    {"--epochs", number, "N", "rounds over the examples, where --steps is not given", "1"},
    {"--eval-every", whole, "N", "steps between evaluations; 0: at the end only", "0"},
    {"--save-every", whole, "N", "steps between checkpoints; 0: at the end only", "0"},
    {"--early-stop", whole, "N",
     "ends after N evaluations that were not better, and keeps the adapter of the best one; 0: never", "0"},
    {"--no-shuffle", nothing, "", "rows in the order of the file"},
    {"--init-adapter", path, "DIR",
     "an adapter to begin with; it brings its rank, alpha and modules, and its dropout unless --dropout is given"},
    {"--resume", nothing, "", "goes on from the newest good checkpoint below --output"},
    {"--packing", nothing, "",
     "with --accumulate: a step's rows in as few passes as hold them, each of at most batch-size x max-length "
     "tokens; the rows and the loss stay the same (rows lie end to end without padding in any case)"},
    {"--train-on", choice, "answers|all", "what of prompts and messages is learned", "answers"},
    {"--checkpointing", nothing, "", "less memory: activations are computed again in the backward pass"},
    {"--dry-run", nothing, "", "checks model, data and memory, trains nothing"},
    {"--print-config", nothing, "", "prints all options as --config takes them (with --json as one line), and ends"},
};
constexpr Option kEmbedder{"--model", path, "PATH", "folder in sentence-transformers' layout, or of a bare model"};
constexpr Option kBatchTokens{"--batch-tokens", whole, "N", "most tokens that are computed together", "1024"};
constexpr Option kEmbed[] = {
    kEmbedder,
    {"--input", path, "FILE", "rows with `text` and perhaps `id` (.jsonl), or a text a line; -: standard input"},
    {"--text", text, "TEXT...", "the texts", {}, true, true},
    {"--output", path, "FILE",
     "embeddings as .npy, .jsonl or .safetensors, ids beside the others in FILE.ids.jsonl; printed without it"},
    {"--prompt-name", text, "NAME", "which of the model's prompts goes in front of each text", "the model's default"},
    kBatchTokens,
    {"--no-normalize", nothing, "", "leaves the model's Normalize modules out"},
    {"--dimensions", whole, "N", "the first N components, scaled back to length 1", "all"},
};
constexpr Option kSearch[] = {
    kEmbedder,
    {"--corpus", path, "FILE", "rows with `text` and perhaps `id` (.jsonl), or a text a line"},
    {"--query", text, "TEXT...", "what to look for", {}, true, true},
    {"--top", whole, "N", "texts that are shown", "5"},
    {"--index", path, "FILE", "where the corpus's index is kept", "FILE.mc-index beside the corpus"},
    kBatchTokens,
};
constexpr Option kMerge[] = {kModel, kAdapter, {"--output", path, "DIR", "folder to make; transformers loads it"}};
constexpr Option kConvert[] = {{"--model", path, "FILE.gguf", "the file"},
                               {"--output", path, "DIR", "folder to make; transformers loads it"}};
constexpr Option kTokenize[] = {kModel,
                                {"--text", text, "TEXT", "the text"},
                                {"--data", path, "FILE.jsonl", "rows with `text`; -: standard input"}};
constexpr Option kInspect[] = {{"--tensors", nothing, "", "lists every tensor"}};
constexpr Option kBench[] = {kModel,
                             {"--prompt-tokens", whole, "N", "length of the prompt that is read", "512"},
                             {"--max-tokens", whole, "N", "tokens that are generated", "64"}};

}  // namespace

std::span<const Option> common_options() { return kCommon; }

const std::vector<Command>& commands() {
  static const std::vector<Command> all = {
      {"generate",
       "Text from a model",
       "",
       kGenerate,
       {"metal-candle generate --model SmolLM2-135M-Instruct --prompt \"The sky is\"",
        "metal-candle generate --model smollm2.gguf --chat --prompt \"Name three colours\" --temperature 0.7 --stream",
        "metal-candle generate --model model --adapter out --prompts test.jsonl --json > answers.jsonl"},
       generate},
      {"chat",
       "Talk with a model",
       "",
       kChat,
       {"metal-candle chat --model SmolLM2-135M-Instruct --system \"Be brief.\""},
       chat},
      {"score",
       "How likely a model finds texts",
       "",
       kScore,
       {"metal-candle score --model model --text \"The cat sat on the mat.\"",
        "metal-candle score --model model --adapter out --data held-out.jsonl --json"},
       score},
      {"train",
       "Train a LoRA adapter",
       "",
       kTrain,
       {"metal-candle train --model SmolLM2-135M-Instruct --data data/ --output out --steps 50",
        "metal-candle train --config run.toml --learning-rate 1e-4 --resume",
        "metal-candle train --model model --data train.jsonl --output out --dry-run"},
       train},
      {"embed",
       "Texts as vectors",
       "",
       kEmbed,
       {"metal-candle embed --model all-MiniLM-L6-v2 --input texts.jsonl --output texts.npy",
        "metal-candle embed --model all-MiniLM-L6-v2 --text \"a cat\" \"a dog\" --json",
        "zcat texts.gz | metal-candle embed --model e5-small --input - --prompt-name passage --output "
        "texts.safetensors"},
       embed},
      {"search",
       "The texts of a file that mean what a query means",
       "",
       kSearch,
       {"metal-candle search --model all-MiniLM-L6-v2 --corpus notes.txt --query \"how do cats sleep?\" --top 3"},
       search},
      {"merge",
       "Put an adapter into its model (in the type its files have, or f32 for quantised ones, unless --dtype says "
       "otherwise)",
       "",
       kMerge,
       {"metal-candle merge --model SmolLM2-135M-Instruct --adapter out --output merged"},
       merge},
      {"convert",
       "A GGUF file as a model folder (in the type it has, or f32 for a quantised one, unless --dtype says otherwise)",
       "",
       kConvert,
       {"metal-candle convert --model smollm2.q8_0.gguf --output smollm2 --dtype bf16"},
       convert},
      {"tokenize",
       "Text as token ids",
       "",
       kTokenize,
       {"metal-candle tokenize --model SmolLM2-135M-Instruct --text \"Hello world\"",
        "metal-candle tokenize --model tokenizer.json --data texts.jsonl --json"},
       tokenize},
      {"inspect",
       "What a file or folder is",
       "PATH",
       kInspect,
       {"metal-candle inspect model.gguf", "metal-candle inspect out/checkpoints/step-50 --json"},
       inspect},
      {"devices", "What this machine computes with", "", {}, {"metal-candle devices"}, devices},
      {"bench",
       "How fast a model runs here",
       "",
       kBench,
       {"metal-candle bench --model SmolLM2-135M-Instruct --dtype bf16"},
       bench},
      {"completions",
       "Completions for a shell: bash, zsh or fish",
       "SHELL",
       {},
       {"source <(metal-candle completions bash)",
        "metal-candle completions fish > ~/.config/fish/completions/metal-candle.fish"},
       completions},
  };
  return all;
}

const Command* find_command(std::string_view name) {
  const auto found =
      std::find_if(commands().begin(), commands().end(), [&](const Command& c) { return c.name == name; });
  return found == commands().end() ? nullptr : &*found;
}

const Option* find_option(const Command& command, std::string_view name) {
  for (auto options : {command.options, common_options()})
    for (const Option& option : options)
      if (option.name == name) return &option;
  return nullptr;
}

std::vector<std::string_view> choices(const Option& option) {
  std::vector<std::string_view> out;
  for (std::string_view rest = option.value; !rest.empty();) {
    const std::size_t end = std::min(rest.find('|'), rest.size());
    out.push_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return out;
}

}  // namespace metal_candle::cli
