// Epochs: tells when every operation that began before a moment has ended. An operation takes a
// pass when it begins; a barrier waits for the passes taken before it. Two generations of counters,
// so a pass costs two additions (the scheme of quiescence counters in sleepable RCU). One reactor's
// thread; the object outlives its passes.
//
// Today one process owns the pool, so this is the whole barrier. Nodes that share a pool will each
// run one and acknowledge the catalog's version (key pool/gc) with it.
#pragma once

#include <coroutine>
#include <cstdint>
#include <utility>

#include "base/check.h"
#include "base/task.h"
#include "io/reactor.h"

namespace squall {

class Epochs {
 public:
  class Pass {
   public:
    Pass() = default;
    Pass(Epochs* epochs, unsigned generation) : epochs_(epochs), generation_(generation) {}
    Pass(Pass&& other) noexcept
        : epochs_(std::exchange(other.epochs_, nullptr)), generation_(other.generation_) {}
    Pass& operator=(Pass&& other) noexcept {
      std::swap(epochs_, other.epochs_);
      std::swap(generation_, other.generation_);
      return *this;
    }
    ~Pass() {
      if (epochs_ != nullptr) epochs_->leave(generation_);
    }

   private:
    Epochs* epochs_ = nullptr;
    unsigned generation_ = 0;
  };

  Epochs() = default;
  Epochs(const Epochs&) = delete;
  Epochs& operator=(const Epochs&) = delete;
  ~Epochs() { CHECK(inside_[0] == 0 && inside_[1] == 0); }

  Pass enter() {
    ++inside_[current_];
    return {this, current_};
  }
  // Until every pass taken before the call is gone, or `abandoned` has become true: whoever sets it
  // calls wake(). One barrier at a time.
  Task<void> barrier(Reactor& reactor, const bool& abandoned) {
    CHECK(!waiter_);
    reactor_ = &reactor;
    // An abandoned barrier may have left passes in the older generation.
    const unsigned older = 1 - current_;
    while (inside_[older] > 0 && !abandoned) co_await Wait{*this};
    if (abandoned) co_return;
    const unsigned ending = std::exchange(current_, older);
    while (inside_[ending] > 0 && !abandoned) co_await Wait{*this};
  }
  void wake() {
    if (waiter_) reactor_->post([waiter = std::exchange(waiter_, {})] { waiter.resume(); });
  }

 private:
  struct Wait {
    Epochs& epochs;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) noexcept { epochs.waiter_ = waiter; }
    void await_resume() const noexcept {}
  };
  void leave(unsigned generation) {
    CHECK(inside_[generation] > 0);
    if (--inside_[generation] == 0) wake();
  }

  unsigned current_ = 0;
  uint64_t inside_[2] = {0, 0};
  std::coroutine_handle<> waiter_;
  Reactor* reactor_ = nullptr;
};

}  // namespace squall
