// Exit codes: every one that is documented, by what leads to it.
#include "cli/failure.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <new>

#include "cli/invocation.h"
#include "metal_candle/chat_template.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/safetensors.hpp"
#include "tests/cli/command.h"

namespace metal_candle::test {
namespace {

using testing::HasSubstr;
using testing::Not;

template <class Thrown>
cli::Failure failure(Thrown thrown) {
  return cli::failure_of(std::make_exception_ptr(std::move(thrown)));
}

TEST(Failure, HasACodeByWhoseFaultItIs) {
  const auto file = [](FileFault fault) { return failure(FileError(fault, "f.json", "key", "a", "b")).code; };
  EXPECT_EQ(file(FileFault::missing), 66);
  EXPECT_EQ(file(FileFault::bad), 65);
  EXPECT_EQ(file(FileFault::create), 73);
  EXPECT_EQ(file(FileFault::transfer), 74);
  EXPECT_EQ(failure(TemplateError(TemplateError::Reason::limit, "t", 1, 1, "too long")).code, 65);
  EXPECT_EQ(failure(cli::UsageError("u")).code, 2);
  EXPECT_EQ(failure(UserError(ErrorKind::argument, "u")).code, 2);
  EXPECT_EQ(failure(UserError(ErrorKind::device, "u")).code, 69);
  EXPECT_EQ(failure(InternalError("u")).code, 70);
  EXPECT_THAT(failure(InternalError("the reason")).message, HasSubstr("the reason"));
  EXPECT_EQ(failure(OutOfMemory(100, 10)).code, 71);
  EXPECT_EQ(failure(std::bad_alloc()).code, 71);
  EXPECT_EQ(failure(cli::ExitError(cli::kDiverged, "diverged")).code, 76);
  EXPECT_EQ(failure(std::runtime_error("?")).code, 1);
  EXPECT_EQ(failure(5).code, 1);
}

/// A copy of the model whose vocabulary has fifty million rows, in a file without blocks.
std::string large_model() {
  const std::filesystem::path folder = playground() / "large";
  std::filesystem::create_directories(folder);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    std::filesystem::copy_file(std::filesystem::path(model()) / name, folder / name,
                               std::filesystem::copy_options::overwrite_existing);
  constexpr std::int64_t kRows = 50'000'000;
  Json config = Json::load(std::filesystem::path(model()) / "config.json");
  config.set("vocab_size", kRows);
  std::ofstream(folder / "config.json") << config.dump();
  const SafeTensors tensors = SafeTensors::open(std::filesystem::path(model()) / "model.safetensors");
  Json header = Json::object();
  std::int64_t end = 0;
  for (const TensorInfo& t : tensors.tensors()) {
    Json shape = Json::array();
    std::int64_t count = 1;
    for (const std::int64_t n : t.shape.dims()) {
      const std::int64_t size = t.name.find("embed_tokens") != std::string::npos && shape.size() == 0 ? kRows : n;
      shape.push_back(size), count *= size;
    }
    Json offsets = Json::array();
    offsets.push_back(end), offsets.push_back(end + 2 * count);
    header.set(t.name, Json::object({{"dtype", "BF16"}, {"shape", shape}, {"data_offsets", offsets}}));
    end += 2 * count;
  }
  const std::string text = header.dump();
  const std::uint64_t size = text.size();
  std::ofstream file(folder / "model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&size), 8) << text;
  file.close();
  std::filesystem::resize_file(folder / "model.safetensors", 8 + size + static_cast<std::uint64_t>(end));
  return folder.string();
}

TEST(Failure, OfMemoryIsSaid) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers want all addresses";
#endif
  // 3.2 GB of bf16 that 6 GB of addresses hold, and 6.4 GB of f32 that they do not.
  const Ran ran = shell("devices >/dev/null; ulimit -v 6000000; " METAL_CANDLE_COMMAND " score --dtype f32 --model " +
                        large_model() + " --text x");
  EXPECT_EQ(ran.code, 71) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("memory"));
}

// ---- a terminal -----------------------------------------------------------------------------------------------------

/// Runs it with standard error on a terminal of that many columns, and standard output in a file; what the terminal saw.
std::string on_terminal(const std::vector<std::string>& arguments, unsigned short columns, const char* variable) {
  winsize size = {};
  size.ws_row = 24, size.ws_col = columns;
  int terminal = -1, theirs = -1;
  EXPECT_EQ(openpty(&terminal, &theirs, nullptr, nullptr, &size), 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(open((playground() / "terminal.out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
    dup2(theirs, 2);
    close(terminal);
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    putenv(const_cast<char*>(variable));
    std::vector<char*> argv{const_cast<char*>(METAL_CANDLE_COMMAND)};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(METAL_CANDLE_COMMAND, argv.data());
    _exit(127);
  }
  close(theirs);
  std::string seen;
  char buffer[4096];
  for (ssize_t n; (n = read(terminal, buffer, sizeof buffer)) > 0;) seen.append(buffer, static_cast<std::size_t>(n));
  close(terminal);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0) << seen;
  return seen;
}

std::vector<std::string> training(const std::string& output) {
  return {"train",
          "--model",
          model(),
          "--data",
          (playground() / "train.jsonl").string(),
          "--output",
          (playground() / output).string(),
          "--steps",
          "6",
          "--batch-size",
          "2",
          "--rank",
          "2",
          "--dtype",
          "f32"};
}

/// Columns that a terminal needs for a line: letters of UTF-8, without escapes.
std::size_t columns_of(const std::string& line) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\033') {
      while (i < line.size() && line[i] != 'm' && line[i] != 'K') ++i;
    } else if ((line[i] & 0xc0) != 0x80) {
      ++count;
    }
  }
  return count;
}

