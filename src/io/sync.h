// Coroutine synchronisation within one reactor's thread: Event, Mutex, Semaphore, WaitQueue. No
// locks, no atomics. Waiters are resumed in order, through Reactor::post (never from inside the
// releasing call), so that a release does not run foreign code in the middle of the releaser.
#pragma once

#include <coroutine>
#include <cstdint>
#include <deque>
#include <utility>

#include "base/check.h"
#include "io/reactor.h"

namespace squall {

// Coroutines waiting for something; wake_one/wake_all resume them through the reactor.
class WaitQueue {
 public:
  explicit WaitQueue(Reactor& reactor) : reactor_(reactor) {}
  ~WaitQueue() { CHECK(waiters_.empty()); }
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;

  auto wait() {
    struct Awaiter {
      WaitQueue& queue;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> h) { queue.waiters_.push_back(h); }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this};
  }
  void wake_one() {
    if (waiters_.empty()) return;
    auto h = waiters_.front();
    waiters_.pop_front();
    reactor_.post([h] { h.resume(); });
  }
  void wake_all() {
    while (!waiters_.empty()) wake_one();
  }
  bool empty() const { return waiters_.empty(); }
  size_t size() const { return waiters_.size(); }
  Reactor& reactor() { return reactor_; }

 private:
  Reactor& reactor_;
  std::deque<std::coroutine_handle<>> waiters_;
};

// A counting semaphore; Mutex is one with a single unit. acquire() is fair: units are handed to
// waiters in order.
class Semaphore {
 public:
  Semaphore(Reactor& reactor, uint64_t units) : units_(units), queue_(reactor) {}

  auto acquire() {
    struct Awaiter {
      Semaphore& semaphore;
      bool await_ready() noexcept {
        if (semaphore.units_ == 0) return false;
        --semaphore.units_;
        return true;
      }
      void await_suspend(std::coroutine_handle<> h) { inner.await_suspend(h); }
      void await_resume() const noexcept {}
      decltype(std::declval<WaitQueue&>().wait()) inner;
    };
    return Awaiter{*this, queue_.wait()};
  }
  void release() {
    if (queue_.empty())
      ++units_;
    else
      queue_.wake_one();  // the unit passes to that waiter
  }
  uint64_t available() const { return units_; }

 private:
  friend class SemaphoreGuard;
  uint64_t units_;
  WaitQueue queue_;
};

class Mutex : public Semaphore {
 public:
  explicit Mutex(Reactor& reactor) : Semaphore(reactor, 1) {}
};

// Releases a unit that was acquired:  co_await mutex.acquire(); SemaphoreGuard guard(mutex);
class SemaphoreGuard {
 public:
  explicit SemaphoreGuard(Semaphore& semaphore) : semaphore_(&semaphore) {}
  SemaphoreGuard(SemaphoreGuard&& other) noexcept
      : semaphore_(std::exchange(other.semaphore_, nullptr)) {}
  SemaphoreGuard& operator=(SemaphoreGuard&&) = delete;
  ~SemaphoreGuard() { release(); }
  void release() {
    if (semaphore_ != nullptr) std::exchange(semaphore_, nullptr)->release();
  }

 private:
  Semaphore* semaphore_;
};

}  // namespace squall
