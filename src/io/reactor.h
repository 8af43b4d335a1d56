// The data plane's event loop as an interface: submit I/O, timers, post, clock.
//
// Two implementations: UringReactor (io_uring, one per I/O thread) and sim::SimReactor (virtual
// time, seeded order). Everything below the protocol servers, and the servers too, runs on either.
//
// A Reactor belongs to the thread that calls run(); only post() and stop() may be called from
// others. Buffers named by an Operation belong to it until it completes. Completions are plain
// integers, as io_uring gives them: a byte count or 0, or a negative errno.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <coroutine>
#include <cstdint>
#include <functional>
#include <span>

#include "base/bytes.h"

namespace squall {

// One request to the reactor. The caller keeps it, its iovecs and its buffers alive and untouched
// until on_complete ran. Lives in a coroutine frame (see the awaiters below) or in a pooled object.
struct Operation {
  enum class Code : uint8_t {
    kRead,     // handle, iov, offset: positioned read; short only at end of file
    kWrite,    // handle, iov, offset: positioned write
    kSync,     // handle: fdatasync
    kPunch,    // handle, offset, length: deallocate, file length kept
    kAccept,   // handle: listening socket; result is the new handle
    kConnect,  // handle, address
    kRecv,     // handle, iov: result 0 at end of stream
    kSend,     // handle, iov: may be short; never raises SIGPIPE
  };
  Code code = Code::kRead;
  bool cancelled = false;
  int handle = -1;
  uint64_t offset = 0;
  uint64_t length = 0;
  const iovec* iov = nullptr;
  uint32_t iov_count = 0;
  const sockaddr* address = nullptr;
  socklen_t address_length = 0;
  int result = 0;
  void (*on_complete)(Operation& self) = nullptr;
  void* context = nullptr;          // the submitter's
  void* reactor_private = nullptr;  // the reactor's, from submit to completion
  msghdr message{};                 // scratch of the reactor for kRecv and kSend
};

// A one-shot timer. Armed at most once at a time; the owner disarms it before destroying it.
struct Timer {
  uint64_t deadline_ns = 0;
  bool armed = false;
  void (*on_expire)(Timer& self) = nullptr;
  void* context = nullptr;
  void* reactor_private = nullptr;
};

class Reactor {
 public:
  virtual ~Reactor() = default;

  // Starts `op`. on_complete runs later from run() on this thread, never inside submit().
  virtual void submit(Operation& op) = 0;
  // Asks that `op` end soon with -ECANCELED (it may still complete normally). Its completion still
  // comes, from run().
  virtual void cancel(Operation& op) = 0;

  virtual void arm(Timer& timer, uint64_t deadline_ns) = 0;
  virtual void disarm(Timer& timer) = 0;

  // Runs `work` on the reactor's thread, in the order posted. Any thread may call it.
  virtual void post(std::move_only_function<void()> work) = 0;

  // Monotonic time. On the simulated reactor virtual, advanced only by run().
  virtual uint64_t now_ns() const = 0;
  // Wall-clock time in seconds since 1970, for creation dates (never for ordering).
  virtual int64_t wall_clock_s() const = 0;

  // Runs until stop(). run_once: waits for at least one event and handles what is there; false when
  // nothing is pending that could ever produce one.
  virtual void run() = 0;
  virtual bool run_once() = 0;
  virtual void stop() = 0;
};

namespace internal {
// The awaitable of one Operation; lives in the awaiting coroutine's frame.
class OperationAwaiter {
 public:
  OperationAwaiter(Reactor& reactor, Operation::Code code, int handle, const iovec* iov,
                   uint32_t iov_count, uint64_t offset, uint64_t length = 0)
      : reactor_(reactor) {
    op_.code = code;
    op_.handle = handle;
    op_.iov = iov;
    op_.iov_count = iov_count;
    op_.offset = offset;
    op_.length = length;
  }
  // One contiguous buffer.
  OperationAwaiter(Reactor& reactor, Operation::Code code, int handle, ConstBytes buffer,
                   uint64_t offset)
      : OperationAwaiter(reactor, code, handle, nullptr, 1, offset) {
    single_ = {const_cast<std::byte*>(buffer.data()), buffer.size()};
  }
  // A connect.
  OperationAwaiter(Reactor& reactor, int handle, const sockaddr* address, socklen_t address_length)
      : OperationAwaiter(reactor, Operation::Code::kConnect, handle, nullptr, 0, 0) {
    op_.address = address;
    op_.address_length = address_length;
  }
  bool await_ready() noexcept { return false; }
  void await_suspend(std::coroutine_handle<> awaiter) {
    if (op_.iov == nullptr) op_.iov = &single_;
    op_.context = awaiter.address();
    op_.on_complete = [](Operation& op) {
      std::coroutine_handle<>::from_address(op.context).resume();
    };
    reactor_.submit(op_);
  }
  int await_resume() noexcept { return op_.result; }

