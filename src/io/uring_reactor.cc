// Design. run() is a sequence of turns. A turn enters the kernel once: it submits everything queued
// since the last turn and, when nothing else is ready, waits there for a completion, a timer or a
// wake-up. Then it handles, in this order and each kind bounded by what was ready when its share of
// the turn began: completions, expired timers, posted work. So none of the three can starve
// another.
//
// Wake-up: post() appends under a mutex and writes to an eventfd only when the reactor has declared
// (sleeping_, set under the same mutex after having found the inbox empty) that it is about to
// block. A read of that eventfd is always in flight; its completion ends the wait.
//
// Nothing is lost: when the submission queue is full it is submitted at once, and what still finds
// no place waits in backlog_, in order with later requests. That order matters to cancellations,
// which name an operation by its address: an operation that reuses an address is always submitted
// after a cancellation meant for its predecessor. Completion queue overflow is kept by the kernel
// (IORING_FEAT_NODROP) and fetched by the peek in reap().
#include "io/uring_reactor.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace squall {

namespace {

constexpr unsigned kSubmissionEntries = 1024;
constexpr unsigned kCompletionEntries = 4096;
constexpr unsigned kReapBatch = 128;
// The kernel takes no more per call; the rest of a larger request is submitted as its continuation.
constexpr size_t kMaxIovecs = IOV_MAX;
constexpr size_t kMaxTransferBytes = 1U << 30;

// user_data of submissions that are not operations; no Operation has such an address.
constexpr uint64_t kWakeupTag = 1;
constexpr uint64_t kCancelTag = 2;

uint64_t clock_ns(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

std::unexpected<Error> explain_setup_failure(int os_errno) {
  switch (os_errno) {
    case ENOSYS:
      return fail(ErrorKind::kUnsupported,
                  "io_uring: this kernel (or the container's seccomp profile) does not offer it; "
                  "Linux 5.11 or newer is needed");
    case EPERM:
    case EACCES:
      return fail_errno(os_errno,
                        "io_uring: forbidden here; allow it with sysctl kernel.io_uring_disabled=0 "
                        "and in the container's seccomp profile");
    case ENOMEM:
      return fail_errno(os_errno,
                        "io_uring: no memory for the rings; raise the limit on locked memory "
                        "(ulimit -l)");
    default:
      return fail_errno(os_errno, "io_uring: setting up the rings");
  }
}

// Sets up `ring` with the best flags this kernel knows; returns the flags, or a negative errno.
int set_up_ring(io_uring* ring) {
  constexpr unsigned kAlways = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED;
  constexpr unsigned kLinux5_19 =
      IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  constexpr unsigned kLinux6_1 = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER |
                                 IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  int result = -EINVAL;
  for (const unsigned flags : {kAlways | kLinux6_1, kAlways | kLinux5_19, kAlways}) {
    io_uring_params params{};
    params.flags = flags;
    params.cq_entries = kCompletionEntries;
    result = io_uring_queue_init_params(kSubmissionEntries, ring, &params);
    if (result == 0) return static_cast<int>(flags);
    if (result != -EINVAL) break;
  }
  return result;
}

// liburing 2.3 declares io_uring_enable_rings() but its shared library does not export it.
int enable_ring(const io_uring& ring) {
  return static_cast<int>(
      ::syscall(__NR_io_uring_register, ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0));
}

uint64_t total_bytes(const Operation& op) {
  uint64_t total = 0;
  for (uint32_t i = 0; i < op.iov_count; ++i) total += op.iov[i].iov_len;
  return total;
}

bool is_transfer(const Operation& op) {
  return op.code == Operation::Code::kRead || op.code == Operation::Code::kWrite;
}

}  // namespace

struct UringReactor::Partial {
  std::vector<iovec> iov;
  size_t first = 0;  // iov[first...] is still to be transferred
  uint64_t done_bytes = 0;

