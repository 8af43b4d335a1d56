// Names, connections and their ends; sim_network_stream.cc moves the bytes.
#include "sim/sim_network.h"

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "sim/sim_socket.h"

namespace squall::sim {

namespace {
constexpr size_t kBacklog = 128;
constexpr size_t kUnixPathMax = 107;
}  // namespace

SimNetwork::SimNetwork(EventLoop& loop, int& last_handle)
    : loop_(loop), last_handle_(last_handle) {}
SimNetwork::~SimNetwork() = default;

HostPair SimNetwork::pair_of(const std::string& host, const std::string& other) {
  return {std::min(host, other), std::max(host, other)};
}

SocketRef SimNetwork::find(int handle) const {
  const auto found = sockets_.find(handle);
  return found == sockets_.end() ? nullptr : found->second;
}

int SimNetwork::add(SocketRef socket) {
  sockets_.emplace(++last_handle_, std::move(socket));
  return last_handle_;
}

Result<int> SimNetwork::listen(const Endpoint& endpoint) {
  if (endpoint.unix_path.size() > kUnixPathMax) {
    return fail(ErrorKind::kInvalid, "the socket path '{}' has {} bytes, at most {} are possible",
                endpoint.unix_path, endpoint.unix_path.size(), kUnixPathMax);
  }
  Endpoint bound = endpoint;
  if (!bound.is_unix() && bound.port == 0) bound.port = ++last_port_;
  std::weak_ptr<Socket>& slot = listeners_[bound.to_string()];
  if (const SocketRef old = slot.lock(); old != nullptr && !old->stopped) {
    return fail(ErrorKind::kBusy, "listening on {}: a running process answers there",
                endpoint.to_string());
  }
  auto socket = std::make_shared<Socket>();
  socket->is_listener = true;
  socket->endpoint = bound.to_string();
  socket->port = bound.port;
  socket->owner = identity_;
  slot = socket;
  return add(std::move(socket));
}

Result<uint16_t> SimNetwork::bound_port(int handle) {
  const SocketRef socket = find(handle);
  if (socket == nullptr) return fail_errno(EBADF, "reading the address of socket {}", handle);
  if (socket->port == 0) {
    return fail(ErrorKind::kInvalid, "socket {} is not TCP and has no port", handle);
  }
  return socket->port;
}

Result<SocketRef> SimNetwork::find_listener(const Endpoint& endpoint) const {
  Endpoint wildcard = endpoint;
  wildcard.host.clear();
  for (const std::string& name : {endpoint.to_string(), wildcard.to_string()}) {
    const auto found = listeners_.find(name);
    if (found == listeners_.end()) continue;
    SocketRef listener = found->second.lock();
    if (listener != nullptr && !listener->stopped) return listener;
    return fail_errno(ECONNREFUSED, "connecting to {}", endpoint.to_string());
  }
  return fail_errno(endpoint.is_unix() ? ENOENT : ECONNREFUSED, "connecting to {}",
                    endpoint.to_string());
}

Result<int> SimNetwork::connect(const Endpoint& endpoint) {
  if (endpoint.unix_path.size() > kUnixPathMax) {
    return fail(ErrorKind::kInvalid, "the socket path '{}' has {} bytes, at most {} are possible",
                endpoint.unix_path, endpoint.unix_path.size(), kUnixPathMax);
  }
  const HostPair hosts = pair_of(identity_.host, endpoint.host);
  if (!endpoint.is_unix() && cut_.contains(hosts)) {
    return fail_errno(ETIMEDOUT, "connecting to {}", endpoint.to_string());
  }
  TRY_ASSIGN(const SocketRef listener, find_listener(endpoint));
  if (listener->backlog.size() >= kBacklog) {
    return fail_errno(EAGAIN, "connecting to {}", endpoint.to_string());
  }
  auto client = std::make_shared<Socket>();
  auto server = std::make_shared<Socket>();
  client->owner = identity_;
  server->owner = listener->owner;
  client->port = endpoint.is_unix() ? 0 : ++last_port_;
  server->port = listener->port;
  if (endpoint.is_unix()) {
    client->peer = {.is_unix = true, .pid = server->owner.pid, .uid = server->owner.uid};
    server->peer = {.is_unix = true, .pid = identity_.pid, .uid = identity_.uid};
  } else {
    client->peer = {.address = endpoint.host};
    server->peer = {.address = identity_.host};
  }
  join(client, server, hosts, endpoint.is_unix());
  listener->backlog.push_back(std::move(server));
  progress_soon(listener);
  return add(std::move(client));
}

void SimNetwork::join(const SocketRef& client, const SocketRef& server, const HostPair& hosts,
                      bool is_unix) {
  std::erase_if(pipes_, [](const std::weak_ptr<Pipe>& pipe) { return pipe.expired(); });
  for (const auto& [from, to] : {std::pair(client, server), std::pair(server, client)}) {
    auto pipe = std::make_shared<Pipe>();
    pipe->hosts = hosts;
    pipe->is_unix = is_unix;
    pipe->capacity_bytes = buffer_bytes_;
    pipe->sender = from;
    pipe->receiver = to;
    pipes_.push_back(pipe);
    from->out = pipe;
    to->in = std::move(pipe);
  }
}

Result<PeerIdentity> SimNetwork::peer(int handle) {
  const SocketRef socket = find(handle);
  if (socket == nullptr) return fail_errno(EBADF, "reading the peer of socket {}", handle);
  if (socket->is_listener) return fail_errno(ENOTCONN, "reading the peer of socket {}", handle);
  return socket->peer;
}

bool SimNetwork::is_hung_up(int handle) {
  const SocketRef socket = find(handle);
  if (socket == nullptr) return true;
  if (socket->is_listener) return socket->stopped;
  return socket->was_reset || socket->receive_shut || socket->in->fin_arrived;
}

// A simulated connection ends when the test says so.
void SimNetwork::give_up_after(int handle, uint64_t silence_s) {}
void SimNetwork::set_no_delay(int handle) {}  // nothing here waits for more to send

void SimNetwork::shutdown(int handle) {
  const SocketRef socket = find(handle);
  if (socket == nullptr) return;
  if (socket->is_listener) {
    stop_listening(socket);
  } else {
    socket->receive_shut = true;
    socket->in->held_bytes -= socket->in->unread.size();
    socket->in->unread.clear();
    send_fin(socket);
  }
  progress_soon(socket);
}

void SimNetwork::shutdown_send(int handle) {
  const SocketRef socket = find(handle);
  CHECK(socket != nullptr && !socket->is_listener);
  send_fin(socket);
  progress_soon(socket);
}

void SimNetwork::close(int handle) {
  const SocketRef socket = find(handle);
  if (socket == nullptr) return;
  sockets_.erase(handle);
  socket->closed = true;
  release_if_unused(socket);
}

void SimNetwork::reset(int handle) {
  const SocketRef socket = find(handle);
  CHECK(socket != nullptr && !socket->is_listener);
  socket->receive_shut = true;
  socket->fin_sent = true;
  send_reset(socket);
  close(handle);
  progress_soon(socket);
}

void SimNetwork::stop_listening(const SocketRef& socket) {
  socket->stopped = true;
  for (const SocketRef& waiting : std::exchange(socket->backlog, {})) {
    waiting->receive_shut = true;
    send_reset(waiting);
  }
  progress_soon(socket);
}

void SimNetwork::release_if_unused(const SocketRef& socket) {
  const bool is_used = !socket->closed || !socket->accepting.empty() ||
                       !socket->receiving.empty() || !socket->sending.empty();
  if (is_used) return;
  if (socket->is_listener) {
    if (!socket->stopped) stop_listening(socket);
    return;
  }
  const bool had_unread = !socket->in->unread.empty();
  socket->in->held_bytes -= socket->in->unread.size();
  socket->in->unread.clear();
  socket->receive_shut = true;
  if (had_unread) send_reset(socket);
  send_fin(socket);
}

void SimNetwork::set_link(const std::string& host, const std::string& other, SimLink link) {
  links_[pair_of(host, other)] = link;
}

void SimNetwork::partition(const std::string& host, const std::string& other) {
  cut_.insert(pair_of(host, other));
}

void SimNetwork::heal(const std::string& host, const std::string& other) {
  cut_.erase(pair_of(host, other));
  for (const std::weak_ptr<Pipe>& weak : pipes_) {
    const PipeRef pipe = weak.lock();
    if (pipe == nullptr || is_cut(*pipe)) continue;
    loop_.schedule(delay(*pipe), [this, pipe] { deliver(pipe); });
    if (const SocketRef sender = pipe->sender.lock()) progress_soon(sender);
  }
}

}  // namespace squall::sim
