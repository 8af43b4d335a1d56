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

// What the daemon knows of itself and its pool. Called on the reactor's thread.
class StatusSource {
 public:
  virtual ~StatusSource() = default;
  virtual Task<Result<StatusInfo>> status() = 0;
};

// What handlers work on; all of it outlives the HTTP server.
struct RestTarget {
  Reactor& reactor;
  VolumeManager& manager;
  StatusSource& status;
};

std::unique_ptr<HttpSession> make_rest_session(const RestTarget& target);

}  // namespace squall
