// SimNetwork: sockets in memory: byte streams that arrive late, in pieces and in order, through
// buffers of bounded size, over links that a test can slow down or cut.
//
// One SimNetwork stands for every host of the simulation: TCP hosts are told apart by their names
// in Endpoint::host, and set_identity() says who makes the calls that follow. Unix sockets ignore
// hosts and links; a path stays refused, not missing, after its listener has closed.
//
// As in Linux, a closed socket with an operation pending on it lives on until that has completed:
// shutdown() first. Data sent to a socket that is closed or shut down comes back as a reset; so
// does closing with unread data. Made by SimReactor; same thread.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "io/network.h"
#include "io/reactor.h"
#include "sim/event_loop.h"

namespace squall::sim {

// Who listens or connects: what the other end learns from peer().
struct SimIdentity {
  int64_t pid = 1000;
  uint32_t uid = 1000;
  std::string host = "127.0.0.1";
};

// One-way delays between two hosts.
struct SimLink {
  uint64_t delay_ns_min = 10'000;
  uint64_t delay_ns_max = 200'000;
};

struct Socket;
struct Pipe;
struct Packet;
using SocketRef = std::shared_ptr<Socket>;
using PipeRef = std::shared_ptr<Pipe>;
using HostPair = std::pair<std::string, std::string>;  // in alphabetical order

class SimNetwork final : public Network {
 public:
  // Handles are numbered by `last_handle`, which the reactor's files share.
  SimNetwork(EventLoop& loop, int& last_handle);
  ~SimNetwork() override;
  SimNetwork(const SimNetwork&) = delete;
  SimNetwork& operator=(const SimNetwork&) = delete;

  Result<int> listen(const Endpoint& endpoint) override;
  Result<uint16_t> bound_port(int handle) override;
  Result<int> connect(const Endpoint& endpoint) override;
  Result<PeerIdentity> peer(int handle) override;
  bool is_hung_up(int handle) override;
  void set_no_delay(int handle) override;
  void give_up_after(int handle, uint64_t silence_s) override;
  void shutdown(int handle) override;
  void close(int handle) override;

  // For tests.
  void set_identity(SimIdentity identity) { identity_ = std::move(identity); }
  void set_link(const std::string& host, const std::string& other, SimLink link);
  // Nothing passes between two hosts until heal(): connections stall, new ones time out.
  void partition(const std::string& host, const std::string& other);
  void heal(const std::string& host, const std::string& other);
  // How much one direction of a new connection holds, unread or under way.
  void set_buffer_bytes(uint64_t bytes) { buffer_bytes_ = bytes; }
  // Half-close: the other end reads to the end of the stream; this one can still receive.
  void shutdown_send(int handle);
  // Closes as a process does that dies with unread data, or a router that lost its state.
  void reset(int handle);

  // For SimReactor.
  void submit(Operation& op);
  void cancel(Operation& op);

 private:
  static HostPair pair_of(const std::string& host, const std::string& other);
  SocketRef find(int handle) const;
  Result<SocketRef> find_listener(const Endpoint& endpoint) const;
  int add(SocketRef socket);
  void join(const SocketRef& client, const SocketRef& server, const HostPair& hosts, bool is_unix);
  bool is_cut(const Pipe& pipe) const;
  uint64_t delay(const Pipe& pipe);
  void transmit(const PipeRef& pipe, Packet packet);
  void send_fin(const SocketRef& socket);
  void send_reset(const SocketRef& socket);
  void deliver(const PipeRef& pipe);
  void arrive(const PipeRef& pipe, Packet& packet);

  // Lets the socket's pending operations go as far as they can; from an event only.
  void progress(const SocketRef& socket);
  void progress_soon(const SocketRef& socket);
  bool progress_accept(const SocketRef& socket);
  bool progress_recv(const SocketRef& socket);
  bool progress_send(const SocketRef& socket);
  int take_received(Socket& socket, const Operation& op);
  int put_sent(const SocketRef& socket, const Operation& op);
  void finish_front(std::deque<Operation*>& queue, int result);
  // What the kernel does when the last reference to a socket is gone.
  void release_if_unused(const SocketRef& socket);
  void stop_listening(const SocketRef& socket);

  EventLoop& loop_;
  int& last_handle_;
  SimIdentity identity_;
  uint64_t buffer_bytes_ = 64 * kKiB;
  uint16_t last_port_ = 40'000;
  std::map<HostPair, SimLink> links_;
  std::set<HostPair> cut_;
  std::map<int, SocketRef> sockets_;
  std::map<std::string, std::weak_ptr<Socket>> listeners_;  // by Endpoint::to_string()
  std::map<uint64_t, SocketRef> operations_;                // pending, by id
  std::vector<std::weak_ptr<Pipe>> pipes_;
};

}  // namespace squall::sim
