#include "sim/disk_core.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "sim/path.h"

namespace squall::sim {

namespace {
bool fires(FaultCount& fault) {
  if (fault.times == 0) return false;
  if (fault.after > 0) {
    --fault.after;
    return false;
  }
  if (fault.times != ~0ULL) --fault.times;
  return true;
}
}  // namespace

OpenFile::OpenFile(std::shared_ptr<DiskCore> disk, InodeId inode_id, std::string open_path,
                   OpenOptions open_options)
    : core(std::move(disk)),
      boot(core->boot_),
      id(++core->last_file_id_),
      inode(inode_id),
      path(std::move(open_path)),
      options(open_options) {
  ++core->open_count_[inode];
}

OpenFile::~OpenFile() {
  core->closed(*this);
}

void DiskCore::closed(const OpenFile& file) {
  if (file.boot != boot_) return;
  if (--open_count_[file.inode] == 0) open_count_.erase(file.inode);
  if (const auto held = locks_.find(file.inode); held != locks_.end() && held->second == file.id) {
    locks_.erase(held);
  }
  if (state_.power == Power::kOn && state_.image.names().place_of(file.inode) == nullptr) collect();
}

void DiskCore::collect() {
  state_.image.collect([this](InodeId inode) { return open_count_.contains(inode); });
}

std::shared_ptr<DiskCore> DiskCore::clone() {
  flush_all_mappings();
  auto copy = std::make_shared<DiskCore>(0);
  copy->state_ = state_;
  return copy;
}

std::shared_ptr<DiskCore> DiskCore::clone_dead(Power how) {
  auto copy = clone();
  if (state_.power != Power::kOn) return copy;
  copy->stop(how);
  if (how == Power::kKilled) copy->leave_late(in_flight());
  return copy;
}

// --- Admission: power, faults, and what a dead process left in flight ---------------------------

int DiskCore::admit(const std::string& path, Access access) {
  if (state_.power != Power::kOn) return -EIO;
  land_late_writes(false, 0);
  for (auto& [prefix, faults] : state_.faults) {
    if (!covers(prefix, path)) continue;
    if (faults.away) return -EIO;
    if (access == Access::kRead && fires(faults.read)) return -EIO;
    if (access == Access::kWrite && fires(faults.write)) return -EIO;
    if (access == Access::kSync && fires(faults.sync)) return -EIO;
  }
  return 0;
}

int DiskCore::admit(OpenFile& file, Access access) {
  if (file.boot != boot_) return -EBADF;
  if (access == Access::kWrite && !file.options.write) return -EBADF;
  return admit(current_path(file), access);
}

std::string DiskCore::current_path(const OpenFile& file) const {
  if (state_.faults.empty()) return file.path;
  std::string path = state_.image.path_of(file.inode);
  return path.empty() ? file.path : path;
}

uint64_t DiskCore::latency_ns(const OpenFile& file) const {
  if (!is_alive(file)) return 0;
  uint64_t total = 0;
  for (const auto& [prefix, faults] : state_.faults) {
    if (faults.latency_ns > 0 && covers(prefix, current_path(file))) total += faults.latency_ns;
  }
  return total;
}

uint64_t DiskCore::used_bytes(const std::string& prefix) const {
  return state_.image.allocated_bytes([&](InodeId inode) {
    const std::string path = state_.image.path_of(inode);
    return path.empty() ? prefix == "/" && open_count_.contains(inode) : covers(prefix, path);
  });
}

bool DiskCore::has_room(InodeId inode, uint64_t more_bytes) const {
  if (more_bytes == 0) return true;
  const std::string path = state_.image.path_of(inode);
  for (const auto& [prefix, faults] : state_.faults) {
    if (!faults.capacity_bytes || !covers(prefix, path)) continue;
    if (used_bytes(prefix) + more_bytes > *faults.capacity_bytes) return false;
  }
  return true;
}

// A mapping's stores reach the file first, so that whoever looks on finds them in the same place of
// the order every time.
void DiskCore::before_change() {
  if (!observer_) return;
  flush_all_mappings();
  observer_();
}

void DiskCore::count_change() {
  ++state_.writes_done;
  if (state_.stop_countdown > 0 && --state_.stop_countdown == 0) stop(state_.stop_how);
}

// --- Content -------------------------------------------------------------------------------------

int64_t DiskCore::read(OpenFile& file, uint64_t offset, Bytes to) {
  if (const int error = admit(file, Access::kRead); error < 0) return error;
  flush_mappings(file.inode);
  const CowBytes& content = state_.image.content(file.inode);
  if (offset >= content.size()) return 0;
  to = to.first(std::min(to.size(), content.size() - offset));
  content.read(offset, to);
  return static_cast<int64_t>(to.size());
}

int DiskCore::change_content(OpenFile& file, const std::function<void(DiskImage&)>& change) {
  before_change();
  flush_mappings(file.inode);
  change(state_.image);
  refresh_mappings(file.inode);
  count_change();
  return 0;
}

int DiskCore::write(OpenFile& file, uint64_t offset, ConstBytes from) {
  int error = admit(file, Access::kWrite);
  const bool on = is_alive(file) && file.options.write;
  if (error == 0) {
    const uint64_t more = state_.image.content(file.inode).missing_bytes(offset, from.size());
    if (has_room(file.inode, more)) {
      return change_content(file, [&](DiskImage& image) { image.write(file.inode, offset, from); });
    }
    error = -ENOSPC;
  }
  if (error == -EIO && on && !from.empty()) {
    // The device may have taken the first sectors before it failed.
    const uint64_t landed = round_down(state_.random.below(from.size() + 1), kSectorSize);
    if (landed > 0) {
      change_content(
          file, [&](DiskImage& image) { image.write(file.inode, offset, from.first(landed)); });
    }
  }
  return error;
}

int DiskCore::truncate(OpenFile& file, uint64_t size) {
  if (const int error = admit(file, Access::kWrite); error < 0) return error;
  return change_content(file, [&](DiskImage& image) { image.truncate(file.inode, size); });
}

int DiskCore::allocate(OpenFile& file, uint64_t size) {
  if (const int error = admit(file, Access::kWrite); error < 0) return error;
  if (!has_room(file.inode, state_.image.content(file.inode).missing_bytes(0, size))) {
    return -ENOSPC;
  }
  return change_content(file, [&](DiskImage& image) { image.allocate(file.inode, size); });
}

int DiskCore::punch(OpenFile& file, uint64_t offset, uint64_t length) {
  if (length == 0) return -EINVAL;
  if (const int error = admit(file, Access::kWrite); error < 0) return error;
  return change_content(file, [&](DiskImage& image) { image.punch(file.inode, offset, length); });
}

int DiskCore::info(OpenFile& file, FileInfo& info) {
  if (const int error = admit(file, Access::kName); error < 0) return error;
  const CowBytes& content = state_.image.content(file.inode);
  info = {.size = content.size(), .allocated_bytes = content.allocated_bytes()};
  return 0;
}

int DiskCore::lock(OpenFile& file) {
  if (const int error = admit(file, Access::kName); error < 0) return error;
  const auto held = locks_.find(file.inode);
  if (held != locks_.end() && held->second != file.id) return -EWOULDBLOCK;
  land_late_writes(true, file.inode);
  locks_[file.inode] = file.id;
  return 0;
}

uint64_t DiskCore::begin_sync(OpenFile& file) {
  if (is_alive(file)) flush_mappings(file.inode);
  return state_.image.last_sequence();
}

int DiskCore::sync(OpenFile& file, uint64_t last_sequence) {
  const int error = admit(file, Access::kSync);
  if (error == 0) {
    before_change();
    flush_mappings(file.inode);
    state_.image.sync(file.inode, last_sequence, state_.random);
    count_change();
  } else if (error == -EIO && is_alive(file)) {
    const std::string path = current_path(file);
    bool evicts = false;
    bool away = false;
    for (const auto& [prefix, faults] : state_.faults) {
      if (!covers(prefix, path)) continue;
      evicts |= faults.failed_sync_evicts;
      away |= faults.away;
    }
    flush_mappings(file.inode);
    // A disk that is away takes nothing more; its dirty data is in doubt all the same.
    if (!away) state_.image.drop_unsynced(file.inode, evicts, state_.random);
    refresh_mappings(file.inode);
  }
  return error;
}

// --- Mappings ------------------------------------------------------------------------------------

int DiskCore::map(Mapping& mapping) {
  OpenFile& file = *mapping.file;
  if (const int error = admit(file, Access::kWrite); error < 0) return error;
  flush_mappings(file.inode);
  if (mapping.memory.size() > state_.image.content(file.inode).size()) return -EINVAL;
  state_.image.content(file.inode).read(0, mapping.memory);
  mappings_.push_back(&mapping);
  return 0;
}

void DiskCore::unmap(Mapping& mapping) {
  const auto found = std::ranges::find(mappings_, &mapping);
  if (found == mappings_.end()) return;  // of an earlier boot
  if (state_.power == Power::kOn) flush_mappings(mapping.file->inode);
  mappings_.erase(found);
}

void DiskCore::flush_mappings(InodeId inode) {
  if (mappings_.empty() || state_.power != Power::kOn) return;
  std::vector<std::byte> page(CowBytes::kPageSize);
  for (const Mapping* mapping : mappings_) {
    if (mapping->file->inode != inode) continue;
    const uint64_t size =
        std::min<uint64_t>(mapping->memory.size(), state_.image.content(inode).size());
    for (uint64_t offset = 0; offset < size; offset += page.size()) {
      const ConstBytes stored =
          mapping->memory.subspan(offset).first(std::min<uint64_t>(page.size(), size - offset));
      state_.image.content(inode).read(offset, Bytes(page).first(stored.size()));
      if (std::memcmp(page.data(), stored.data(), stored.size()) != 0) {
        state_.image.write(inode, offset, stored);
      }
    }
  }
}

void DiskCore::flush_all_mappings() {
  for (size_t i = 0; i < mappings_.size(); ++i) flush_mappings(mappings_[i]->file->inode);
}

void DiskCore::refresh_mappings(InodeId inode) {
  for (const Mapping* mapping : mappings_) {
    if (mapping->file->inode == inode) state_.image.content(inode).read(0, mapping->memory);
  }
}

}  // namespace squall::sim
