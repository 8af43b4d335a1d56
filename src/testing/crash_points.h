// CrashCampaign: runs a scenario and crashes it everywhere.
//
// One run yields all crash points: before each change of the disk's state (SimDisk::set_observer)
// the disk as a power cut, and as a kill, at that moment would leave it is taken aside, restarted
// under a loss policy, and a new host started on it; CrashWorld::verify says whether what that host
// shows is allowed. A part of those recoveries is crashed once more in the middle, and on a part of
// the recovered hosts work goes on.
//
// Environment:
//   SQUALL_CRASH_FULL=1       every point, every cache mode and scope, more policies
//   SQUALL_SEEDS=N            seeds per scenario (default 1), from SQUALL_SEED on (default 1)
//   SQUALL_CRASH=ID           replays one crash: the id that a failure prints
//   SQUALL_CRASH_SCENARIO=X   only scenarios whose name contains X
//   SQUALL_CRASH_POINTS=N     points per run, when not full (default 4)
//   SQUALL_CRASH_POLICIES=N   loss policies per power cut (0: all of them)
// One thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "testing/crash_world.h"

namespace squall::testing {

struct CrashSetup {
  CacheMode cache = CacheMode::kWriteback;  // of the volume "s", which the scenario is about
  Durability durability = Durability::kHost;
  uint64_t seed = 1;
  uint64_t latency_ns = 0;  // of every operation of the disk
};

struct Scenario {
  const char* name = "";
  void (*prepare)(CrashWorld& world) = nullptr;  // after set_up_crash_world; may be null
  void (*act)(CrashWorld& world) = nullptr;      // crashed everywhere
  bool whole_life = false;                       // begins with an empty disk, without set-up
  bool starts_host = false;
};
// All scenarios, and one by name.
const std::vector<Scenario>& crash_scenarios();

// An image "base", the volume "s" with a snapshot "s@old", and the volumes "n-..." in other modes,
// each with a history of committed, flushed and merely acknowledged writes.
void set_up_crash_world(CrashWorld& world, const CrashSetup& setup);

struct CrashStats {
  uint64_t scenarios = 0;       // with one set-up each
  uint64_t points = 0;          // moments in which they were crashed
  uint64_t crashes = 0;         // recoveries checked after a first crash
  uint64_t second_crashes = 0;  // recoveries that were themselves crashed
  uint64_t worked_on = 0;       // recovered hosts on which work went on

  std::string to_string() const;
};

struct CrashOptions {
  bool full = false;
  uint64_t first_seed = 1;
  uint64_t seeds = 1;
  std::string only;             // SQUALL_CRASH
  std::string scenario_filter;  // SQUALL_CRASH_SCENARIO
  uint64_t points = 4;          // per run, when not full
  uint64_t policies = 3;        // per power cut; 0: all

  static CrashOptions from_environment();
};

class CrashCampaign {
 public:
  explicit CrashCampaign(CrashOptions options) : options_(std::move(options)) {}

  // Runs one scenario with one set-up. Says what went wrong and how to replay it; empty: nothing.
  std::string run(const Scenario& scenario, const CrashSetup& setup);
  const CrashStats& stats() const { return stats_; }

 private:
  class Run;
  CrashOptions options_;
  CrashStats stats_;
};

}  // namespace squall::testing
