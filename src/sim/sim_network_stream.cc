// How bytes move: send puts them into packets that arrive in order after seeded delays, recv takes
// what has arrived. An operation proceeds only inside an event, never inside the call that made it
// possible, so no completion runs within submit(), shutdown() or close().
#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"
#include "sim/operation_buffers.h"
#include "sim/sim_network.h"
#include "sim/sim_socket.h"

namespace squall::sim {

namespace {
constexpr uint64_t kCallDelay_ns = 5'000;       // at most, from submit to the first attempt
constexpr SimLink kUnixLink = {1'000, 20'000};  // delays within one host
constexpr double kShortTransfer = 0.2;          // how often a transfer is shorter than it could be
}  // namespace

bool SimNetwork::is_cut(const Pipe& pipe) const {
  return !pipe.is_unix && cut_.contains(pipe.hosts);
}

uint64_t SimNetwork::delay(const Pipe& pipe) {
  SimLink link = kUnixLink;
  if (!pipe.is_unix) {
    const auto found = links_.find(pipe.hosts);
    link = found == links_.end() ? SimLink{} : found->second;
  }
  return loop_.random().between(link.delay_ns_min, link.delay_ns_max);
}

void SimNetwork::transmit(const PipeRef& pipe, Packet packet) {
  const uint64_t before = pipe->under_way.empty() ? 0 : pipe->under_way.back().due_ns;
  packet.due_ns = std::max(before, loop_.now_ns() + delay(*pipe));
  const uint64_t wait = packet.due_ns - loop_.now_ns();
  pipe->held_bytes += packet.data.size();
  pipe->under_way.push_back(std::move(packet));
  loop_.schedule(wait, [this, pipe] { deliver(pipe); });
}

void SimNetwork::send_fin(const SocketRef& socket) {
  if (std::exchange(socket->fin_sent, true)) return;
  transmit(socket->out, {.kind = Packet::Kind::kFin, .data = {}});
}

void SimNetwork::send_reset(const SocketRef& socket) {
  transmit(socket->out, {.kind = Packet::Kind::kReset, .data = {}});
}

void SimNetwork::deliver(const PipeRef& pipe) {
  if (is_cut(*pipe)) return;  // heal() comes back
  while (!pipe->under_way.empty() && pipe->under_way.front().due_ns <= loop_.now_ns()) {
    Packet packet = std::move(pipe->under_way.front());
    pipe->under_way.pop_front();
    arrive(pipe, packet);
  }
}

void SimNetwork::arrive(const PipeRef& pipe, Packet& packet) {
  const SocketRef socket = pipe->receiver.lock();
  const bool refused = socket == nullptr || socket->receive_shut;
  if (packet.kind == Packet::Kind::kData && !refused) {
    pipe->unread.insert(pipe->unread.end(), packet.data.begin(), packet.data.end());
  } else if (packet.kind == Packet::Kind::kData) {
    pipe->held_bytes -= packet.data.size();
    // The reset travels back without a socket's help: its owner may be gone.
    if (const SocketRef sender = pipe->sender.lock()) {
      loop_.schedule(delay(*pipe), [this, sender] {
        sender->was_reset = true;
        progress(sender);
      });
    }
  } else if (packet.kind == Packet::Kind::kFin) {
    pipe->fin_arrived = true;
  } else if (socket != nullptr) {
    pipe->held_bytes -= pipe->unread.size();
    pipe->unread.clear();
    socket->was_reset = true;
  }
  if (socket != nullptr) progress(socket);
}

// --- Operations ----------------------------------------------------------------------------------

void SimNetwork::submit(Operation& op) {
  const SocketRef socket = find(op.handle);
  int error = 0;
  if (socket == nullptr) {
    error = -EBADF;
  } else if (op.code == Operation::Code::kConnect) {
    error = socket->is_listener ? -EINVAL : -EISCONN;
  } else if (socket->is_listener != (op.code == Operation::Code::kAccept)) {
    error = socket->is_listener ? -ENOTCONN : -EINVAL;
  }
  if (error < 0) {
    loop_.complete_later(op, kCallDelay_ns, error);
    return;
  }
  auto& queue = op.code == Operation::Code::kAccept ? socket->accepting
                : op.code == Operation::Code::kRecv ? socket->receiving
                                                    : socket->sending;
  queue.push_back(&op);
  operations_.emplace(EventLoop::id_of(op), socket);
  progress_soon(socket);
}

void SimNetwork::cancel(Operation& op) {
  const auto found = operations_.find(EventLoop::id_of(op));
  if (found == operations_.end()) return;
  const SocketRef socket = found->second;
  operations_.erase(found);
  for (auto* queue : {&socket->accepting, &socket->receiving, &socket->sending}) {
    std::erase(*queue, &op);
  }
  loop_.complete_later(op, kCallDelay_ns, -ECANCELED);
  release_if_unused(socket);
}

void SimNetwork::progress_soon(const SocketRef& socket) {
  loop_.schedule(loop_.random().below(kCallDelay_ns), [this, socket] { progress(socket); });
}

void SimNetwork::progress(const SocketRef& socket) {
  // A completion may submit, close or shut down: look at the queues anew after each.
  while (progress_accept(socket) || progress_recv(socket) || progress_send(socket)) {
  }
  release_if_unused(socket);
}

void SimNetwork::finish_front(std::deque<Operation*>& queue, int result) {
  Operation& op = *queue.front();
  queue.pop_front();
  operations_.erase(EventLoop::id_of(op));
  loop_.complete(op, result);
}

bool SimNetwork::progress_accept(const SocketRef& socket) {
  if (socket->accepting.empty()) return false;
  if (socket->stopped) {
    finish_front(socket->accepting, -EINVAL);
    return true;
  }
  if (socket->backlog.empty()) return false;
  SocketRef accepted = std::move(socket->backlog.front());
  socket->backlog.pop_front();
  finish_front(socket->accepting, add(std::move(accepted)));
  return true;
}

bool SimNetwork::progress_recv(const SocketRef& socket) {
  if (socket->receiving.empty()) return false;
  const Operation& op = *socket->receiving.front();
  if (socket->was_reset) {
    finish_front(socket->receiving, -ECONNRESET);
  } else if (socket->receive_shut || total_length(op) == 0) {
    finish_front(socket->receiving, 0);
  } else if (!socket->in->unread.empty()) {
    finish_front(socket->receiving, take_received(*socket, op));
  } else if (socket->in->fin_arrived) {
    finish_front(socket->receiving, 0);
  } else {
    return false;
  }
  return true;
}

int SimNetwork::take_received(Socket& socket, const Operation& op) {
  Pipe& pipe = *socket.in;
  uint64_t count = std::min<uint64_t>(total_length(op), pipe.unread.size());
  if (loop_.random().chance(kShortTransfer)) count = loop_.random().between(1, count);
  const auto end = pipe.unread.begin() + static_cast<int64_t>(count);
  const std::vector<std::byte> data(pipe.unread.begin(), end);
  pipe.unread.erase(pipe.unread.begin(), end);
  pipe.held_bytes -= count;
  scatter(op, 0, data);
  loop_.trace().add(data);
  if (const SocketRef sender = pipe.sender.lock()) {
    loop_.schedule(delay(pipe), [this, sender] { progress(sender); });
  }
  return static_cast<int>(count);
}

bool SimNetwork::progress_send(const SocketRef& socket) {
  if (socket->sending.empty()) return false;
  const Operation& op = *socket->sending.front();
  const Pipe& pipe = *socket->out;
  if (socket->was_reset) {
    finish_front(socket->sending, -ECONNRESET);
  } else if (socket->fin_sent) {
    finish_front(socket->sending, -EPIPE);
  } else if (total_length(op) == 0) {
    finish_front(socket->sending, 0);
  } else if (pipe.held_bytes < pipe.capacity_bytes) {
    finish_front(socket->sending, put_sent(socket, op));
  } else {
    return false;
  }
  return true;
}

int SimNetwork::put_sent(const SocketRef& socket, const Operation& op) {
  Pipe& pipe = *socket->out;
  uint64_t count = std::min(total_length(op), pipe.capacity_bytes - pipe.held_bytes);
  if (loop_.random().chance(kShortTransfer)) count = loop_.random().between(1, count);
  for (uint64_t begin = 0; begin < count;) {
    uint64_t length = count - begin;
    if (loop_.random().chance(kShortTransfer)) length = loop_.random().between(1, length);
    transmit(socket->out, {.kind = Packet::Kind::kData, .data = gather(op, begin, length)});
    begin += length;
  }
  return static_cast<int>(count);
}

}  // namespace squall::sim
