// The control API: routes of /v1 to VolumeManager. Handlers run on control threads and only post to
// the reactor and wait. An import's session belongs to the connection that began it and is aborted
// when that connection ends before finish.
#pragma once

#include "api/http_server.h"
#include "api/types.h"
#include "base/task.h"
#include "io/reactor.h"
#include "volume/manager.h"

namespace squall {

// What handlers want of the daemon beyond VolumeManager. Called on the reactor's thread.
class RestHost {
 public:
  virtual ~RestHost() = default;
  virtual Task<Result<StatusInfo>> status() = 0;
  virtual CollectorStatus gc_status() = 0;
  virtual uint64_t start_gc() = 0;  // the ticket that gc_status() will reach
  virtual void cancel_gc() = 0;
  // Checks of the pool, one at a time.
  virtual Result<uint64_t> start_check(CheckRequest request) = 0;
  virtual Result<CheckStatus> check_status(uint64_t id) = 0;
  virtual void cancel_check(uint64_t id) = 0;
  // Ends every client's connection to a disk.
  virtual Task<void> disconnect_clients(std::string disk) = 0;
};

// What handlers work on; all of it outlives the HTTP server.
struct RestTarget {
  Reactor& reactor;
  VolumeManager& manager;
  RestHost& host;
};

std::unique_ptr<HttpSession> make_rest_session(const RestTarget& target);

}  // namespace squall
