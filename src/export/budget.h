// Budget: a bounded quantity (bytes, requests) that many coroutines of one reactor's thread draw
// on, first come first served whatever the sizes. A demand above the whole is granted once nothing
// else is held, so nothing waits for ever for what cannot be.
#pragma once

#include <coroutine>
#include <cstdint>
#include <deque>
#include <utility>

#include "base/check.h"
#include "io/reactor.h"

namespace squall {

class Budget {
 public:
  // Units held; gives them back when destroyed. The Budget outlives its leases.
  class Lease {
   public:
    Lease() = default;
    Lease(Budget* budget, uint64_t units) : budget_(budget), units_(units) {}
    Lease(Lease&& other) noexcept
        : budget_(std::exchange(other.budget_, nullptr)), units_(other.units_) {}
    Lease& operator=(Lease&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(units_, other.units_);
      return *this;
    }
    ~Lease() {
      if (budget_ != nullptr) budget_->release(units_);
    }
    explicit operator bool() const { return budget_ != nullptr; }

   private:
    Budget* budget_ = nullptr;
    uint64_t units_ = 0;
  };

  Budget(Reactor& reactor, uint64_t units) : reactor_(reactor), limit_(units) {}
  ~Budget() { CHECK(waiters_.empty() && used_ == 0); }
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  // Empty when it would have to wait.
  Lease try_acquire(uint64_t units) {
    if (!waiters_.empty() || !fits(units)) return {};
    used_ += units;
    return Lease(this, units);
  }
  auto acquire(uint64_t units) {
    struct Awaiter {
      Budget& budget;
      uint64_t units;
      bool await_ready() noexcept {
        if (!budget.waiters_.empty() || !budget.fits(units)) return false;
        budget.used_ += units;
        return true;
      }
      void await_suspend(std::coroutine_handle<> h) { budget.waiters_.push_back({units, h}); }
      Lease await_resume() noexcept { return Lease(&budget, units); }
    };
    return Awaiter{*this, units};
  }
  uint64_t used() const { return used_; }
  bool has_waiters() const { return !waiters_.empty(); }

 private:
  struct Waiter {
    uint64_t units;
    std::coroutine_handle<> handle;
  };
  bool fits(uint64_t units) const {
    return used_ == 0 || (used_ <= limit_ && units <= limit_ - used_);
  }
  void release(uint64_t units) {
    CHECK(used_ >= units);
    used_ -= units;
    while (!waiters_.empty() && fits(waiters_.front().units)) {
      const Waiter next = waiters_.front();
      waiters_.pop_front();
      used_ += next.units;  // passes to that waiter
      reactor_.post([handle = next.handle] { handle.resume(); });
    }
  }

  Reactor& reactor_;
  const uint64_t limit_;
  uint64_t used_ = 0;
  std::deque<Waiter> waiters_;
};

}  // namespace squall
