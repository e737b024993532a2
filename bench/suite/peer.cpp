#include "suite/peer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <vector>

namespace bench {
namespace {

const char* argument(PeerKind kind) {
  switch (kind) {
    case PeerKind::torch_eager: return "eager";
    case PeerKind::torch_compile: return "compile";
    case PeerKind::mlx: return "mlx";
    case PeerKind::llama: return "llama";
    case PeerKind::sentence_transformers: return "sentence-transformers";
    case PeerKind::onnxruntime: return "onnxruntime";
    case PeerKind::tokenizers: return "tokenizers";
  }
  return "";
}

/// The part of a child between fork and exec.
[[noreturn]] void become(const std::string& python, const PeerConfig& config, int threads, bool cpu_time,
                         const std::string& scratch, int in, int out) {
  setpgid(0, 0);  // it and its compilers can be ended together
  dup2(in, 0);
  dup2(out, 1);
  if (const int err = open((scratch + ".log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644); err >= 0) dup2(err, 2);
  setenv("THREADS", std::to_string(threads).c_str(), 1);
  setenv("OMP_NUM_THREADS", std::to_string(threads).c_str(), 1);
  if (cpu_time) setenv("CPU_TIME", "1", 1);
  setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
  setenv("TORCHINDUCTOR_CACHE_DIR", (scratch + ".compiled").c_str(), 1);
  if (config.reuse_heap) {
    setenv("MALLOC_MMAP_MAX_", "0", 1);
    setenv("MALLOC_TRIM_THRESHOLD_", "100000000000", 1);
    setenv("MALLOC_TOP_PAD_", "1000000000", 1);
  }
  execl(python.c_str(), python.c_str(), METAL_CANDLE_BENCH_DIR "/peers/peer.py", argument(config.kind),
        static_cast<char*>(nullptr));
  _exit(127);
}

}  // namespace

std::string PeerConfig::name() const {
  const bool torch = kind == PeerKind::torch_eager || kind == PeerKind::torch_compile;
  std::string name = torch                     ? fmt::format("torch {}", argument(kind))
                     : kind == PeerKind::llama ? "llama.cpp"
                                               : argument(kind);
  if (!label.empty()) name += " " + label;
  return reuse_heap ? name + ", heap reuse" : name;
}

Peer::Peer(const std::string& python, const PeerConfig& config, int threads, bool cpu_time,
           const std::string& scratch) {
  std::signal(SIGPIPE, SIG_IGN);  // a peer that died is an empty answer
  int down[2], up[2];
  if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) return;
  pid_ = fork();
  if (pid_ == 0) become(python, config, threads, cpu_time, scratch, down[0], up[1]);
  close(down[0]);
  close(up[1]);
  to_ = fdopen(down[1], "w");
  from_ = fdopen(up[0], "r");
  char* line = nullptr;
  std::size_t capacity = 0;
  if (getline(&line, &capacity, from_) > 0) version_ = text_in(line, "peer").value_or("");
  std::free(line);
}

Peer::~Peer() {
  if (to_) std::fclose(to_);  // its reading ends, and so does it
  if (from_) std::fclose(from_);
  if (pid_ > 0) waitpid(pid_, nullptr, 0);
}

std::string Peer::ask(const std::string& line, double limit) {
  if (version_.empty()) return "";
  fmt::print(to_, "{}\n", line);
  std::fflush(to_);
  pollfd answer_comes{fileno(from_), POLLIN, 0};
  if (poll(&answer_comes, 1, static_cast<int>(limit * 1000)) == 0) {
    kill(-pid_, SIGKILL);
    version_.clear();
    return fmt::format("{{\"error\": \"no answer after {:.0f} s\"}}", limit);
  }
  char* answer = nullptr;
  std::size_t capacity = 0;
  std::string out;
  if (getline(&answer, &capacity, from_) > 0) out = answer;
  else version_.clear();
  std::free(answer);
  return out;
}

std::optional<double> number_in(const std::string& json, const std::string& key) {
  const auto at = json.find(fmt::format("\"{}\": ", key));
  if (at == std::string::npos) return std::nullopt;
  return std::strtod(json.c_str() + at + key.size() + 4, nullptr);
}

std::optional<std::string> text_in(const std::string& json, const std::string& key) {
  const std::string head = fmt::format("\"{}\": \"", key);
  const auto at = json.find(head);
  if (at == std::string::npos) return std::nullopt;
  const auto begin = at + head.size();
  return json.substr(begin, json.find('"', begin) - begin);
}

Peers::Peers(std::string python, int threads, bool cpu_time, std::string scratch)
    : python_(std::move(python)), threads_(threads), cpu_time_(cpu_time), scratch_(std::move(scratch)) {
  std::filesystem::remove_all(scratch_ + ".compiled");
  std::filesystem::remove(scratch_ + ".log");
}

Peers::~Peers() {
  running_.clear();
  std::error_code ignored;
  std::filesystem::remove_all(scratch_ + ".compiled", ignored);
}

Peer* Peers::get(const PeerConfig& config) {
  if (!available()) return nullptr;
  auto& peer = running_[config];
  if (!peer) peer = fresh(config);
  return peer->version().empty() ? nullptr : peer.get();
}

std::unique_ptr<Peer> Peers::fresh(const PeerConfig& config) const {
  return std::make_unique<Peer>(python_, config, threads_, cpu_time_, scratch_);
}

}  // namespace bench
