#include "graph/epoch.h"

#include <atomic>
#include <mutex>
#include <utility>
#include <vector>

#include "base/fork.h"
#include "graph/node.h"

namespace metal_candle {
namespace {

struct Reader {
  std::atomic<std::uint64_t> epoch{0};  // 0: not reading
  std::atomic<bool> taken{true};
  int depth = 0;
  Reader* next = nullptr;
};

std::atomic<std::uint64_t> now{1};
std::atomic<Reader*> readers{nullptr};

// Registered once per thread and kept for the next thread when this one ends.
struct Registration {
  Reader* reader;
  Registration() {
    for (Reader* r = readers.load(); r; r = r->next) {
      bool free = false;
      if (r->taken.compare_exchange_strong(free, true)) {
        reader = r;
        return;
      }
    }
    reader = new Reader;
    reader->next = readers.load();
    while (!readers.compare_exchange_weak(reader->next, reader)) {
    }
  }
  ~Registration() { reader->taken.store(false); }
};

Reader& mine() {
  static thread_local Registration registration;
  return *registration.reader;
}

struct Pending {
  Pending();
  std::mutex mutex;
  std::vector<std::pair<std::uint64_t, Node*>> nodes;  // epochs ascending
  std::atomic<bool> any{false};
};
Pending& pending() {
  static Pending* p = new Pending;
  return *p;
}

/// In a child of fork nobody else is reading any more.
void end_other_readers() {
  const Reader* self = &mine();
  for (Reader* r = readers.load(); r; r = r->next) {
    if (r == self) continue;
    r->depth = 0;
    r->epoch.store(0);
    r->taken.store(false);
  }
}

Pending::Pending() {
  base::at_fork({base::ForkOrder::last, this, [](void* p) { static_cast<Pending*>(p)->mutex.lock(); },
                 [](void* p) { static_cast<Pending*>(p)->mutex.unlock(); },
                 [](void* p) {
                   end_other_readers();
                   static_cast<Pending*>(p)->mutex.unlock();
                 }});
}

std::uint64_t oldest_reader() {
  std::uint64_t oldest = ~std::uint64_t{0};
  for (Reader* r = readers.load(); r; r = r->next) {
    const std::uint64_t e = r->epoch.load();
    if (e != 0 && e < oldest) oldest = e;
  }
  return oldest;
}

void drop(Node* node) { LazyTensor::adopt(node); }

void drain() {
  Pending& p = pending();
  std::vector<std::pair<std::uint64_t, Node*>> done;
  {
    std::lock_guard lock(p.mutex);
    // Looked up here and not before: a node may have been put aside for a reader that came after an earlier look.
    const std::uint64_t oldest = oldest_reader();
    std::size_t n = 0;
    while (n < p.nodes.size() && p.nodes[n].first < oldest) ++n;
    done.assign(p.nodes.begin(), p.nodes.begin() + static_cast<std::ptrdiff_t>(n));
    p.nodes.erase(p.nodes.begin(), p.nodes.begin() + static_cast<std::ptrdiff_t>(n));
    p.any.store(!p.nodes.empty());
  }
  for (auto& entry : done) drop(entry.second);
}

}  // namespace

GraphReader::GraphReader() {
  Reader& r = mine();
  if (r.depth++ != 0) return;
  r.epoch.store(now.load());
  // A writer whose scan missed the store above has advanced `now` before it; reading it again orders us behind what
  // that writer took out.
  (void)now.load();
}
GraphReader::~GraphReader() {
  Reader& r = mine();
  if (--r.depth == 0) r.epoch.store(0, std::memory_order_release);
}

void retire(std::span<Node* const> nodes) {
  if (nodes.empty()) return;
  const std::uint64_t tag = now.fetch_add(1);
  const std::uint64_t oldest = oldest_reader();
  Pending& p = pending();
  if (oldest > tag) {
    for (Node* node : nodes) drop(node);
    if (p.any.load(std::memory_order_relaxed)) drain();
    return;
  }
  std::lock_guard lock(p.mutex);
  for (Node* node : nodes) p.nodes.emplace_back(tag, node);
  p.any.store(true);
}

}  // namespace metal_candle
