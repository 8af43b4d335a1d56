// Coroutine synchronisation within one reactor's thread: Event, Mutex, Semaphore, WaitQueue. No
// locks, no atomics. Waiters are resumed in order, through Reactor::post (never from inside the
// releasing call), so that a release does not run foreign code in the middle of the releaser.
#pragma once

#include <coroutine>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "base/task.h"
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

// Many sharers or one exclusive holder; a waiting exclusive holds back later sharers. Sharing an
// idle one costs an increment.
//   co_await mutex.lock_shared();    ... mutex.unlock_shared();
//   co_await mutex.lock();           ... mutex.unlock();
class SharedMutex {
 public:
  explicit SharedMutex(Reactor& reactor) : shared_queue_(reactor), exclusive_queue_(reactor) {}

  Task<void> lock() {
    ++exclusive_waiting_;
    while (exclusive_ || sharers_ > 0) co_await exclusive_queue_.wait();
    --exclusive_waiting_;
    exclusive_ = true;
  }
  void unlock() {
    exclusive_ = false;
    wake();
  }
  bool try_lock_shared() {
    if (exclusive_ || exclusive_waiting_ > 0) return false;
    ++sharers_;
    return true;
  }
  Task<void> lock_shared() {
    while (!try_lock_shared()) co_await shared_queue_.wait();
  }
  void unlock_shared() {
    CHECK(sharers_ > 0);
    if (--sharers_ == 0) wake();
  }

 private:
  void wake() {
    if (exclusive_waiting_ > 0) {
      exclusive_queue_.wake_all();
    } else {
      shared_queue_.wake_all();
    }
  }
  uint64_t sharers_ = 0;
  uint64_t exclusive_waiting_ = 0;
  bool exclusive_ = false;
  WaitQueue shared_queue_;
  WaitQueue exclusive_queue_;
};

class SharedLock {
 public:
  explicit SharedLock(SharedMutex& locked) : mutex_(&locked) {}
  SharedLock(const SharedLock&) = delete;
  ~SharedLock() { mutex_->unlock_shared(); }

 private:
  SharedMutex* mutex_;
};
class ExclusiveLock {
 public:
  explicit ExclusiveLock(SharedMutex& locked) : mutex_(&locked) {}
  ExclusiveLock(const ExclusiveLock&) = delete;
  ~ExclusiveLock() { mutex_->unlock(); }

 private:
  SharedMutex* mutex_;
};

// Awaits all tasks, run concurrently on this reactor; the first error is returned when all ended.
inline Task<Result<void>> join_all(Reactor& reactor, std::vector<Task<Result<void>>> tasks) {
  Result<void> outcome;
  size_t left = tasks.size();
  std::coroutine_handle<> waiter;
  for (auto& task : tasks) {
    spawn(std::move(task), [&](Result<void> result) {
      if (!result && outcome) outcome = std::move(result);
      if (--left == 0 && waiter) reactor.post([waiter] { waiter.resume(); });
    });
  }
  struct Awaiter {
    size_t& left;
    std::coroutine_handle<>& waiter;
    bool await_ready() const noexcept { return left == 0; }
    void await_suspend(std::coroutine_handle<> h) noexcept { waiter = h; }
    void await_resume() const noexcept {}
  };
  co_await Awaiter{left, waiter};
  co_return outcome;
}

}  // namespace squall
