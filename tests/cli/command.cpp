#include "tests/cli/command.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "metal_candle/bundle.hpp"
#include "metal_candle/random.hpp"

namespace metal_candle::test {

namespace fs = std::filesystem;

namespace {

struct Folder {
  fs::path path = fs::temp_directory_path() / ("mc_cli_" + std::to_string(getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

void make_model(const fs::path& folder) {
  const fs::path source = folder / "source";
  fs::create_directories(source);
  const Json zoo = Json::load(METAL_CANDLE_TESTS_DIR "/fixtures/tokenizer/tokenizers.json");
  write(source / "tokenizer.json", zoo.at("smollm").dump());
  const char* chat =
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
  write(source / "tokenizer_config.json", Json::object({{"eos_token", "<|im_end|>"}, {"chat_template", chat}}).dump());
  const Tokenizer tokenizer = Tokenizer::load(source);
  const ModelConfig config{.family = "llama",
                           .vocabulary = tokenizer.vocab_size(),
                           .hidden = 32,
                           .intermediate = 64,
                           .layers = 2,
                           .heads = 4,
                           .key_heads = 2,
                           .head_width = 8,
                           .max_positions = 128,
                           .tied_embeddings = true,
                           .eos = {*tokenizer.token_to_id("<|im_end|>")}};
  save_model(folder / "model", Model::random(config, Key(7)), source);
}

pid_t start(const std::vector<std::string>& arguments, const std::vector<std::string>& environment, const fs::path& in,
            const fs::path& out, const fs::path& err, int ignored = 0) {
  const pid_t child = fork();
  if (child != 0) return child;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, signal == ignored ? SIG_IGN : SIG_DFL);
  for (auto [file, number, flags] :
       {std::tuple(&in, 0, O_RDONLY), {&out, 1, O_WRONLY | O_CREAT | O_TRUNC}, {&err, 2, O_WRONLY | O_CREAT | O_TRUNC}})
    dup2(open(file->c_str(), flags, 0600), number);
  for (const std::string& variable : environment) putenv(const_cast<char*>(variable.c_str()));
  std::vector<char*> argv{const_cast<char*>(METAL_CANDLE_COMMAND)};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(METAL_CANDLE_COMMAND, argv.data());
  _exit(127);
}

int code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

}  // namespace

std::string text_of(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

void write(const fs::path& file, const std::string& text) { std::ofstream(file, std::ios::binary) << text; }

std::vector<Json> Ran::events() const {
  std::vector<Json> list;
  std::istringstream lines(out);
  for (std::string line; std::getline(lines, line);) {
    try {
      list.push_back(Json::parse(line, "standard output"));
    } catch (const std::exception& e) {
      ADD_FAILURE() << e.what() << "\n" << line;
    }
  }
  return list;
}

const fs::path& playground() {
  static const Folder folder;
  static const bool made = [] {
    make_model(folder.path);
    std::string rows;
    for (int i = 0; i < 24; ++i)
      rows +=
          Json::object({{"prompt", "Count " + std::to_string(i)}, {"completion", " to " + std::to_string(i)}}).dump() +
          "\n";
    write(folder.path / "train.jsonl", rows);
    write(folder.path / "texts.jsonl", "{\"text\": \"Hello world\"}\n\n{\"text\": \"Gr\\u00fc\\u00dfe\"}\r\n");
    write(folder.path / "prompts.jsonl",
          "{\"prompt\": \"One\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"Two\"}]}\n{\"prompt\": \"Three "
          "and more\"}\n");
    write(folder.path / "broken.jsonl", "{\"text\": \"fine\"}\n{\"text\": 5}\n");
    write(folder.path / "notjson.jsonl", "{\"text\": \"fine\"\n");
    write(folder.path / "empty.jsonl", "\n");
    return true;
  }();
  static_cast<void>(made);
  return folder.path;
}

std::string model() { return at("model"); }

std::string at(const std::string& name) { return (playground() / name).string(); }

std::vector<std::string> keys(const Json& object) {
  std::vector<std::string> out;
  for (const JsonMember& member : object.items()) out.emplace_back(member.key);
  return out;
}

Ran command(const std::vector<std::string>& arguments, const std::vector<std::string>& environment,
            const std::string& input) {
  const fs::path in = playground() / "in", out = playground() / "out", err = playground() / "err";
  write(in, input);
  int status = 0;
  waitpid(start(arguments, environment, in, out, err), &status, 0);
  return {code_of(status), text_of(out), text_of(err)};
}

Ran shell(const std::string& line) {
  const fs::path out = playground() / "out", err = playground() / "err";
  const std::string redirected = fmt::format("{} {} 2>{} >{}", METAL_CANDLE_COMMAND, line, err.string(), out.string());
  const int status = std::system(redirected.c_str());
  return {code_of(status), text_of(out), text_of(err)};
}

namespace {

Ran signalled_when(const std::vector<std::string>& arguments, int signal, const std::function<bool(pid_t)>& ready,
                   const std::function<void()>& ignored_then = nullptr) {
  const fs::path out = playground() / "out", err = playground() / "err";
  fs::remove(out);
  const pid_t child = start(arguments, {}, "/dev/null", out, err, ignored_then ? signal : 0);
  for (int wait = 0; wait < 3000 && !ready(child); ++wait) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  kill(child, signal);
  if (ignored_then) ignored_then();
  int status = 0;
  waitpid(child, &status, 0);
  return {code_of(status), text_of(out), text_of(err)};
}

bool handles(pid_t child, int signal) {
  std::ifstream status("/proc/" + std::to_string(child) + "/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("SigCgt:")) return (std::stoull(line.substr(7), nullptr, 16) >> (signal - 1) & 1) != 0;
  return false;
}

}  // namespace

Ran signalled(const std::vector<std::string>& arguments, int lines, int signal) {
  return signalled_when(arguments, signal, [&](pid_t) {
    const std::string text = text_of(playground() / "out");
    return std::count(text.begin(), text.end(), '\n') >= lines;
  });
}

Ran signalled_early(const std::vector<std::string>& arguments, int signal) {
  return signalled_when(arguments, signal, [&](pid_t child) { return handles(child, signal); });
}

Ran signalled_in_vain(const std::vector<std::string>& arguments, int signal, const std::function<void()>& then) {
  return signalled_when(
      arguments, signal, [](pid_t child) { return handles(child, SIGHUP); }, then);
}

}  // namespace metal_candle::test
