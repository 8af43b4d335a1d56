// The state behind SimNetwork's handles. Internal to sim/sim_network*.cc.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "io/network.h"
#include "io/reactor.h"
#include "sim/sim_network.h"

namespace squall::sim {

// What travels through a pipe.
struct Packet {
  enum class Kind : uint8_t { kData, kFin, kReset };
  Kind kind = Kind::kData;
  std::vector<std::byte> data;
  uint64_t due_ns = 0;
};

// One direction of a connection.
struct Pipe {
  HostPair hosts;
  bool is_unix = false;
  uint64_t capacity_bytes = 0;
  std::weak_ptr<Socket> sender;
  std::weak_ptr<Socket> receiver;
  std::deque<Packet> under_way;  // in order of sending, which is that of arrival
  std::deque<std::byte> unread;
  uint64_t held_bytes = 0;  // under way and unread
  bool fin_arrived = false;
};

struct Socket {
  bool is_listener = false;
  bool closed = false;  // its handle is gone; operations may still be pending
  std::string endpoint;
  uint16_t port = 0;
  PeerIdentity peer;
  SimIdentity owner;

  // Connections.
  PipeRef in;
  PipeRef out;
  bool fin_sent = false;
  bool receive_shut = false;  // what arrives from now on is answered with a reset
  bool was_reset = false;     // by the other end
  std::deque<Operation*> receiving;
  std::deque<Operation*> sending;

  // Listeners.
  bool stopped = false;
  std::deque<SocketRef> backlog;
  std::deque<Operation*> accepting;
};

}  // namespace squall::sim
