// UringReactor: the Reactor of real hosts, on one io_uring. One per I/O thread.
//
// Thread safety: it may be created and prepared on any thread, but belongs to the thread that first
// enters the kernel through it (run(), run_once(), or a submit() that finds the submission queue
// full); from then on only post(), stop() and the clocks may be called from elsewhere (CHECKed).
// Ownership: it owns nothing but its ring; operations and timers are their submitters'. All
// operations must have completed before it is destroyed (CHECKed); work posted and not yet run is
// dropped.
// Handles are file descriptors in blocking mode.
// Cost: nothing is allocated per operation; a timer costs a tree node, foreign posts a wake-up only
// when the reactor sleeps.
#pragma once

#include <liburing.h>
#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "base/error.h"
#include "io/reactor.h"

namespace squall {

class UringReactor final : public Reactor {
 public:
  // Fails with a message that says what to change where the kernel lacks or forbids io_uring. Needs
  // Linux 5.11 or newer.
  static Result<std::unique_ptr<UringReactor>> create();
  ~UringReactor() override;
  UringReactor(const UringReactor&) = delete;
  UringReactor& operator=(const UringReactor&) = delete;

  void submit(Operation& op) override;
  void cancel(Operation& op) override;
  void arm(Timer& timer, uint64_t deadline_ns) override;
  void disarm(Timer& timer) override;
  void post(std::move_only_function<void()> work) override;
  uint64_t now_ns() const override;
  int64_t wall_clock_s() const override;
  void run() override;
  // Always true: another thread may post at any time. Not to be called from a callback.
  bool run_once() override;
  void stop() override;

  // Operations submitted and not yet completed.
  uint64_t in_flight() const { return in_flight_; }

 private:
  // What is left of a read or write that the kernel has done in part.
  struct Partial;
  // A submission, or the cancellation of one, that waits for a place in the submission queue.
  struct Request {
    Operation* op;  // for a cancellation only an identity: it may have completed since
    bool is_cancel;
  };
  struct TimerKey {
    uint64_t deadline_ns;
    uint64_t sequence;  // first armed, first fired among equal deadlines
    Timer* timer;
    auto operator<=>(const TimerKey&) const = default;
  };

  UringReactor() = default;

  void bind_thread();
  void check_thread() const;
  void enqueue(Request request);
  void retry_backlog();
  io_uring_sqe* next_sqe();
  void prepare(io_uring_sqe* sqe, Operation& op);
  void arm_wakeup();

  bool may_block();
  void enter_kernel(bool block);
  void reap();
  void complete(Operation& op, int result);
  bool take_progress(Operation& op, int& result);
  void finish(Operation& op, int result);
  void expire_timers();
  void run_posted();

  io_uring ring_{};
  bool ring_ready_ = false;
  bool ring_disabled_ = false;  // created with IORING_SETUP_R_DISABLED, not yet enabled
  bool bound_ = false;
  pthread_t owner_{};
  bool in_turn_ = false;
  bool stopping_ = false;
  uint64_t in_flight_ = 0;
  std::deque<Request> backlog_;

  std::set<TimerKey> timers_;
  uint64_t next_timer_sequence_ = 1;

  int wakeup_fd_ = -1;
  bool wakeup_armed_ = false;
  uint64_t wakeup_value_ = 0;  // written by the kernel, of no interest
  std::atomic<bool> sleeping_{false};

  std::mutex inbox_mutex_;
  std::vector<std::move_only_function<void()>> inbox_;  // guarded by inbox_mutex_
  std::vector<std::move_only_function<void()>> posted_batch_;
};

}  // namespace squall