TEST(Progress, IsABarOnATerminalAndLinesElsewhere) {
  const std::string seen = on_terminal(training("bar"), 80, "X=1");
  EXPECT_THAT(seen, HasSubstr("\r\033[K"));
  EXPECT_THAT(seen, HasSubstr("━"));
  EXPECT_THAT(seen, HasSubstr("step 6/6"));
  EXPECT_THAT(seen, HasSubstr("\033[36m"));
  const Ran plain = command(training("lines"));
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_THAT(plain.err, HasSubstr("step 6/6  loss"));
  EXPECT_THAT(plain.err, Not(HasSubstr("\033")));
  EXPECT_THAT(plain.err, Not(HasSubstr("\r")));
  EXPECT_THAT(plain.err, Not(HasSubstr("━")));
}

TEST(Progress, HonoursNoColorAndTheWidth) {
  const std::string plain = on_terminal(training("plain"), 80, "NO_COLOR=1");
  EXPECT_THAT(plain, HasSubstr("━"));
  EXPECT_THAT(plain, Not(HasSubstr("\033[36m")));
  for (const unsigned short columns : {40, 16, 9, 1}) {
    const std::string narrow = on_terminal(training("narrow" + std::to_string(columns)), columns, "X=1");
    for (std::size_t at = 0; (at = narrow.find("\r\033[K", at)) != std::string::npos;) {
      at += 4;
      const std::string line = narrow.substr(at, narrow.find_first_of("\r\n", at) - at);
      if (line.find("━") != std::string::npos) {
        EXPECT_LE(columns_of(line), columns) << line;
      }
    }
  }
}

TEST(Progress, IsLinesWhereATerminalObeysNoEscapes) {
  const std::string seen = on_terminal(training("dumb"), 80, "TERM=dumb");
  EXPECT_THAT(seen, HasSubstr("step 6/6  loss"));
  EXPECT_THAT(seen, Not(HasSubstr("\033")));
}

TEST(Progress, IsQuietWhenToldTo) {
  auto line = training("quiet");
  line.emplace_back("--quiet");
  EXPECT_EQ(on_terminal(line, 80, "X=1"), "");
}

}  // namespace
}  // namespace metal_candle::test
