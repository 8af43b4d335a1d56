// FleetStore: the records of a host's fleets: SQUALL_HOME/fleets/NAME/fleet.json and, per VM,
// NAME/VM/vm.json. Files are replaced whole. One FleetLock per fleet keeps two commands from
// working on it at once; reading needs none.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "fleet/spec.h"

namespace squall {

// Held from acquire to destruction; gone with the process however it ends.
class FleetLock {
 public:
  FleetLock(FleetLock&& other) noexcept;
  FleetLock& operator=(FleetLock&&) = delete;
  ~FleetLock();

 private:
  friend class FleetStore;
  FleetLock(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_;
};

class FleetStore {
 public:
  // `directory`: SQUALL_HOME/fleets; made at the first lock.
  explicit FleetStore(std::string directory) : directory_(std::move(directory)) {}

  // kBusy when another command works on the fleet.
  Result<FleetLock> lock(const std::string& name);

  Result<std::vector<std::string>> list() const;            // names, sorted
  Result<FleetRecord> load(const std::string& name) const;  // kNotFound
  Result<void> save(const FleetRecord& record);
  // All that is kept of the fleet.
  Result<void> remove(const std::string& name);

  std::string vm_directory(const FleetSpec& fleet, uint32_t index) const;
  // Empty: never started.
  Result<std::optional<VmRecord>> load_vm(const FleetSpec& fleet, uint32_t index) const;
  Result<void> save_vm(const FleetSpec& fleet, uint32_t index, const VmRecord& record);

 private:
  const std::string directory_;
};

}  // namespace squall
