// DiskCore's deaths and restarts, and what a dead process leaves in flight.
#include <cerrno>
#include <utility>

#include "sim/disk_core.h"
#include "sim/path.h"

namespace squall::sim {

namespace {
// A killed process's write lands within this many operations of the next process.
constexpr uint64_t kLateOperations = 64;
}  // namespace

uint64_t DiskCore::add_in_flight_source(InFlightSource source) {
  sources_.emplace(++last_source_id_, std::move(source));
  return last_source_id_;
}

void DiskCore::set_faults(const std::string& prefix, DiskFaults faults) {
  state_.faults[join(components(prefix))] = faults;
}

int DiskCore::rot(const std::string& path, uint64_t offset, std::byte mask) {
  InodeId inode = 0;
  if (const int error = find(path, inode); error < 0) return error;
  if (state_.power == Power::kOn) flush_mappings(inode);
  if (offset >= state_.image.content(inode).size()) return -EINVAL;
  state_.image.rot(inode, offset, mask);
  refresh_mappings(inode);
  return 0;
}

void DiskCore::stop_after(uint64_t changes, Power how) {
  if (changes == 0) {
    stop(how);
    return;
  }
  state_.stop_countdown = changes;
  state_.stop_how = how;
}

void DiskCore::stop(Power how) {
  if (state_.power != Power::kOn) return;
  flush_all_mappings();
  state_.power = how;
  state_.stop_countdown = 0;
  if (how == Power::kKilled) leave_late(in_flight());
}

std::vector<InFlightWrite> DiskCore::in_flight() const {
  std::vector<InFlightWrite> writes;
  for (const auto& [id, source] : sources_) source(writes);
  return writes;
}

void DiskCore::leave_late(std::vector<InFlightWrite> writes) {
  for (InFlightWrite& write : writes) {
    const uint64_t fate = state_.random.below(3);
    if (fate == 0) continue;
    if (fate == 1) {
      const uint64_t sectors = write.data.size() / kSectorSize;
      write.data.resize(state_.random.below(sectors + 1) * kSectorSize);
    }
    state_.late.push_back({std::move(write), state_.random.below(kLateOperations)});
  }
}

void DiskCore::land(const InFlightWrite& write) {
  if (!state_.image.contains(write.inode)) return;
  flush_mappings(write.inode);
  state_.image.write(write.inode, write.offset, write.data);
  refresh_mappings(write.inode);
}

void DiskCore::land_late_writes(bool all_of_inode, InodeId inode) {
  if (state_.late.empty()) return;
  std::erase_if(state_.late, [&](LateWrite& late) {
    const bool now = all_of_inode ? late.write.inode == inode : late.operations_left == 0;
    if (now) land(late.write);
    if (!all_of_inode && !now) --late.operations_left;
    return now;
  });
}

void DiskCore::restart(const LossPolicy& policy) {
  stop(Power::kCut);
  if (state_.power == Power::kCut) {
    state_.late.clear();
    state_.image.lose(policy);
  }
  ++boot_;
  locks_.clear();
  mappings_.clear();
  open_count_.clear();
  collect();
  state_.power = Power::kOn;
}

uint64_t DiskCore::unsynced_writes() {
  flush_all_mappings();
  return state_.image.unsynced_changes();
}

uint64_t DiskCore::fingerprint() {
  flush_all_mappings();
  return state_.image.fingerprint();
}

}  // namespace squall::sim