  void advance(uint64_t bytes) {
    done_bytes += bytes;
    while (bytes > 0) {
      iovec& head = iov[first];
      const uint64_t step = std::min<uint64_t>(bytes, head.iov_len);
      head.iov_base = static_cast<std::byte*>(head.iov_base) + step;
      head.iov_len -= step;
      bytes -= step;
      if (head.iov_len == 0) ++first;
    }
  }
};

Result<std::unique_ptr<UringReactor>> UringReactor::create() {
  std::unique_ptr<UringReactor> reactor(new UringReactor());
  const int flags = set_up_ring(&reactor->ring_);
  if (flags < 0) return explain_setup_failure(-flags);
  reactor->ring_ready_ = true;
  reactor->ring_disabled_ = (flags & IORING_SETUP_R_DISABLED) != 0;
  constexpr unsigned kNeeded =
      IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG;
  if ((reactor->ring_.features & kNeeded) != kNeeded)
    return fail(
        ErrorKind::kUnsupported,
        "io_uring: this kernel's is too old (features {:#x}); Linux 5.11 or newer is needed",
        reactor->ring_.features);
  reactor->wakeup_fd_ = ::eventfd(0, EFD_CLOEXEC);
  if (reactor->wakeup_fd_ < 0) return fail_errno(errno, "io_uring: creating the wake-up eventfd");
  return reactor;
}

UringReactor::~UringReactor() {
  CHECK(in_flight_ == 0);
  if (ring_ready_) io_uring_queue_exit(&ring_);
  if (wakeup_fd_ >= 0) ::close(wakeup_fd_);
}

// The ring is enabled late so that the kernel takes the thread that runs it for its single issuer,
// whoever created it.
void UringReactor::bind_thread() {
  if (bound_) {
    check_thread();
    return;
  }
  if (std::exchange(ring_disabled_, false)) CHECK(enable_ring(ring_) == 0);
  // Spares a reference count per entry of the kernel; where it cannot be had nothing is lost.
  (void)io_uring_register_ring_fd(&ring_);
  owner_ = ::pthread_self();
  bound_ = true;
}

void UringReactor::check_thread() const {
  CHECK(!bound_ || ::pthread_equal(owner_, ::pthread_self()));
}

// --- Submission ---------------------------------------------------------------------------------

void UringReactor::submit(Operation& op) {
  check_thread();
  CHECK(op.reactor_private == nullptr && op.on_complete != nullptr);
  op.reactor_private = this;  // in flight; replaced by a Partial when there is one
  op.cancelled = false;
  op.result = 0;
  ++in_flight_;
  enqueue({&op, false});
}

void UringReactor::cancel(Operation& op) {
  check_thread();
  if (op.reactor_private == nullptr || op.cancelled) return;
  op.cancelled = true;
  enqueue({&op, true});
}

void UringReactor::enqueue(Request request) {
  io_uring_sqe* sqe = backlog_.empty() ? next_sqe() : nullptr;
  if (sqe == nullptr) {
    backlog_.push_back(request);
  } else if (request.is_cancel) {
    io_uring_prep_cancel64(sqe, reinterpret_cast<uint64_t>(request.op), 0);
    io_uring_sqe_set_data64(sqe, kCancelTag);
  } else {
    prepare(sqe, *request.op);
    io_uring_sqe_set_data64(sqe, reinterpret_cast<uint64_t>(request.op));
  }
}

void UringReactor::retry_backlog() {
  std::deque<Request> waiting = std::exchange(backlog_, {});
  for (const Request& request : waiting) enqueue(request);
}

io_uring_sqe* UringReactor::next_sqe() {
  if (io_uring_sqe* sqe = io_uring_get_sqe(&ring_)) return sqe;
  bind_thread();
  // A failure (EAGAIN, EBUSY) leaves the queue full; the caller then waits in the backlog.
  (void)io_uring_submit(&ring_);
  return io_uring_get_sqe(&ring_);
}

void UringReactor::prepare(io_uring_sqe* sqe, Operation& op) {
  using enum Operation::Code;
  const iovec* iov = op.iov;
  size_t count = op.iov_count;
  uint64_t offset = op.offset;
  if (op.reactor_private != this) {
    const auto* partial = static_cast<const Partial*>(op.reactor_private);
    iov = partial->iov.data() + partial->first;
    count = partial->iov.size() - partial->first;
    offset += partial->done_bytes;
  }
  const auto vectors = static_cast<unsigned>(std::min(count, kMaxIovecs));
  // A single buffer spares the kernel the import of a vector.
  const bool single = vectors == 1;
  const auto bytes = single ? static_cast<unsigned>(std::min(iov->iov_len, kMaxTransferBytes)) : 0U;
  switch (op.code) {
    case kRead:
      if (single) return io_uring_prep_read(sqe, op.handle, iov->iov_base, bytes, offset);
      return io_uring_prep_readv(sqe, op.handle, iov, vectors, offset);
    case kWrite:
      if (single) return io_uring_prep_write(sqe, op.handle, iov->iov_base, bytes, offset);
      return io_uring_prep_writev(sqe, op.handle, iov, vectors, offset);
    case kSync:
      return io_uring_prep_fsync(sqe, op.handle, IORING_FSYNC_DATASYNC);
    case kPunch:
      if (op.length == 0) return io_uring_prep_nop(sqe);
      return io_uring_prep_fallocate(sqe, op.handle, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                     static_cast<off_t>(op.offset), static_cast<off_t>(op.length));
    case kAccept:
      return io_uring_prep_accept(sqe, op.handle, nullptr, nullptr, SOCK_CLOEXEC);
    case kConnect:
      return io_uring_prep_connect(sqe, op.handle, op.address, op.address_length);
    case kRecv:
      if (single) return io_uring_prep_recv(sqe, op.handle, iov->iov_base, bytes, 0);
      break;
    case kSend:
      if (single) return io_uring_prep_send(sqe, op.handle, iov->iov_base, bytes, MSG_NOSIGNAL);
      break;
  }
  op.message = {};
  op.message.msg_iov = const_cast<iovec*>(iov);
  op.message.msg_iovlen = vectors;
  if (op.code == kRecv) return io_uring_prep_recvmsg(sqe, op.handle, &op.message, 0);
  io_uring_prep_sendmsg(sqe, op.handle, &op.message, MSG_NOSIGNAL);
}

void UringReactor::arm_wakeup() {
  if (wakeup_armed_) return;
  io_uring_sqe* sqe = next_sqe();
  if (sqe == nullptr) return;  // this turn will not block, the next one tries again
  io_uring_prep_read(sqe, wakeup_fd_, &wakeup_value_, sizeof wakeup_value_, 0);
  io_uring_sqe_set_data64(sqe, kWakeupTag);
  wakeup_armed_ = true;
}

// --- Completion ---------------------------------------------------------------------------------

void UringReactor::reap() {
  struct Completion {
    uint64_t tag;
    int result;
  };
  std::array<io_uring_cqe*, kReapBatch> entries;
  std::array<Completion, kReapBatch> batch;
  for (unsigned total = 0; total < kCompletionEntries;) {
    const unsigned count = io_uring_peek_batch_cqe(&ring_, entries.data(), kReapBatch);
    // Copied and handed back first, so that the kernel has room for what the callbacks start.
    for (unsigned i = 0; i < count; ++i) batch[i] = {entries[i]->user_data, entries[i]->res};
    io_uring_cq_advance(&ring_, count);
    for (unsigned i = 0; i < count; ++i) {
      if (batch[i].tag == kCancelTag) continue;
      if (batch[i].tag == kWakeupTag)
        wakeup_armed_ = false;
      else
        complete(*reinterpret_cast<Operation*>(batch[i].tag), batch[i].result);
    }
    if (count < kReapBatch) return;
    total += count;
  }
}

void UringReactor::complete(Operation& op, int result) {
  if (result == -EINTR || result == -EAGAIN) {
    if (!op.cancelled) return enqueue({&op, false});
    result = -ECANCELED;
  }
  if (is_transfer(op) && !take_progress(op, result)) return enqueue({&op, false});
  finish(op, result);
}

// Accounts for what the kernel did of a read or write. False when the rest is to be submitted.
bool UringReactor::take_progress(Operation& op, int& result) {
  auto* partial = op.reactor_private == this ? nullptr : static_cast<Partial*>(op.reactor_private);
  const uint64_t before = partial == nullptr ? 0 : partial->done_bytes;
  if (result < 0) {
    // Direct I/O refuses to go on from an unaligned place, and a read only gets to one by reaching
    // the end of the file.
    const bool at_end = op.code == Operation::Code::kRead && result == -EINVAL && before > 0 &&
                        (op.offset + before) % 512 != 0;
    if (at_end) result = static_cast<int>(before);
    return true;
  }
  const uint64_t done = before + static_cast<uint64_t>(result);
  const uint64_t total = total_bytes(op);
  if (done == total || (result == 0 && op.code == Operation::Code::kRead)) {
    result = static_cast<int>(done);
    return true;
  }
  if (result == 0 || op.cancelled) {
    result = op.cancelled ? -ECANCELED : -EIO;  // a write that makes no progress never will
    return true;
  }
  CHECK(total <= INT_MAX);  // or the result could not say it
  if (partial == nullptr) {
    partial = new Partial{.iov = {op.iov, op.iov + op.iov_count}};
    op.reactor_private = partial;
  }
  partial->advance(static_cast<uint64_t>(result));
  return false;
}

void UringReactor::finish(Operation& op, int result) {
  if (op.reactor_private != this) delete static_cast<Partial*>(op.reactor_private);
  op.reactor_private = nullptr;
  op.result = result;
  --in_flight_;
  op.on_complete(op);  // may free op
}

// --- Timers and posted work ---------------------------------------------------------------------

void UringReactor::arm(Timer& timer, uint64_t deadline_ns) {
  check_thread();
  CHECK(!timer.armed && timer.on_expire != nullptr);
  timer.deadline_ns = deadline_ns;
  timer.armed = true;
  const uint64_t sequence = next_timer_sequence_++;
  timer.reactor_private = reinterpret_cast<void*>(sequence);
  timers_.insert({deadline_ns, sequence, &timer});
}

void UringReactor::disarm(Timer& timer) {
  check_thread();
  if (!timer.armed) return;
  timer.armed = false;
  timers_.erase({timer.deadline_ns, reinterpret_cast<uint64_t>(timer.reactor_private), &timer});
}

void UringReactor::expire_timers() {
  if (timers_.empty()) return;
  const uint64_t now = now_ns();
  const uint64_t sequence_end = next_timer_sequence_;  // those armed from here on wait a turn
  for (auto next = timers_.begin(); next != timers_.end() && next->deadline_ns <= now;) {
    if (next->sequence >= sequence_end) {
      ++next;
      continue;
    }
    const TimerKey key = *next;
    timers_.erase(next);
    key.timer->armed = false;
    key.timer->on_expire(*key.timer);  // may arm, disarm and free any timer
    next = timers_.upper_bound(key);
  }
}

void UringReactor::post(std::move_only_function<void()> work) {
  {
    const std::lock_guard lock(inbox_mutex_);
    inbox_.push_back(std::move(work));
  }
  if (!sleeping_.load(std::memory_order_relaxed) || !sleeping_.exchange(false)) return;
  const uint64_t one = 1;
  while (::write(wakeup_fd_, &one, sizeof one) < 0) CHECK(errno == EINTR);
}

void UringReactor::run_posted() {
  {
    const std::lock_guard lock(inbox_mutex_);
    posted_batch_.swap(inbox_);
  }
  for (auto& slot : posted_batch_) {
    auto work = std::move(slot);  // gone, with what it captured, before the next one runs
    work();
  }
  posted_batch_.clear();
}

// --- The loop -----------------------------------------------------------------------------------

// Also declares the reactor asleep when the answer is yes.
bool UringReactor::may_block() {
  if (!backlog_.empty() || !wakeup_armed_ || io_uring_cq_ready(&ring_) > 0) return false;
  const std::lock_guard lock(inbox_mutex_);
  if (!inbox_.empty()) return false;
  sleeping_.store(true);
  return true;
}

void UringReactor::enter_kernel(bool block) {
  int result = 0;
  if (!block) {
    // Without submissions reap() enters the kernel itself if that would yield completions.
    if (io_uring_sq_ready(&ring_) > 0) result = io_uring_submit_and_get_events(&ring_);
  } else {
    io_uring_cqe* first = nullptr;
    __kernel_timespec timeout{};
    if (!timers_.empty()) {
      const uint64_t now = now_ns();
      const uint64_t deadline = timers_.begin()->deadline_ns;
      const uint64_t wait_ns = deadline > now ? deadline - now : 0;
      timeout.tv_sec = static_cast<int64_t>(wait_ns / 1'000'000'000);
      timeout.tv_nsec = static_cast<int64_t>(wait_ns % 1'000'000'000);
    }
    result = io_uring_submit_and_wait_timeout(&ring_, &first, 1,
                                              timers_.empty() ? nullptr : &timeout, nullptr);
    sleeping_.store(false, std::memory_order_relaxed);
  }
  // EAGAIN and EBUSY: the kernel wants completions reaped, or memory freed, before it takes more.
  const bool harmless =
      result >= 0 || result == -ETIME || result == -EINTR || result == -EAGAIN || result == -EBUSY;
  if (harmless) return;
  // EBADR would mean that completions were lost; nothing that waits for one can be trusted to end.
  LOG_ERROR("io_uring: entering the kernel failed: {}", std::strerror(-result));
  std::abort();
}

bool UringReactor::run_once() {
  bind_thread();
  CHECK(!std::exchange(in_turn_, true));
  if (!backlog_.empty()) retry_backlog();
  arm_wakeup();
  enter_kernel(may_block());
  reap();
  expire_timers();
  run_posted();
  in_turn_ = false;
  return true;
}

void UringReactor::run() {
  while (!stopping_) run_once();
  stopping_ = false;
}

// Posted like any work, so that what was posted before it still runs.
void UringReactor::stop() {
  post([this] { stopping_ = true; });
}

uint64_t UringReactor::now_ns() const {
  return clock_ns(CLOCK_MONOTONIC);
}

int64_t UringReactor::wall_clock_s() const {
  return static_cast<int64_t>(clock_ns(CLOCK_REALTIME) / 1'000'000'000);
}

}  // namespace squall
