// Gate: how an object with work in flight is stopped: no new entries, cancel what can be cancelled,
// wait until the rest has left, then free. One reactor's thread only.
//
//   Gate gate;
//   if (auto pass = gate.enter()) { ... co_await ...; }   // the pass leaves when destroyed
//   co_await gate.close();                                 // in the owner, before destruction
#pragma once

#include <coroutine>
#include <cstdint>
#include <utility>

#include "base/check.h"

namespace squall {

class Gate {
 public:
  class Pass {
   public:
    Pass() = default;
    explicit Pass(Gate* gate) : gate_(gate) {}
    Pass(Pass&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Pass& operator=(Pass&& other) noexcept {
      std::swap(gate_, other.gate_);
      return *this;
    }
    ~Pass() {
      if (gate_ != nullptr) gate_->leave();
    }
    explicit operator bool() const { return gate_ != nullptr; }

   private:
    Gate* gate_ = nullptr;
  };

  Gate() = default;
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  ~Gate() { CHECK(inside_ == 0); }

  // Empty when the gate is closed.
  Pass enter() {
    if (closed_) return {};
    ++inside_;
    return Pass(this);
  }
  bool is_closed() const { return closed_; }
  uint64_t inside() const { return inside_; }

  // Closes at once; the await ends when nobody is inside. At most one waiter.
  auto close() {
    closed_ = true;
    struct Awaiter {
      Gate& gate;
      bool await_ready() const noexcept { return gate.inside_ == 0; }
      void await_suspend(std::coroutine_handle<> h) noexcept {
        CHECK(!gate.waiter_);
        gate.waiter_ = h;
      }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this};
  }

 private:
  void leave() {
    CHECK(inside_ > 0);
    if (--inside_ == 0 && waiter_) std::exchange(waiter_, {}).resume();
  }
  uint64_t inside_ = 0;
  bool closed_ = false;
  std::coroutine_handle<> waiter_;
};

}  // namespace squall
