#include "sim/sim_disk.h"

#include "sim/disk_core.h"

namespace squall::sim {

SimDisk::SimDisk(uint64_t seed) : core_(std::make_shared<DiskCore>(seed)) {}
SimDisk::SimDisk(std::shared_ptr<DiskCore> core) : core_(std::move(core)) {}
SimDisk::~SimDisk() = default;
SimDisk::SimDisk(SimDisk&&) noexcept = default;
SimDisk& SimDisk::operator=(SimDisk&&) noexcept = default;

SimDisk SimDisk::clone() const {
  return SimDisk(core_->clone());
}
SimDisk SimDisk::after_cut() const {
  return SimDisk(core_->clone_dead(DiskCore::Power::kCut));
}
SimDisk SimDisk::after_kill() const {
  return SimDisk(core_->clone_dead(DiskCore::Power::kKilled));
}

void SimDisk::set_faults(const std::string& prefix, DiskFaults faults) {
  core_->set_faults(prefix, faults);
}

void SimDisk::clear_faults() {
  core_->clear_faults();
}

Result<void> SimDisk::flip_bits(const std::string& path, uint64_t offset, uint8_t mask) {
  if (const int error = core_->rot(path, offset, std::byte{mask}); error < 0) {
    return fail_errno(-error, "flip bits of {} at offset {}", path, offset);
  }
  return {};
}

uint64_t SimDisk::writes_done() const {
  return core_->writes_done();
}
void SimDisk::set_observer(std::function<void()> observer) {
  core_->set_observer(std::move(observer));
}
uint64_t SimDisk::used_bytes(const std::string& prefix) const {
  return core_->used_bytes(prefix);
}
void SimDisk::cut_power_after(uint64_t n) {
  core_->stop_after(n, DiskCore::Power::kCut);
}
void SimDisk::kill_process_after(uint64_t n) {
  core_->stop_after(n, DiskCore::Power::kKilled);
}
void SimDisk::cut_power() {
  core_->stop(DiskCore::Power::kCut);
}
void SimDisk::kill_process() {
  core_->stop(DiskCore::Power::kKilled);
}
bool SimDisk::is_running() const {
  return core_->power() == DiskCore::Power::kOn;
}
uint64_t SimDisk::unsynced_writes() const {
  return core_->unsynced_writes();
}
void SimDisk::restart(const LossPolicy& policy) {
  core_->restart(policy);
}
uint64_t SimDisk::fingerprint() const {
  return core_->fingerprint();
}

}  // namespace squall::sim
