// DiskCore's names: look-up, and the changes that sync_directory makes durable.
#include <algorithm>
#include <cerrno>

#include "sim/disk_core.h"
#include "sim/path.h"

namespace squall::sim {

namespace {
constexpr uint64_t kDefaultCapacity = 1024 * kGiB;
}  // namespace

int DiskCore::find(const std::string& path, InodeId& inode) const {
  inode = kRootInode;
  for (const std::string& name : components(path)) {
    if (!state_.image.is_directory(inode)) return -ENOTDIR;
    const auto next = state_.image.names().find({inode, name});
    if (!next) return -ENOENT;
    inode = *next;
  }
  return 0;
}

int DiskCore::find_parent(const std::string& path, Place& place) const {
  std::vector<std::string> names = components(path);
  if (names.empty()) return -EINVAL;
  place.name = names.back();
  names.pop_back();
  if (const int error = find(join(names), place.directory); error < 0) return error;
  return state_.image.is_directory(place.directory) ? 0 : -ENOTDIR;
}

int DiskCore::open(const std::string& path, OpenOptions options, OpenFileRef& file) {
  const std::string normal = join(components(path));
  if (const int error = admit(normal, Access::kName); error < 0) return error;
  InodeId inode = 0;
  const int found = find(normal, inode);
  if (found == 0) {
    if (options.create && options.exclusive) return -EEXIST;
    if (state_.image.is_directory(inode)) return -EISDIR;
  } else if (found != -ENOENT || !options.create) {
    return found;
  } else {
    Place place;
    if (const int error = find_parent(normal, place); error < 0) return error;
    before_change();
    inode = state_.image.create(place, false);
    file = std::make_shared<OpenFile>(shared_from_this(), inode, normal, options);
    count_change();
    return 0;
  }
  file = std::make_shared<OpenFile>(shared_from_this(), inode, normal, options);
  return 0;
}

int DiskCore::stat(const std::string& path, FileInfo& info) {
  if (const int error = admit(join(components(path)), Access::kName); error < 0) return error;
  InodeId inode = 0;
  if (const int error = find(path, inode); error < 0) return error;
  const CowBytes& content = state_.image.content(inode);
  info = {.size = content.size(),
          .allocated_bytes = content.allocated_bytes(),
          .is_directory = state_.image.is_directory(inode)};
  return 0;
}

int DiskCore::make_directory(const std::string& path) {
  if (const int error = admit(join(components(path)), Access::kName); error < 0) return error;
  InodeId directory = kRootInode;
  for (const std::string& name : components(path)) {
    if (!state_.image.is_directory(directory)) return -ENOTDIR;
    if (const auto next = state_.image.names().find({directory, name})) {
      directory = *next;
      continue;
    }
    if (state_.power != Power::kOn) return -EIO;
    before_change();
    directory = state_.image.create({directory, name}, true);
    count_change();
  }
  return state_.image.is_directory(directory) ? 0 : -EEXIST;
}

int DiskCore::list(const std::string& path, std::vector<std::string>& names) {
  if (const int error = admit(join(components(path)), Access::kName); error < 0) return error;
  InodeId inode = 0;
  if (const int error = find(path, inode); error < 0) return error;
  if (!state_.image.is_directory(inode)) return -ENOTDIR;
  names = state_.image.names().list(inode);
  return 0;
}

int DiskCore::remove(const std::string& path) {
  if (const int error = admit(join(components(path)), Access::kName); error < 0) return error;
  InodeId inode = 0;
  if (const int error = find(path, inode); error < 0) return error;
  if (state_.image.is_directory(inode)) return -EISDIR;
  before_change();
  flush_mappings(inode);
  state_.image.move(inode, std::nullopt);
  count_change();
  return 0;
}

int DiskCore::rename(const std::string& from, const std::string& to) {
  for (const std::string& path : {from, to}) {
    if (const int error = admit(join(components(path)), Access::kName); error < 0) return error;
  }
  InodeId inode = 0;
  Place place;
  if (const int error = find(from, inode); error < 0) return error;
  if (const int error = find_parent(to, place); error < 0) return error;
  if (covers(join(components(from)), join(components(to)))) {
    return join(components(from)) == join(components(to)) ? 0 : -EINVAL;
  }
  if (const auto target = state_.image.names().find(place)) {
    if (state_.image.is_directory(*target)) {
      if (!state_.image.is_directory(inode)) return -EISDIR;
      if (!state_.image.names().list(*target).empty()) return -ENOTEMPTY;
    } else if (state_.image.is_directory(inode)) {
      return -ENOTDIR;
    }
  }
  before_change();
  state_.image.move(inode, place);
  count_change();
  return 0;
}

int DiskCore::sync_directory(const std::string& path) {
  if (const int error = admit(join(components(path)), Access::kSync); error < 0) return error;
  InodeId inode = 0;
  if (const int error = find(path, inode); error < 0) return error;
  if (!state_.image.is_directory(inode)) return -ENOTDIR;
  before_change();
  state_.image.sync_names(inode);
  collect();
  count_change();
  return 0;
}

int DiskCore::space(const std::string& path, SpaceInfo& info) {
  const std::string normal = join(components(path));
  if (const int error = admit(normal, Access::kName); error < 0) return error;
  InodeId inode = 0;
  if (const int error = find(path, inode); error < 0) return error;
  info = {.total_bytes = kDefaultCapacity, .available_bytes = kDefaultCapacity - used_bytes("/")};
  for (const auto& [prefix, faults] : state_.faults) {
    if (!faults.capacity_bytes || !covers(prefix, normal)) continue;
    const uint64_t used = used_bytes(prefix);
    info.total_bytes = std::min(info.total_bytes, *faults.capacity_bytes);
    info.available_bytes = std::min(
        info.available_bytes, *faults.capacity_bytes > used ? *faults.capacity_bytes - used : 0);
  }
  return 0;
}

}  // namespace squall::sim
