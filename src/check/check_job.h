// CheckJob: the checks that a daemon runs for its clients, one at a time, on the reactor and at a
// bounded rate. A client starts one, asks how far it is, and may cancel it. stop() before
// destruction; what `target` names outlives it. One reactor's thread.
#pragma once

#include <optional>

#include "check/pool_check.h"
#include "io/gate.h"

namespace squall {

struct CheckStatus {
  uint64_t id = 0;
  bool done = false;
  CheckProgress progress;
  std::string error;   // done, and it could not go to its end
  CheckReport report;  // done
};

class CheckJob {
 public:
  explicit CheckJob(CheckTarget target) : target_(target) {}

  // The new check's id. kBusy while another runs.
  Result<uint64_t> start(uint64_t rate_bytes_per_s);
  // kNotFound: of another check than the last one.
  Result<CheckStatus> status(uint64_t id) const;
  // It ends soon, if it is the one that runs.
  void cancel(uint64_t id);
  Task<void> stop();

 private:
  Task<void> run(uint64_t rate_bytes_per_s);

  CheckTarget target_;
  CheckStatus status_{.done = true};
  bool cancelled_ = false;
  Gate gate_;
};

}  // namespace squall
