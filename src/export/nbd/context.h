// What every connection of an NBD server shares, and what one connection serves after its
// handshake. Owned by the server; one reactor's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "export/admission.h"
#include "export/budget.h"
#include "io/network.h"
#include "io/reactor.h"
#include "volume/disk.h"

namespace squall::nbd {

constexpr uint32_t kPreferredBlockBytes = 4096;
constexpr uint32_t kMaxPayloadBytes = 32 * kMiB;  // of one READ or WRITE

// Bounds on what clients may make the server do.
struct NbdLimits {
  uint64_t connections_max = 16384;
  uint64_t handshake_ns_max = 30'000'000'000;  // from accept to the choice of an export
  uint64_t drain_ns_max = 30'000'000'000;      // to take the last replies, after DISC or stop()
  uint64_t option_count_max = 4096;
  uint64_t option_bytes_max = 64 * kKiB;      // longer ones are skipped and refused,
  uint64_t option_skip_bytes_max = 1 * kMiB;  // yet longer ones close the connection
  uint64_t write_skip_bytes_max = 64 * kMiB;  // the same for WRITE beyond kMaxPayloadBytes
  uint64_t requests_per_connection = 128;     // in flight: further ones wait in the socket
  uint64_t bytes_per_connection = 64 * kMiB;  // of buffers of requests in flight
  uint64_t bytes_total = 1 * kGiB;            // the same over all connections
  // A client that has kept buffers waiting so long is closed once others want their memory.
  uint64_t stall_ns_max = 10'000'000'000;
};

struct NbdStats {
  uint64_t connections_accepted = 0;
  uint64_t connections_open = 0;
  uint64_t requests = 0;
  uint64_t request_errors = 0;  // replies that reported an error
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
};

struct Context {
  Reactor& reactor;
  Network& network;
  DiskDirectory& directory;
  Admission& admission;
  Budget& bytes_total;
  const NbdLimits& limits;
  NbdStats& stats;
  std::function<void()> on_memory_shortage;  // a request waits for bytes_total
};

// The outcome of a handshake. The ticket goes last and comes back first: members are destroyed in
// reverse, and nobody may be told that this connection has left while it still holds the disk.
struct Session {
  Admission::Ticket ticket;
  OpenDisk disk;
  std::string name;
  bool structured = false;  // structured replies were negotiated
  bool allocation = false;  // base:allocation was selected for this export
  bool may_write() const { return ticket.may_write(); }
};

constexpr uint32_t kAllocationContextId = 1;

}  // namespace squall::nbd
