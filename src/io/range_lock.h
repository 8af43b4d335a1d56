// RangeLock: exclusive and shared locks on byte ranges of one object, first come first served among
// those that overlap. One reactor's thread only. The guard releases when destroyed.
#pragma once

#include <coroutine>
#include <cstdint>
#include <list>
#include <utility>

#include "io/reactor.h"

namespace squall {

class RangeLock {
 public:
  explicit RangeLock(Reactor& reactor) : reactor_(reactor) {}
  ~RangeLock();
  RangeLock(const RangeLock&) = delete;
  RangeLock& operator=(const RangeLock&) = delete;

 private:
  struct Entry {
    uint64_t begin, end;
    bool exclusive;
    bool granted;
    std::coroutine_handle<> waiter;
  };
  using Iterator = std::list<Entry>::iterator;

 public:
  class Guard {
   public:
    Guard(RangeLock* lock, Iterator entry) : lock_(lock), entry_(entry) {}
    Guard(Guard&& other) noexcept
        : lock_(std::exchange(other.lock_, nullptr)), entry_(other.entry_) {}
    Guard& operator=(Guard&&) = delete;
    ~Guard() {
      if (lock_ != nullptr) lock_->release(entry_);
    }

   private:
    RangeLock* lock_;
    Iterator entry_;
  };

  class Awaiter {
   public:
    Awaiter(RangeLock& lock, Iterator entry) : lock_(lock), entry_(entry) {}
    bool await_ready() const noexcept { return entry_->granted; }
    void await_suspend(std::coroutine_handle<> h) noexcept { entry_->waiter = h; }
    Guard await_resume() noexcept { return Guard(&lock_, entry_); }

   private:
    RangeLock& lock_;
    Iterator entry_;
  };

  // The lock is queued by the call itself; await it at once.
  Awaiter lock(uint64_t offset, uint64_t length, bool exclusive);

 private:
  bool blocked(Iterator entry);
  void release(Iterator entry);

  Reactor& reactor_;
  std::list<Entry> entries_;  // in arrival order
};

}  // namespace squall
