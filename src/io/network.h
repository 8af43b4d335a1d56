// Listening and connecting as an interface, so that servers run on real sockets and on the
// simulated network. Accept, connect, recv and send go through Reactor::submit on the handles.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace squall {

// Where to listen or connect: a unix socket's path, or host and port (port 0: any free one).
struct Endpoint {
  std::string unix_path;
  std::string host;
  uint16_t port = 0;
  bool is_unix() const { return !unix_path.empty(); }
  std::string to_string() const {
    return is_unix() ? "unix:" + unix_path : host + ":" + std::to_string(port);
  }
};

// Who is at the other end of an accepted connection, as the kernel says.
struct PeerIdentity {
  bool is_unix = false;
  int64_t pid = 0;      // unix sockets only
  uint32_t uid = 0;     // unix sockets only
  std::string address;  // TCP: the numeric host
  bool operator==(const PeerIdentity&) const = default;
};

class Network {
 public:
  virtual ~Network() = default;
  // A unix path left by a dead daemon is replaced; one that a live daemon answers on is kBusy.
  virtual Result<int> listen(const Endpoint& endpoint) = 0;
  virtual Result<uint16_t> bound_port(int handle) = 0;
  // Blocking connect, for clients and tests; the simulated one completes at once.
  virtual Result<int> connect(const Endpoint& endpoint) = 0;
  virtual Result<PeerIdentity> peer(int handle) = 0;
  // True when the other end has closed or reset (bytes may still be unread).
  virtual bool is_hung_up(int handle) = 0;
  virtual void set_no_delay(int handle) = 0;
  // A connection whose other end gives no sign of life for so long, sent to or not, ends with an
  // error: the host there lost power or its network. Nothing to do on a unix socket.
  virtual void give_up_after(int handle, uint64_t silence_s) = 0;
  // Both directions; unread bytes are discarded. Pending operations end.
  virtual void shutdown(int handle) = 0;
  virtual void close(int handle) = 0;
};

}  // namespace squall
