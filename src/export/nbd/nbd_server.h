// NbdServer: serves the disks of a DiskDirectory over NBD (fixed newstyle) on a unix socket and,
// when configured, on TCP. Whatever a client sends, at worst its own connection is closed.
//
// Lives on one reactor's thread, that of the disks. The reactor, network, directory and admission
// outlive it; between start() and the end of stop() it must not be destroyed.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/task.h"
#include "export/admission.h"
#include "export/budget.h"
#include "export/nbd/context.h"
#include "io/gate.h"
#include "io/network.h"
#include "io/reactor.h"

namespace squall::nbd {

class Connection;

struct NbdConfig {
  std::vector<Endpoint> endpoints;  // the unix socket's, and TCP where wanted
  NbdLimits limits;
  uint64_t dead_peer_s = 60;  // a TCP client without a sign of life for so long is taken for dead
};

// A connection, for listings.
struct NbdClient {
  std::string name;  // of the export; empty during the handshake
  PeerIdentity identity;
  bool writer = false;
  uint64_t requests = 0;
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
};

class NbdServer {
 public:
  // `admission` is shared with the servers of other protocols.
  NbdServer(Reactor& reactor, Network& network, DiskDirectory& directory, Admission& admission,
            NbdConfig config);
  ~NbdServer();
  NbdServer(const NbdServer&) = delete;
  NbdServer& operator=(const NbdServer&) = delete;

  // Listens on every endpoint, or on none when one fails.
  Result<void> start();
  // Takes no further connection or request, finishes and answers those in flight, closes.
  Task<void> stop();

  // The port of the n-th endpoint, for those configured with port 0.
  Result<uint16_t> bound_port(size_t endpoint) const;
  const NbdStats& stats() const { return stats_; }
  // Every connection, or those of one export.
  std::vector<NbdClient> clients() const;
  std::vector<NbdClient> clients(const std::string& name) const;
  // Closes every connection of an export; ends when none has anything in flight. For a disk that
  // is removed by force: its owner makes open_disk fail before.
  Task<void> disconnect_export(std::string name);

 private:
  struct Listener;

  Task<void> accept_loop(Listener& listener);
  Task<void> serve(std::list<std::unique_ptr<Connection>>::iterator connection, Gate::Pass pass);
  bool add_connection(int handle);
  void close_listeners();
  void start_stall_watch();
  void end_stalls();

  Reactor& reactor_;
  Network& network_;
  Admission& admission_;
  const NbdConfig config_;
  NbdStats stats_;
  Budget bytes_total_;
  const Context context_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::list<std::unique_ptr<Connection>> connections_;
  Timer stall_timer_;
  Gate accepting_;
  Gate serving_;
};

}  // namespace squall::nbd
