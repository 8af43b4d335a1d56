// Pacer: keeps long background work (check, scrub, garbage collection) below a rate, lets
// everything else on the reactor have its turn, and lets the work be cancelled. One reactor's
// thread; `reactor` outlives it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "base/error.h"
#include "base/task.h"
#include "io/reactor.h"

namespace squall {

class Pacer {
 public:
  // `bytes_per_s` 0: as fast as it goes. `cancelled` may be empty.
  Pacer(Reactor& reactor, uint64_t bytes_per_s, std::function<bool()> cancelled = {})
      : reactor_(reactor), bytes_per_s_(bytes_per_s), cancelled_(std::move(cancelled)) {}

  void set_rate(uint64_t bytes_per_s) {
    bytes_per_s_ = bytes_per_s;
    ready_ns_ = 0;
  }
  uint64_t spent_bytes() const { return spent_bytes_; }
  bool is_cancelled() const { return cancelled_ && cancelled_(); }

  // To be called with the bytes that a step reads or writes: waits until the rate allows them.
  // Gives whatever else is pending on the reactor a turn in any case. kCancelled.
  Task<Result<void>> spend(uint64_t bytes) {
    spent_bytes_ += bytes;
    const uint64_t now = reactor_.now_ns();
    // What was not done in time is made up for in short bursts only. Nor are there short naps: a
    // timer is late by more than a small step takes.
    ready_ns_ = std::max(ready_ns_, now > kBurstNs ? now - kBurstNs : 0);
    co_await yield_to(reactor_);
    const bool is_ahead = ready_ns_ > reactor_.now_ns() + kNapNsMin;
    while (is_ahead && ready_ns_ > reactor_.now_ns() && !is_cancelled())
      co_await sleep_ns(reactor_, std::min(ready_ns_ - reactor_.now_ns(), kNapNsMax));
    if (bytes_per_s_ > 0) ready_ns_ += bytes * kNsPerS / bytes_per_s_;
    if (is_cancelled()) co_return fail(ErrorKind::kCancelled, "stopped before the end");
    co_return Result<void>();
  }

 private:
  static constexpr uint64_t kNsPerS = 1'000'000'000;
  static constexpr uint64_t kBurstNs = 20'000'000;
  static constexpr uint64_t kNapNsMin = 2'000'000;
  static constexpr uint64_t kNapNsMax = 50'000'000;  // how late a cancellation may be noticed

  Reactor& reactor_;
  uint64_t bytes_per_s_;
  const std::function<bool()> cancelled_;
  uint64_t spent_bytes_ = 0;
  uint64_t ready_ns_ = 0;
};

}  // namespace squall
