// PosixNetwork: real unix and TCP sockets. Handles are file descriptors in blocking mode, which
// UringReactor takes.
//
// Thread safety: any thread. Stateless; errors name the endpoint and the operation.
#pragma once

#include "io/network.h"

namespace squall {

class PosixNetwork final : public Network {
 public:
  // Unix sockets are created with mode 0660. A TCP host may be a name or a number of either family;
  // empty means every address.
  Result<int> listen(const Endpoint& endpoint) override;
  Result<uint16_t> bound_port(int handle) override;
  Result<int> connect(const Endpoint& endpoint) override;
  // An IPv4 client of an IPv6 socket is reported by its IPv4 address.
  Result<PeerIdentity> peer(int handle) override;
  bool is_hung_up(int handle) override;
  void set_no_delay(int handle) override;
  void give_up_after(int handle, uint64_t silence_s) override;
  // A kRecv whose completion the reactor has already fetched may still deliver its bytes; every
  // later one gives 0 or an error.
  void shutdown(int handle) override;
  // Operations pending on the handle keep the socket alive: shut it down first.
  void close(int handle) override;
};

}  // namespace squall
