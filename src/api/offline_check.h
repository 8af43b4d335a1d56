// Checking a host's pool while no daemon has it.
#pragma once

#include "api/config.h"
#include "check/pool_check.h"

namespace squall {

// Opens the pool under its lock, so that no daemon starts meanwhile, verifies everything in it and
// in the host's journal, and closes it again. A pool that cannot be opened because it is damaged
// gives a report that says so. kBusy: a daemon has it. Blocks; from any thread.
//
// `repair`: makes good what can be made good (check/repair.h) and checks again; the report is of
// that, with the actions taken.
Result<CheckReport> check_offline(const Config& config, CheckOptions options, bool repair);

}  // namespace squall
