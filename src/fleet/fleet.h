// FleetManager: one command turns an image into running VMs, another takes them down. Every step
// may be repeated: what an earlier run left half-done is continued, what is dead is tolerated.
// Calls block; one thread.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "fleet/launcher.h"
#include "fleet/store.h"
#include "fleet/volumes.h"

namespace squall {

class FleetManager {
 public:
  struct UpOptions {
    std::chrono::milliseconds timeout{300'000};  // for all VMs together to become ready
    std::chrono::milliseconds poll_interval{50};
    // Called at every change and at least every `report_interval`.
    std::function<void(const FleetStatus&)> report = [](const FleetStatus&) {};
    std::chrono::milliseconds report_interval{1'000};
    // An error ends the wait; what this call made is then undone (the whole fleet, if it is new).
    std::function<Result<void>()> check_interrupt = [] { return Result<void>(); };
  };
  struct DownOptions {
    bool keep_volumes = false;  // guests are asked to power down first, and `up` starts them again
    std::chrono::milliseconds power_down{60'000};  // with keep_volumes: how long guests may take
    std::chrono::milliseconds patience{5'000};     // before each harsher way to stop a VM
  };

  FleetManager(FleetStore& store, FleetVolumes& volumes, Launcher& launcher)
      : store_(store), volumes_(volumes), launcher_(launcher) {}

  // Makes the volumes that are missing, starts the VMs that do not run, waits until all are ready.
  // The status is returned also when some VM did not become ready: look at it.
  Result<FleetStatus> up(const FleetRequest& request, const UpOptions& options);
  // Stops the VMs, removes the volumes and the fleet.
  Result<void> down(const std::string& name, const DownOptions& options);
  Result<FleetStatus> status(const std::string& name);
  Result<std::vector<FleetStatus>> list();

 private:
  struct Undo;   // what an interrupted up() has to take back
  struct Watch;  // a VM that up() waits for
  struct Timing {
    std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
    std::optional<uint64_t> create_us{};
  };

  Result<FleetRecord> define(const FleetRequest& request, Undo& undo);
  Result<void> create_volumes(FleetRecord& record, Undo& undo, Timing& timing);
  Result<void> start_vms(const FleetRecord& record, const UpOptions& options,
                         std::vector<Watch>& watches, const Timing& timing, Undo& undo);
  Result<void> wait_until_ready(const FleetRecord& record, const UpOptions& options,
                                std::vector<Watch>& watches, const Timing& timing);
  bool look_at(const FleetSpec& fleet, Watch& watch);
  void add_counters(FleetStatus& status);
  FleetStatus report_of(const FleetRecord& record, const std::vector<Watch>& watches,
                        const Timing& timing);
  Result<FleetStatus> status_of(const FleetRecord& record);

  VmStatus new_status(const VmDefinition& vm) const;
  VmDefinition vm_of(const FleetSpec& fleet, uint32_t index) const;
  void stop_vms(const std::vector<VmDefinition>& vms, const DownOptions& options);
  bool wait_for_end(const std::vector<VmDefinition>& vms, std::chrono::milliseconds limit);
  Result<void> remove_volumes(const std::vector<FleetRecord::Volume>& volumes);
  void take_back(const FleetRecord& record, const Undo& undo);

  FleetStore& store_;
  FleetVolumes& volumes_;
  Launcher& launcher_;
};

}  // namespace squall
