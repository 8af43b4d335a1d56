#include "export/nbd/socket.h"

#include <algorithm>
#include <cerrno>

#include "base/check.h"

namespace squall::nbd {

Socket::Socket(Reactor& reactor, Network& network, int handle)
    : reactor_(reactor), network_(network), handle_(handle) {}

Socket::~Socket() {
  CHECK(!receive_.pending && !send_.pending);
  network_.close(handle_);
}

void Socket::start(Direction& direction, std::span<const iovec> iov, bool receiving,
                   std::coroutine_handle<> waiter) {
  CHECK(!direction.pending && !iov.empty());
  direction.pending = true;
  direction.since_ns = reactor_.now_ns();
  direction.waiter = waiter;
  direction.op = Operation{};
  direction.op.code = receiving ? Operation::Code::kRecv : Operation::Code::kSend;
  direction.op.handle = handle_;
  direction.op.iov = iov.data();
  direction.op.iov_count = static_cast<uint32_t>(iov.size());
  direction.op.context = &direction;
  direction.op.on_complete = [](Operation& op) {
    auto& completed = *static_cast<Direction*>(op.context);
    completed.pending = false;
    completed.waiter.resume();
  };
  reactor_.submit(direction.op);
}

int Socket::finish(Direction& direction, bool receiving) {
  // Bytes that arrived together with the order to stop are discarded too.
  if (receiving ? receiving_stopped_ : shut_down_) return -ECANCELED;
  return direction.op.result;
}

void Socket::stop_receiving() {
  receiving_stopped_ = true;
  if (receive_.pending) reactor_.cancel(receive_.op);
}

void Socket::shut_down() {
  if (shut_down_) return;
  shut_down_ = true;
  stop_receiving();
  network_.shutdown(handle_);
  if (send_.pending) reactor_.cancel(send_.op);
}

uint64_t Socket::stalled_since_ns() const {
  uint64_t since_ns = ~uint64_t{0};
  if (send_.pending) since_ns = send_.since_ns;
  if (receive_.pending && expecting_) since_ns = std::min(since_ns, receive_.since_ns);
  return since_ns;
}

Deadline::Deadline(Socket& socket) : socket_(socket) {
  timer_.context = this;
  timer_.on_expire = [](Timer& timer) {
    static_cast<Deadline*>(timer.context)->socket_.shut_down();
  };
}

void Deadline::start(uint64_t duration_ns) {
  pause();
  socket_.reactor().arm(timer_, socket_.reactor().now_ns() + duration_ns);
}

void Deadline::pause() {
  if (timer_.armed) socket_.reactor().disarm(timer_);
}

}  // namespace squall::nbd
