// Connection: one accepted NBD client from greeting to close. Owned by the server, which destroys
// it after run() has ended.
#pragma once

#include <memory>
#include <optional>

#include "export/nbd/context.h"
#include "export/nbd/receiver.h"
#include "export/nbd/socket.h"
#include "export/nbd/transmission.h"

namespace squall::nbd {

class Connection final : public AdmittedPeer {
 public:
  Connection(const Context& context, int handle, PeerIdentity identity);

  Task<void> run();

  bool is_hung_up() override;
  void shut_down() override { socket_.shut_down(); }
  // Takes no further request; what is in flight is finished and answered.
  void stop_intake();

  const Socket& socket() const { return socket_; }
  const PeerIdentity& identity() const { return identity_; }
  // What it serves; null during the handshake.
  const Session* session() const { return session_ ? &*session_ : nullptr; }
  TransmissionCounters counters() const;

 private:
  const Context& context_;
  const PeerIdentity identity_;
  Socket socket_;
  std::optional<Session> session_;
  std::unique_ptr<Transmission> transmission_;
};

}  // namespace squall::nbd
