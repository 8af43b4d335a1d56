// EventLoop: virtual time and the order of everything in one simulation: what SimReactor and
// SimNetwork share. Events run by time, at equal times in a random order, never by address.
#pragma once

#include <functional>
#include <map>
#include <utility>

#include "base/random.h"
#include "io/reactor.h"
#include "sim/trace.h"

namespace squall::sim {

class EventLoop {
 public:
  struct Key {
    uint64_t time_ns = 0;
    uint64_t order = 0;
    uint64_t id = 0;
    auto operator<=>(const Key&) const = default;
  };

  explicit EventLoop(uint64_t seed) : random_(seed) {}

  uint64_t now_ns() const { return now_ns_; }
  Random& random() { return random_; }
  Trace& trace() { return trace_; }
  // A number that no other operation, timer or event of this simulation has.
  uint64_t next_id() { return ++last_id_; }

  Key schedule(uint64_t delay_ns, std::move_only_function<void()> work) {
    const Key key{now_ns_ + delay_ns, random_(), next_id()};
    events_.emplace(key, std::move(work));
    return key;
  }
  void remove(const Key& key) { events_.erase(key); }

  // Moves time to the next event and runs it; false when there is none.
  bool run_next() {
    if (events_.empty()) return false;
    auto next = events_.extract(events_.begin());
    now_ns_ = next.key().time_ns;
    next.mapped()();
    return true;
  }

  // Identifies a submitted operation until it completes.
  void begin(Operation& op) {
    const uint64_t id = next_id();
    op.cancelled = false;
    op.reactor_private = reinterpret_cast<void*>(static_cast<uintptr_t>(id));
    trace_.add({now_ns_, id, static_cast<uint64_t>(op.code), static_cast<uint64_t>(op.handle),
                op.offset, op.length});
  }
  static uint64_t id_of(const Operation& op) {
    return reinterpret_cast<uintptr_t>(op.reactor_private);
  }
  void complete(Operation& op, int result) {
    trace_.add({now_ns_, id_of(op), static_cast<uint64_t>(result)});
    op.reactor_private = nullptr;
    op.result = result;
    op.on_complete(op);
  }
  void complete_later(Operation& op, uint64_t delay_ns, int result) {
    schedule(delay_ns, [this, &op, result] { complete(op, result); });
  }

 private:
  Random random_;
  Trace trace_;
  uint64_t now_ns_ = 0;
  uint64_t last_id_ = 0;
  std::map<Key, std::move_only_function<void()>> events_;
};

}  // namespace squall::sim
