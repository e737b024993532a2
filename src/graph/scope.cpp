#include "metal_candle/scope.hpp"

#include <map>
#include <mutex>

#include "base/fork.h"

namespace metal_candle {
namespace {

thread_local const std::string* open_scope = nullptr;

// Paths live for good: nodes, plans and traces point at them.
const std::string* intern(const std::string* outer, std::string_view name) {
  struct Paths {
    Paths() { base::at_fork(base::ForkOrder::last, mutex); }
    std::mutex mutex;
    std::map<std::pair<const std::string*, std::string>, const std::string*, std::less<>> known;
  };
  static auto* paths = new Paths;
  std::lock_guard lock(paths->mutex);
  auto key = std::make_pair(outer, std::string(name));
  auto found = paths->known.find(key);
  if (found != paths->known.end()) return found->second;
  const auto* path = new std::string(outer ? *outer + "." + std::string(name) : std::string(name));
  paths->known.emplace(std::move(key), path);
  return path;
}

}  // namespace

Scope::Scope(std::string_view name) : outer_(open_scope) {
  if (!name.empty()) open_scope = intern(outer_, name);
}
Scope::~Scope() { open_scope = outer_; }
const std::string* Scope::current() { return open_scope; }

}  // namespace metal_candle
