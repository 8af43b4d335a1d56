// CrashRecovery: one crash of a CrashWorld's host: restarts the disk, starts a host on it and
// checks what it shows; by seed also crashes that start-up in the middle, and works on.
#pragma once

#include "testing/crash_world.h"

namespace squall::testing {

class CrashRecovery {
 public:
  // Faults end with the crash.
  CrashRecovery(const CrashWorld& world, Crash crash, uint64_t seed)
      : world_(world), crash_(crash), random_(seed), options_(world.options()) {}

  // `dead` as SimDisk::after_cut or after_kill made it. What is wrong; empty: nothing.
  std::string check(const sim::SimDisk& dead, const sim::LossPolicy& policy);

  uint64_t second_crashes() const { return second_crashes_; }
  bool worked_on() const { return worked_on_; }

 private:
  using Found = CrashWorld::Found;
  // A crash in the middle of a recovery: how, and the disk it leaves.
  struct Midway {
    Crash how = Crash::kKill;
    std::optional<sim::SimDisk> dead;
  };
  std::string recover(sim::SimDisk& disk, Crash promise, Found& found, Midway* midway);
  std::string crash_again(const Midway& midway, const Found& before);
  std::string work_on(sim::SimDisk& disk, Found found);

  const CrashWorld& world_;
  const Crash crash_;
  Random random_;
  SimHostOptions options_;
  uint64_t second_crashes_ = 0;
  bool worked_on_ = false;
};

}  // namespace squall::testing
