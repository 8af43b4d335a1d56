// DiskFaults: what goes wrong below a path prefix of a simulated disk. Set with
// SimDisk::set_faults() at any time; a prefix matches whole path components ("/pool" covers
// "/pool/segments/1"). An operation suffers the faults of every prefix that covers it.
#pragma once

#include <cstdint>
#include <optional>

namespace squall::sim {

// EIO for `times` operations after `after` good ones.
struct FaultCount {
  uint64_t after = 0;
  uint64_t times = 0;

  static constexpr FaultCount never() { return {}; }
  static constexpr FaultCount once(uint64_t after = 0) { return {after, 1}; }
  static constexpr FaultCount always() { return {0, ~0ULL}; }
};

struct DiskFaults {
  std::optional<uint64_t> capacity_bytes;  // ENOSPC beyond it
  FaultCount read;
  FaultCount write;  // also truncate, allocate, punch; a failed write may have landed in part
  FaultCount sync;   // a failed sync drops dirty data as Linux does: lost from the medium or not,
                     // and no later sync tries again
  bool failed_sync_evicts = false;  // the page cache forgets the dropped data as well
  uint64_t latency_ns = 0;          // added to each operation of the reactor
  bool away = false;                // every operation fails with EIO
};

}  // namespace squall::sim
