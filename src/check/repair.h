// repair_pool: what can be made good after a check, on a pool that no daemon has open:
//
//   catalog entries   put right where one changed byte explains the damage, written anew where only
//                     the entry's own checksum is wrong, otherwise moved to the catalog's partition
//                     "quarantine" under PARTITION/KEY, so that the daemon starts without them
//   counters          raised above everything that is in use
//   segments          headers, footers (with fingerprints) and trailers made anew from the records;
//                     segments that a crash left open are sealed; one without any valid record that
//                     nobody needs goes to its store's directory `quarantine`
//
// Damaged records cannot be made good: what they held is gone, reads of it give EIO, and a check
// goes on naming them. Nothing is deleted. Doing it twice, or being killed in the middle and doing
// it again, leads to the same pool. One reactor's thread.
#pragma once

#include "check/pool_check.h"

namespace squall {

// `report`: of a check just made. Returns what was done, a line each.
Task<Result<std::vector<std::string>>> repair_pool(CheckTarget target, CheckReport report);

}  // namespace squall
