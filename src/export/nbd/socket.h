// Socket: one accepted connection on the reactor: receive and send whose pending operation can be
// ended from outside, and a note of how long the client has kept it waiting. At most one receive
// and one send at a time. One reactor's thread; destroyed with nothing pending, which closes it.
#pragma once

#include <coroutine>
#include <cstdint>
#include <span>

#include "base/bytes.h"
#include "io/network.h"
#include "io/reactor.h"

namespace squall::nbd {

class Socket {
 public:
  Socket(Reactor& reactor, Network& network, int handle);
  ~Socket();
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  // co_await: bytes moved (receive: 0 at the end of the stream), or a negative errno. After
  // stop_receiving every receive gives -ECANCELED: unread bytes stay unread. The iovecs stay the
  // caller's until then.
  auto receive(std::span<const iovec> to) { return Awaiter{*this, receive_, to, true}; }
  auto send(std::span<const iovec> from) { return Awaiter{*this, send_, from, false}; }

  // Ends intake; what is being sent goes on.
  void stop_receiving();
  // Ends both directions.
  void shut_down();
  bool is_receiving_stopped() const { return receiving_stopped_; }
  bool is_hung_up() const { return network_.is_hung_up(handle_); }
  // Since when a send has not moved a byte, or a receive that was announced as needed (a request
  // half read) has not; ~0 when the client keeps nothing waiting.
  uint64_t stalled_since_ns() const;
  void set_expecting(bool expecting) { expecting_ = expecting; }
  Reactor& reactor() { return reactor_; }

 private:
  struct Direction {
    Operation op;
    bool pending = false;
    uint64_t since_ns = 0;
    std::coroutine_handle<> waiter;
  };
  struct Awaiter {
    Socket& socket;
    Direction& direction;
    std::span<const iovec> iov;
    bool receiving;
    bool await_ready() const noexcept {
      return receiving ? socket.receiving_stopped_ : socket.shut_down_;
    }
    void await_suspend(std::coroutine_handle<> waiter) {
      socket.start(direction, iov, receiving, waiter);
    }
    int await_resume() noexcept { return socket.finish(direction, receiving); }
  };
  void start(Direction& direction, std::span<const iovec> iov, bool receiving,
             std::coroutine_handle<> waiter);
  int finish(Direction& direction, bool receiving);

  Reactor& reactor_;
  Network& network_;
  const int handle_;
  Direction receive_;
  Direction send_;
  bool receiving_stopped_ = false;
  bool shut_down_ = false;
  bool expecting_ = false;
};

// Shuts a socket down unless it is destroyed or paused in time.
class Deadline {
 public:
  explicit Deadline(Socket& socket);
  ~Deadline() { pause(); }
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;
  void start(uint64_t duration_ns);
  void pause();

 private:
  Socket& socket_;
  Timer timer_;
};

}  // namespace squall::nbd
