// Checking a host's pool while no daemon has it.
#pragma once

#include "api/config.h"
#include "check/pool_check.h"

namespace squall {

// Opens the pool under its lock, so that no daemon starts meanwhile, verifies everything in it and
// in the host's journal, and closes it again. A pool that cannot be opened because it is damaged
// gives a report that says so. kBusy: a daemon has it. Blocks; from any thread.
Result<CheckReport> check_offline(const Config& config, CheckOptions options);

}  // namespace squall
