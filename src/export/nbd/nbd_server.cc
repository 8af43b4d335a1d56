#include "export/nbd/nbd_server.h"

#include <cerrno>
#include <coroutine>

#include "base/check.h"
#include "base/log.h"
#include "export/nbd/connection.h"

namespace squall::nbd {
namespace {

constexpr uint64_t kAcceptRetryNs = 100'000'000;

}  // namespace

// A listening socket and its pending accept, which stop() cancels.
struct NbdServer::Listener {
  Reactor& reactor;
  Endpoint endpoint;
  int handle;
  Operation op{};
  bool pending = false;
  std::coroutine_handle<> waiter;

  // co_await: the new handle or a negative errno.
  auto accept() {
    struct Awaiter {
      Listener& listener;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> h) {
        listener.waiter = h;
        listener.pending = true;
        listener.op = Operation{};
        listener.op.code = Operation::Code::kAccept;
        listener.op.handle = listener.handle;
        listener.op.context = &listener;
        listener.op.on_complete = [](Operation& op) {
          auto& completed = *static_cast<Listener*>(op.context);
          completed.pending = false;
          completed.waiter.resume();
        };
        listener.reactor.submit(listener.op);
      }
      int await_resume() noexcept { return listener.op.result; }
    };
    return Awaiter{*this};
  }
};

NbdServer::NbdServer(Reactor& reactor, Network& network, DiskDirectory& directory,
                     Admission& admission, NbdConfig config)
    : reactor_(reactor),
      network_(network),
      admission_(admission),
      config_(std::move(config)),
      bytes_total_(reactor, config_.limits.bytes_total),
      context_{reactor_,     network_,       directory, admission_,
               bytes_total_, config_.limits, stats_,    [this] { start_stall_watch(); }} {
  stall_timer_.context = this;
  stall_timer_.on_expire = [](Timer& timer) {
    static_cast<NbdServer*>(timer.context)->end_stalls();
  };
}

NbdServer::~NbdServer() {
  CHECK(listeners_.empty() && connections_.empty() && !stall_timer_.armed);
}

Result<void> NbdServer::start() {
  CHECK(listeners_.empty());
  for (const Endpoint& endpoint : config_.endpoints) {
    const auto handle = network_.listen(endpoint);
    if (!handle) {
      close_listeners();
      return std::unexpected(handle.error().wrap("nbd: listening on " + endpoint.to_string()));
    }
    listeners_.push_back(std::make_unique<Listener>(reactor_, endpoint, *handle));
  }
  for (const auto& listener : listeners_) spawn(accept_loop(*listener));
  return {};
}

Task<void> NbdServer::stop() {
  for (const auto& listener : listeners_) {
    if (listener->pending) reactor_.cancel(listener->op);
  }
  co_await accepting_.close();
  co_await yield_to(reactor_);  // the last loop's frame unwinds below the await above
  close_listeners();
  for (const auto& connection : connections_) connection->stop_intake();
  co_await serving_.close();
  co_await yield_to(reactor_);
  if (stall_timer_.armed) reactor_.disarm(stall_timer_);
}

void NbdServer::close_listeners() {
  for (const auto& listener : listeners_) network_.close(listener->handle);
  listeners_.clear();
}

Result<uint16_t> NbdServer::bound_port(size_t endpoint) const {
  CHECK(endpoint < listeners_.size());
  return network_.bound_port(listeners_[endpoint]->handle);
}

Task<void> NbdServer::accept_loop(Listener& listener) {
  const Gate::Pass pass = accepting_.enter();
  bool complained = false;
  while (!accepting_.is_closed()) {
    const int handle = co_await listener.accept();
    if (handle >= 0) {
      complained = false;
      if (!add_connection(handle)) network_.close(handle);
      continue;
    }
    if (accepting_.is_closed()) break;
    // A client that gave up while it queued is not worth a word; out of descriptors or memory is,
    // once: it will pass when other connections end.
    if (handle == -ECONNABORTED || handle == -EINTR) continue;
    if (!std::exchange(complained, true)) {
      LOG_WARN("nbd: {}: {}; will go on trying", listener.endpoint.to_string(),
               Error::from_errno(-handle, "cannot accept connections").message());
    }
    co_await sleep_ns(reactor_, kAcceptRetryNs);
  }
}

// False when the connection is refused.
bool NbdServer::add_connection(int handle) {
  if (connections_.size() >= config_.limits.connections_max) return false;
  auto identity = network_.peer(handle);
  if (!identity) return false;  // gone already
  Gate::Pass pass = serving_.enter();
  if (!pass) return false;
  if (!identity->is_unix) {
    network_.set_no_delay(handle);
    network_.give_up_after(handle, config_.dead_peer_s);
  }
  connections_.push_back(std::make_unique<Connection>(context_, handle, std::move(*identity)));
  ++stats_.connections_accepted;
  ++stats_.connections_open;
  spawn(serve(std::prev(connections_.end()), std::move(pass)));
  return true;
}

Task<void> NbdServer::serve(std::list<std::unique_ptr<Connection>>::iterator connection,
                            Gate::Pass pass) {
  co_await (*connection)->run();
  --stats_.connections_open;
  connections_.erase(connection);
}

std::vector<NbdClient> NbdServer::clients() const {
  std::vector<NbdClient> clients;
  for (const auto& connection : connections_) {
    NbdClient client{.identity = connection->identity()};
    if (const Session* session = connection->session()) {
      client.name = session->name;
      client.writer = session->may_write();
    }
    const TransmissionCounters counters = connection->counters();
    client.requests = counters.requests;
    client.bytes_read = counters.bytes_read;
    client.bytes_written = counters.bytes_written;
    clients.push_back(std::move(client));
  }
  return clients;
}

std::vector<NbdClient> NbdServer::clients(const std::string& name) const {
  std::vector<NbdClient> all = clients();
  std::erase_if(all, [&](const NbdClient& client) { return client.name != name; });
  return all;
}

Task<void> NbdServer::disconnect_export(std::string name) {
  return admission_.evict(std::move(name));
}

// Buffers are shared by all connections, so a client that does not take its replies, or does not
// send the payload it announced, may keep them only as long as nobody else needs them.
void NbdServer::start_stall_watch() {
  if (!stall_timer_.armed)
    reactor_.arm(stall_timer_, reactor_.now_ns() + config_.limits.stall_ns_max / 8);
}

void NbdServer::end_stalls() {
  if (!bytes_total_.has_waiters()) return;
  const uint64_t now_ns = reactor_.now_ns();
  for (const auto& connection : connections_) {
    const uint64_t since_ns = connection->socket().stalled_since_ns();
    if (since_ns < now_ns && now_ns - since_ns >= config_.limits.stall_ns_max)
      connection->shut_down();
  }
  start_stall_watch();
}

}  // namespace squall::nbd
