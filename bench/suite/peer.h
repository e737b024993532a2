// A peer library in a process of its own, which answers one line for each line it is sent (bench/peers/peer.py).
#pragma once

#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace bench {

enum class PeerKind { torch_eager, torch_compile, mlx, llama, tokenizers, sentence_transformers, onnxruntime };

/// PyTorch's large operations are mostly page faults on fresh outputs, unless glibc is told to reuse its heap.
struct PeerConfig {
  PeerKind kind;
  bool reuse_heap = false;
  std::string label = {};    // tells processes of one kind apart; a process keeps only its latest work
  std::string name() const;  // "torch eager, heap reuse"
  auto operator<=>(const PeerConfig&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 sees a 0 in it
};

class Peer {
 public:
  static constexpr double kPatience = 300;

  /// Starts the process; `python` has the peer's packages.
  /// `scratch` is where it puts error output and what it compiles.
  Peer(const std::string& python, const PeerConfig& config, int threads, bool cpu_time, const std::string& scratch);
  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  int pid() const { return pid_; }
  const std::string& version() const { return version_; }
  /// Sends a line and waits for the answer, a line of JSON; empty when the process is gone. One that has not answered
  /// after that many seconds is ended, with what it started, and the answer says so.
  std::string ask(const std::string& line, double limit = kPatience);

 private:
  int pid_ = -1;
  std::FILE* to_ = nullptr;
  std::FILE* from_ = nullptr;
  std::string version_;
};

/// The number or text after "key": in a flat line of JSON.
std::optional<double> number_in(const std::string& json, const std::string& key);
std::optional<std::string> text_in(const std::string& json, const std::string& key);

/// The peers of this run, each started when first asked for.
class Peers {
 public:
  /// Compilers of peers begin with an empty cache in every run.
  Peers(std::string python, int threads, bool cpu_time, std::string scratch);
  ~Peers();
  /// Null where it cannot run.
  Peer* get(const PeerConfig& config);
  /// Another one, for a measurement that wants a process of its own.
  std::unique_ptr<Peer> fresh(const PeerConfig& config) const;
  bool available() const { return !python_.empty(); }
  /// Ends all of them, to give their memory back.
  void stop() { running_.clear(); }

 private:
  std::string python_;
  int threads_;
  bool cpu_time_;
  std::string scratch_;
  std::map<PeerConfig, std::unique_ptr<Peer>> running_;
};

}  // namespace bench
