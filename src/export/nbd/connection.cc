#include "export/nbd/connection.h"

#include "base/check.h"
#include "export/nbd/handshake.h"

namespace squall::nbd {

Connection::Connection(const Context& context, int handle, PeerIdentity identity)
    : context_(context),
      identity_(std::move(identity)),
      socket_(context.reactor, context.network, handle) {}

Task<void> Connection::run() {
  Receiver receiver(socket_);
  {
    // On the heap: a handshake's state is of no use to the long life that follows.
    const auto handshake = std::make_unique<Handshake>(context_, receiver, identity_, *this);
    session_ = co_await handshake->run();
  }
  if (session_ && !socket_.is_receiving_stopped()) {
    transmission_ = std::make_unique<Transmission>(context_, receiver, *session_);
    co_await transmission_->run();
    transmission_.reset();
  }
  session_.reset();
}

bool Connection::is_hung_up() {
  return socket_.is_receiving_stopped() || socket_.is_hung_up();
}

void Connection::stop_intake() {
  if (transmission_ != nullptr) {
    socket_.stop_receiving();
  } else {
    socket_.shut_down();
  }
}

TransmissionCounters Connection::counters() const {
  return transmission_ != nullptr ? transmission_->counters() : TransmissionCounters{};
}

}  // namespace squall::nbd
