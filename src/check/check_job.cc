#include "check/check_job.h"

#include "base/log.h"

namespace squall {

Result<uint64_t> CheckJob::start(uint64_t rate_bytes_per_s) {
  if (gate_.is_closed()) return fail(ErrorKind::kCancelled, "squalld is stopping");
  if (!status_.done) return fail(ErrorKind::kBusy, "another check is running; wait for its end");
  status_ = {.id = status_.id + 1};
  cancelled_ = false;
  const uint64_t id = status_.id;
  target_.reactor.post([this, rate_bytes_per_s, pass = gate_.enter()]() mutable {
    spawn(run(rate_bytes_per_s), [pass = std::move(pass)] {});
  });
  return id;
}

Result<CheckStatus> CheckJob::status(uint64_t id) const {
  if (id != status_.id || id == 0)
    return fail(ErrorKind::kNotFound, "there is no check {}; a later one has begun", id);
  return status_;
}

void CheckJob::cancel(uint64_t id) {
  if (id == status_.id) cancelled_ = true;
}

Task<void> CheckJob::run(uint64_t rate_bytes_per_s) {
  auto report = co_await check_pool(
      target_, {.rate_bytes_per_s = rate_bytes_per_s,
                .cancelled = [this] { return cancelled_ || gate_.is_closed(); },
                .on_progress = [this](const CheckProgress& p) { status_.progress = p; }});
  if (report) {
    for (const Fault& fault : report->faults) LOG_ERROR("check: {}", fault.to_line());
    status_.report = std::move(*report);
  } else {
    status_.error = report.error().message();
  }
  status_.done = true;
}

Task<void> CheckJob::stop() {
  co_await gate_.close();
}

}  // namespace squall
