// PostReactor: a queue of posted work and nothing else: for unit tests and benchmarks of code that
// does no I/O of its own but must be seen to suspend. Any other request is a bug of the test.
#pragma once

#include <deque>
#include <utility>

#include "base/check.h"
#include "io/reactor.h"

namespace squall {

class PostReactor : public Reactor {
 public:
  void submit(Operation&) override { CHECK(false); }
  void cancel(Operation&) override { CHECK(false); }
  void arm(Timer&, uint64_t) override { CHECK(false); }
  void disarm(Timer&) override { CHECK(false); }
  void post(std::move_only_function<void()> work) override { queue_.push_back(std::move(work)); }
  uint64_t now_ns() const override { return 0; }
  int64_t wall_clock_s() const override { return 0; }
  void run() override {
    while (run_once()) {
    }
  }
  bool run_once() override {
    if (queue_.empty()) return false;
    auto work = std::move(queue_.front());
    queue_.pop_front();
    work();
    return true;
  }
  void stop() override { queue_.clear(); }

 private:
  std::deque<std::move_only_function<void()>> queue_;
};

}  // namespace squall
