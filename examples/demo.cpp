// What `make demo` runs: a small language model learns, on this machine's CPU, a task that it cannot do: to turn a
// request to a house into one JSON command. Held-out requests are scored before and after. Then an encoder finds some of
// them by what they mean.
//
//   example_demo MODEL DATA OUTPUT [steps [ENCODER]]    a folder or .gguf; a folder with train.jsonl and test.jsonl;
//                                                       an encoder's folder, without which that act is left out
//
// The same by the command line: metal-candle generate, metal-candle train (see the end of what this prints).
#include <metal_candle/metal_candle.hpp>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace mc = metal_candle;
namespace fs = std::filesystem;

namespace {

struct Question {
  std::string prompt, answer;
};

std::vector<Question> read_questions(const fs::path& file) {
  std::ifstream lines(file);
  if (!lines) throw mc::FileError(mc::FileFault::missing, file.string(), "", "cannot be read");
  std::vector<Question> questions;
  for (std::string line; std::getline(lines, line);) {
    const mc::Json row = mc::Json::parse(line, file.string());
    questions.push_back({std::string(row.at("prompt").as_string()), std::string(row.at("completion").as_string())});
  }
  return questions;
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// What the model answers to each question, greedily, several at a time.
std::vector<std::string> answers(mc::Generator& generator, const mc::Tokenizer& tokenizer,
                                 const std::vector<Question>& questions) {
  std::vector<std::vector<std::int32_t>> prompts;
  for (const Question& q : questions) prompts.push_back(tokenizer.encode(q.prompt));
  std::vector<std::string> texts;
  for (const mc::Generated& g : generator.generate_batch(prompts, mc::GenerateOptions{.max_tokens = 48}))
    texts.push_back(tokenizer.decode(g.tokens, /*skip_special_tokens=*/true));
  return texts;
}

std::size_t count_right(const std::vector<Question>& questions, const std::vector<std::string>& texts) {
  std::size_t right = 0;
  for (std::size_t i = 0; i < questions.size(); ++i) right += texts[i] == questions[i].answer;
  return right;
}

/// Line breaks shown, length bounded.
std::string one_line(std::string text) {
  for (std::size_t at; (at = text.find('\n')) != std::string::npos;) text.replace(at, 1, "\\n");
  return text.size() > 76 ? text.substr(0, 73) + "..." : text;
}

/// What the user says in a prompt of SmolLM2's chat.
std::string said(const std::string& prompt) {
  const std::size_t begin = prompt.find('\n'), end = prompt.find("<|im_end|>");
  return begin < end && end != std::string::npos ? prompt.substr(begin + 1, end - begin - 1) : one_line(prompt);
}

/// The held-out requests that are nearest in meaning to what shares hardly a word with them.
void find_by_meaning(const fs::path& folder, const std::vector<Question>& questions) {
  const auto begin = std::chrono::steady_clock::now();
  const mc::EmbeddingModel model = mc::EmbeddingModel::load(folder);
  const double loaded = seconds_since(begin);
  std::vector<std::string> requests;
  for (const Question& q : questions) requests.push_back(said(q.prompt));
  const mc::Tensor vectors = model.embed(requests);
  const std::vector<std::string> queries{"It is freezing where I sleep", "Nobody should get into the loft",
                                         "Play me some tunes while I cook", "I cannot see a thing in the corridor"};
  const mc::Tensor wanted = model.embed(queries);
  std::printf("\nFound by meaning: %zu held-out requests as vectors of %lld numbers by %s\n", requests.size(),
              static_cast<long long>(model.width()), folder.filename().string().c_str());
  constexpr std::size_t kShown = 3;
  for (std::size_t q = 0; q < queries.size(); ++q) {
    std::vector<std::pair<float, std::size_t>> near;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      const auto row = [&](const mc::Tensor& t, std::size_t n) {
        return t.data<float>() + static_cast<std::int64_t>(n) * model.width();
      };
      near.emplace_back(mc::cosine(row(wanted, q), row(vectors, i), model.width()), i);
    }
    std::sort(near.rbegin(), near.rend());
    for (std::size_t n = 0; n < std::min(kShown, near.size()); ++n)
      std::printf("  %-38s %.3f  %s\n", n == 0 ? queries[q].c_str() : "", static_cast<double>(near[n].first),
                  requests[near[n].second].c_str());
  }
  std::printf("  %.2f s, of which loading took %.2f s\n", seconds_since(begin), loaded);
}

void show_step(const mc::StepEvent& e, std::int64_t steps) {
  constexpr int kWidth = 30;
  if (isatty(1)) {
    std::string bar(static_cast<std::size_t>(kWidth * e.step / steps), '#');
    bar.resize(kWidth, '.');
    std::printf("\r  [%s] %lld/%lld  loss %.4f  %.0f tokens/s ", bar.c_str(), static_cast<long long>(e.step),
                static_cast<long long>(steps), e.loss, e.tokens_per_s());
    if (e.step == steps) std::printf("\n");
    std::fflush(stdout);
  } else if (e.step == 1 || e.step % 5 == 0 || e.step == steps) {
    std::printf("  step %3lld  loss %.4f  %.0f tokens/s\n", static_cast<long long>(e.step), e.loss, e.tokens_per_s());
  }
}

int run(const fs::path& model_path, const fs::path& data, const fs::path& output, std::int64_t steps,
        const fs::path& encoder) {
  const auto begin = std::chrono::steady_clock::now();
  const mc::Model model = mc::Model::load(model_path);
  const mc::Tokenizer tokenizer = mc::Tokenizer::load(model_path);
  std::printf("%s in %s, loaded in %.2f s; %d threads\n\n", model_path.filename().string().c_str(),
              std::string(mc::name(model.dtype())).c_str(), seconds_since(begin), mc::threads());

  std::vector<Question> test = read_questions(data / "test.jsonl");
  mc::Generator generator(model, {.batch = 16});
  auto clock = std::chrono::steady_clock::now();
  const std::vector<std::string> before = answers(generator, tokenizer, test);
  std::printf("Before: %zu of %zu held-out requests answered exactly (%.1f s)\n\n", count_right(test, before),
              test.size(), seconds_since(clock));

  fs::remove_all(output);
  const std::int32_t end = model.config().eos.empty() ? 0 : model.config().eos.front();
  mc::Dataset train = mc::Dataset::load(data / "train.jsonl", tokenizer, nullptr, {.end_token = end});
  std::printf("Training a LoRA adapter of rank 16 on %zu rows, %lld steps of 8:\n", train.size(),
              static_cast<long long>(steps));
  mc::TrainOptions options;
  options.output = output;
  options.learning_rate = 1e-3;
  options.schedule = mc::ScheduleKind::linear;
  options.warmup = 2;
  options.steps = steps;
  options.shuffle = false;
  mc::TrainResult result;
  {
    mc::Trainer trainer(model, std::move(train), {}, options);
    const auto show = [&](const mc::StepEvent& e) { show_step(e, steps); };
    result = trainer.run({.step = show, .eval = {}, .checkpoint = {}, .message = {}});
  }
  std::printf("  %.1f s, %.0f tokens/s\n\n", result.seconds, static_cast<double>(result.tokens) / result.seconds);

  mc::nn::Weights adapted = model.weights();
  mc::LoRAAdapter::load(output, model).apply(adapted);  // as anybody would: from the files
  generator.use(adapted);
  clock = std::chrono::steady_clock::now();
  const std::vector<std::string> after = answers(generator, tokenizer, test);
  std::printf("After: %zu of %zu answered exactly (%.1f s)\n", count_right(test, after), test.size(),
              seconds_since(clock));
  for (std::size_t i = 0; i < std::min<std::size_t>(3, test.size()); ++i)
    std::printf("\n  asked   %s\n  before  %s\n  after   %s\n  wanted  %s\n", said(test[i].prompt).c_str(),
                one_line(before[i]).c_str(), one_line(after[i]).c_str(), one_line(test[i].answer).c_str());

  {
    const mc::Trace trace;
    generator.generate(tokenizer.encode(test.front().prompt), {.max_tokens = 8});
    trace.save((output / "trace.json").string());
  }
  if (!encoder.empty()) find_by_meaning(encoder, test);
  std::printf(
      "\nThe adapter (PEFT's files), loss.svg and trace.json (for ui.perfetto.dev) lie in %s\n"
      "%.0f s in all. The same by hand:\n"
      "  build/metal-candle train --model %s --data %s --output OUT --steps %lld --learning-rate 1e-3\n"
      "  build/metal-candle generate --model %s --adapter OUT --chat --prompt \"Lights off in the garage\"\n",
      output.c_str(), seconds_since(begin), model_path.c_str(), data.c_str(), static_cast<long long>(steps),
      model_path.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "example_demo MODEL DATA OUTPUT [steps [ENCODER]]\n");
    return 2;
  }
  try {
    return run(argv[1], argv[2], argv[3], argc > 4 ? std::max(1L, std::atol(argv[4])) : 30, argc > 5 ? argv[5] : "");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "example_demo: %s\n", e.what());
    return 1;
  }
}