 private:
  Reactor& reactor_;
  Operation op_;
  iovec single_{};
};
}  // namespace internal

// co_await these; each gives the completion's integer. Buffers and iovecs must stay until then.
inline auto io_read(Reactor& r, int handle, Bytes to, uint64_t offset) {
  return internal::OperationAwaiter(r, Operation::Code::kRead, handle, to, offset);
}
inline auto io_readv(Reactor& r, int handle, std::span<const iovec> iov, uint64_t offset) {
  return internal::OperationAwaiter(r, Operation::Code::kRead, handle, iov.data(),
                                    static_cast<uint32_t>(iov.size()), offset);
}
inline auto io_write(Reactor& r, int handle, ConstBytes from, uint64_t offset) {
  return internal::OperationAwaiter(r, Operation::Code::kWrite, handle, from, offset);
}
inline auto io_writev(Reactor& r, int handle, std::span<const iovec> iov, uint64_t offset) {
  return internal::OperationAwaiter(r, Operation::Code::kWrite, handle, iov.data(),
                                    static_cast<uint32_t>(iov.size()), offset);
}
inline auto io_sync(Reactor& r, int handle) {
  return internal::OperationAwaiter(r, Operation::Code::kSync, handle, nullptr, 0, 0);
}
inline auto io_punch(Reactor& r, int handle, uint64_t offset, uint64_t length) {
  return internal::OperationAwaiter(r, Operation::Code::kPunch, handle, nullptr, 0, offset, length);
}
inline auto io_accept(Reactor& r, int handle) {
  return internal::OperationAwaiter(r, Operation::Code::kAccept, handle, nullptr, 0, 0);
}
// The address must stay until then, too.
inline auto io_connect(Reactor& r, int handle, const sockaddr* address, socklen_t address_length) {
  return internal::OperationAwaiter(r, handle, address, address_length);
}
inline auto io_recv(Reactor& r, int handle, Bytes to) {
  return internal::OperationAwaiter(r, Operation::Code::kRecv, handle, to, 0);
}
inline auto io_recvv(Reactor& r, int handle, std::span<const iovec> iov) {
  return internal::OperationAwaiter(r, Operation::Code::kRecv, handle, iov.data(),
                                    static_cast<uint32_t>(iov.size()), 0);
}
inline auto io_send(Reactor& r, int handle, std::span<const iovec> iov) {
  return internal::OperationAwaiter(r, Operation::Code::kSend, handle, iov.data(),
                                    static_cast<uint32_t>(iov.size()), 0);
}

// co_await sleep_ns(r, ns).
class SleepAwaiter {
 public:
  SleepAwaiter(Reactor& reactor, uint64_t duration_ns)
      : reactor_(reactor), duration_ns_(duration_ns) {}
  bool await_ready() noexcept { return false; }
  void await_suspend(std::coroutine_handle<> awaiter) {
    timer_.context = awaiter.address();
    timer_.on_expire = [](Timer& t) { std::coroutine_handle<>::from_address(t.context).resume(); };
    reactor_.arm(timer_, reactor_.now_ns() + duration_ns_);
  }
  void await_resume() noexcept {}

 private:
  Reactor& reactor_;
  uint64_t duration_ns_;
  Timer timer_;
};
inline SleepAwaiter sleep_ns(Reactor& r, uint64_t duration_ns) {
  return {r, duration_ns};
}

// co_await yield_to(r): continues from run(), after what is already pending. Also how a coroutine
// moves itself to another reactor's thread.
struct YieldAwaiter {
  Reactor& reactor;
  bool await_ready() noexcept { return false; }
  void await_suspend(std::coroutine_handle<> awaiter) {
    reactor.post([awaiter] { awaiter.resume(); });
  }
  void await_resume() noexcept {}
};
inline YieldAwaiter yield_to(Reactor& r) {
  return {r};
}

}  // namespace squall
