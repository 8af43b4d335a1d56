// FaultCampaign: runs a scenario on a disk that begins to fail in the middle of it. Whatever fails
// then says so and leaves old or new content; what was acknowledged can still be read; with the
// disk well again the host works on, and it survives a crash with every promise kept, in particular
// what was flushed in spite of failed syncs.
//
// The environment is CrashCampaign's (testing/crash_points.h); an id here names the fault and the
// change from which on it is there. One thread.
#pragma once

#include <string>
#include <vector>

#include "testing/crash_points.h"

namespace squall::testing {

struct FaultPlan {
  const char* name = "";
  const char* path = "/";
  sim::DiskFaults faults;
  bool full = false;          // the path's disk has no room left; later it has
  bool must_recover = false;  // once it is over everything works without a restart
};
const std::vector<FaultPlan>& fault_plans();

struct FaultStats {
  uint64_t runs = 0;      // scenarios run with one fault
  uint64_t failures = 0;  // requests that failed for it
  uint64_t reliefs = 0;   // runs in which somebody waited until the fault was over
  uint64_t restarts = 0;  // runs after which the daemon had to be restarted
  uint64_t crashes = 0;   // recoveries checked afterwards

  std::string to_string() const;
};

class FaultCampaign {
 public:
  explicit FaultCampaign(CrashOptions options) : options_(std::move(options)) {}

  // What went wrong and how to replay it; empty: nothing.
  std::string run(const Scenario& scenario, const CrashSetup& setup, const FaultPlan& plan);
  const FaultStats& stats() const { return stats_; }

 private:
  class Run;
  CrashOptions options_;
  FaultStats stats_;
};

}  // namespace squall::testing
