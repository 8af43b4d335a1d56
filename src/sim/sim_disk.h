// SimDisk: a host's simulated storage as tests own it: it outlives the reactors and the stacks that
// run on it, and says what is left of their work after a crash.
//
//   sim::SimDisk disk(seed);
//   {
//     sim::SimReactor reactor(seed, disk);
//     disk.cut_power_after(17);
//     run_task(reactor, workload(reactor));   // from the cut on everything fails with EIO
//   }                                         // the stack is torn down in the ordinary way
//   for (uint64_t k = 0; k < disk.unsynced_writes(); ++k) {
//     sim::SimDisk crashed = disk.clone();
//     crashed.restart(sim::LossPolicy::lose_one(k));
//     sim::SimReactor reactor(seed, crashed);
//     run_task(reactor, verify(reactor));
//   }
//
// A power cut loses what was not synced, as the policy says. A killed process loses nothing that
// had taken effect, page cache and mappings included; what it had in flight lands or not, by seed,
// possibly in part and possibly after the next process has started, but before that one is granted
// a lock on the file. Data that is not yet synced after a kill can still be lost by a later cut.
//
// One thread for a disk, its clones and its reactors. Moving it is fine: reactors keep hold of the
// state inside.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/error.h"
#include "sim/disk_faults.h"
#include "sim/loss_policy.h"

namespace squall::sim {

class DiskCore;

class SimDisk {
 public:
  explicit SimDisk(uint64_t seed);
  ~SimDisk();
  SimDisk(SimDisk&&) noexcept;
  SimDisk& operator=(SimDisk&&) noexcept;

  // The same content, unsynced changes, faults and power state; no open handles. Cheap.
  SimDisk clone() const;
  // What dying now would leave, as it is before restart(); this disk lives on. So one run yields
  // every crash point of a piece of work: see set_observer().
  SimDisk after_cut() const;
  SimDisk after_kill() const;

  // Replaces the faults of a path prefix ("/" for the whole disk).
  void set_faults(const std::string& prefix, DiskFaults faults);
  void clear_faults();
  // Bit rot: flips the bits of `mask` in one byte, in memory and on the medium.
  Result<void> flip_bits(const std::string& path, uint64_t offset, uint8_t mask = 1);

  // How many operations have changed state so far: writes (a write may be applied in several
  // pieces, each counted), truncate, allocate, punch, sync, and changes and syncs of names.
  uint64_t writes_done() const;
  // Called before each of them takes effect, when all that came of the earlier ones has happened.
  // It may clone this disk and set its faults, which hold from the next operation on, and no more.
  // Clones have none.
  void set_observer(std::function<void()> observer);
  // The power is cut (the process is killed) when `n` more of them, counted from this call, were
  // applied; whatever comes after fails with EIO. 0: now. A second call replaces the first.
  void cut_power_after(uint64_t n);
  void kill_process_after(uint64_t n);
  void cut_power();
  void kill_process();
  bool is_running() const;

  // Bytes of disk space that files below a path take.
  uint64_t used_bytes(const std::string& prefix) const;
  // Changes that a power cut now could lose.
  uint64_t unsynced_writes() const;
  // Power on again. After a cut `policy` says what is lost (a running disk is cut first); after a
  // kill nothing is. Handles, locks and mappings of before are void; faults stay.
  void restart(const LossPolicy& policy = LossPolicy::lose_all());

  // A hash of all names and contents, live and durable: equal runs give equal disks.
  uint64_t fingerprint() const;

  // For SimFileSystem and SimReactor.
  const std::shared_ptr<DiskCore>& core() const { return core_; }

 private:
  explicit SimDisk(std::shared_ptr<DiskCore> core);
  std::shared_ptr<DiskCore> core_;
};

}  // namespace squall::sim
