// SimHost: everything of a host below its protocol servers, on a simulated disk: file engine, pool,
// journal, volumes. Start it, use it, then stop it, or cut the power or kill the process on the
// SimDisk first, stop it, restart the disk and start a new SimHost: that is a crash.
#pragma once

#include <memory>

#include "check/pool_check.h"
#include "engine/file_engine.h"
#include "io/run_task.h"
#include "pool/collector.h"
#include "pool/pool.h"
#include "sim/sim_reactor.h"
#include "volume/host_volumes.h"

namespace squall::testing {

struct SimHostOptions {
  JournalConfig journal{.directory = "/host/journal", .file_bytes = 256 * kKiB, .max_files = 8};
  uint64_t commit_bytes = 128 * kKiB;
  uint64_t quota_bytes = 512 * kKiB;
  uint64_t stall_ms = 120'000;
  bool accept_journal_loss = false;
  uint64_t segment_bytes = 1 * kMiB;
  size_t cache_bytes = 1 * kMiB;
  uint64_t dedup_index_bytes = 256 * kKiB;
  std::string boot_id = "boot-1";
  std::string fast_scratch = "/host/tmpfs";
  std::string overflow_scratch = "/host/scratch";
  uint64_t fast_budget_bytes = 256 * kKiB;
  std::vector<StoreDirectory> stores;  // of a new pool, besides "default"
  CollectorConfig collector{.background = false};
};

class SimHost {
 public:
  // Makes the pool if the disk has none.
  static Result<std::unique_ptr<SimHost>> start(uint64_t seed, sim::SimDisk& disk,
                                                SimHostOptions options = {});
  ~SimHost();

  // Runs `task` to its end on the simulated reactor.
  template <class T>
  T run(Task<T> task) {
    return run_task(reactor_, std::move(task));
  }
  HostVolumes& volumes() { return *volumes_; }
  sim::SimReactor& reactor() { return reactor_; }
  Pool& pool() { return *pool_; }
  Collector& collector() { return *collector_; }
  SegmentStore& segments() { return *engine_->segments; }
  MetaStore& catalog() { return *engine_->meta; }
  FileEngine& engine() { return *engine_; }

  // Verifies everything in the pool, as `squall check` does on a daemon that runs; waits first
  // until the segments that a crash left open are sealed. A sound pool gives a report without
  // faults.
  Result<CheckReport> check();
  // A second host's volumes on the same pool, as a ghost or a rival would have them. Stop and drop
  // them before this host ends.
  Result<std::unique_ptr<HostVolumes>> join(const SimHostOptions& options);

 private:
  SimHost(uint64_t seed, sim::SimDisk& disk) : reactor_(seed, disk) {}
  Result<void> open(const SimHostOptions& options);

  sim::SimReactor reactor_;
  std::unique_ptr<FileEngine> engine_;
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<HostVolumes> volumes_;
  std::unique_ptr<Collector> collector_;
};

}  // namespace squall::testing
