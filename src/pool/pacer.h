// Pacer: what long background work calls between its steps, so that it neither keeps the reactor
// busy nor takes the disks away from guests, and ends soon when asked to. One reactor's thread.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/error.h"
#include "base/task.h"
#include "io/reactor.h"

namespace squall {

class Pacer {
 public:
  explicit Pacer(Reactor& reactor) : reactor_(reactor) {}

  // 0: as fast as it goes; others still get their turn.
  void set_rate(uint64_t bytes_per_s) {
    rate_ = bytes_per_s;
    busy_until_ns_ = 0;
  }
  void cancel() { cancelled_ = true; }
  void reset() { cancelled_ = false; }
  const bool& is_cancelled() const { return cancelled_; }

  // After work that read or wrote about `bytes`. kCancelled when it should end.
  Task<Result<void>> did(uint64_t bytes) {
    co_await yield_to(reactor_);
    if (rate_ > 0) {
      const uint64_t now = reactor_.now_ns();
      busy_until_ns_ = std::max(busy_until_ns_, now) + bytes * 1'000'000'000 / rate_;
      constexpr uint64_t kSliceNs = 20'000'000;  // how soon a cancel is seen
      constexpr uint64_t kIgnoredNs = 2'000'000;
      while (!cancelled_ && busy_until_ns_ > reactor_.now_ns() + kIgnoredNs)
        co_await sleep_ns(reactor_, std::min(kSliceNs, busy_until_ns_ - reactor_.now_ns()));
    }
    if (cancelled_) co_return fail(ErrorKind::kCancelled, "garbage collection was cancelled");
    co_return Result<void>();
  }

 private:
  Reactor& reactor_;
  uint64_t rate_ = 0;
  uint64_t busy_until_ns_ = 0;  // the work done so far is worth waiting until then
  bool cancelled_ = false;
};

}  // namespace squall
