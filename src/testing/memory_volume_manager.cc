#include "testing/memory_volume_manager.h"

namespace squall::testing {

namespace {
std::string session_disk(uint64_t session) {
  return fmt::format(".import-{}", session);
}
}  // namespace

Result<uint64_t> MemoryVolumeManager::size_of(const std::string& from) const {
  const size_t at = from.find('@');
  if (const auto volume = volumes_.find(from.substr(0, at)); volume != volumes_.end()) {
    if (at == std::string::npos) return volume->second.info.size_bytes;
    const auto snapshot = volume->second.snapshots.find(from.substr(at + 1));
    if (snapshot != volume->second.snapshots.end()) return snapshot->second.size_bytes;
  }
  if (const auto image = images_.find(from); image != images_.end()) {
    return image->second.info.size_bytes;
  }
  return fail(ErrorKind::kNotFound, "{} does not exist", from);
}

Result<MemoryVolumeManager::Volume*> MemoryVolumeManager::find(const std::string& name) {
  const auto volume = volumes_.find(name);
  if (volume == volumes_.end()) {
    return fail(ErrorKind::kNotFound, "volume {} does not exist", name);
  }
  return &volume->second;
}

Task<Result<ImportSession>> MemoryVolumeManager::begin_import(ImportRequest request) {
  if (images_.contains(request.name))
    co_return fail(ErrorKind::kExists, "image {} exists", request.name);
  const uint64_t id = next_id_++;
  imports_[id] = {
      {request.name, id, request.size_bytes, 0, request.source, request.store, request.deduplicate},
      std::make_shared<MemoryDisk>(reactor_, request.size_bytes)};
  co_return ImportSession{id, session_disk(id)};
}

Task<Result<ImageInfo>> MemoryVolumeManager::finish_import(uint64_t session) {
  auto node = imports_.extract(session);
  if (node.empty()) co_return fail(ErrorKind::kNotFound, "no import {}", session);
  const std::string name = node.mapped().info.name;
  images_[name] = std::move(node.mapped());
  co_return images_[name].info;
}

Task<Result<void>> MemoryVolumeManager::abort_import(uint64_t session) {
  if (imports_.erase(session) == 0) co_return fail(ErrorKind::kNotFound, "no import {}", session);
  co_return Result<void>{};
}

Task<Result<ImageInfo>> MemoryVolumeManager::create_image(std::string name, std::string from) {
  if (images_.contains(name)) co_return fail(ErrorKind::kExists, "image {} exists", name);
  CO_TRY_ASSIGN(const uint64_t size_bytes, size_of(from));
  images_[name] = {{name, next_id_++, size_bytes, 0, from, ""},
                   std::make_shared<MemoryDisk>(reactor_, size_bytes)};
  co_return images_[name].info;
}

Task<Result<std::vector<ImageInfo>>> MemoryVolumeManager::list_images() {
  std::vector<ImageInfo> list;
  list.reserve(images_.size());
  for (const auto& [name, image] : images_) list.push_back(image.info);
  co_return list;
}

Task<Result<ImageInfo>> MemoryVolumeManager::show_image(std::string name) {
  const auto image = images_.find(name);
  if (image == images_.end()) {
    co_return fail(ErrorKind::kNotFound, "image {} does not exist", name);
  }
  co_return image->second.info;
}

Task<Result<void>> MemoryVolumeManager::remove_image(std::string name) {
  if (images_.erase(name) == 0) {
    co_return fail(ErrorKind::kNotFound, "image {} does not exist", name);
  }
  co_return Result<void>{};
}

Task<Result<std::vector<VolumeInfo>>> MemoryVolumeManager::create_volumes(CreateVolume request) {
  uint64_t size_bytes = request.size_bytes;
  if (!request.from.empty() && size_bytes == 0) {
    CO_TRY_ASSIGN(size_bytes, size_of(request.from));
  }
  std::vector<VolumeInfo> made;
  made.reserve(request.count);
  for (uint64_t i = 1; i <= request.count; ++i) {
    VolumeInfo info;
    info.name = request.count == 1 ? request.name : fmt::format("{}-{}", request.name, i);
    if (volumes_.contains(info.name)) {
      for (const VolumeInfo& earlier : made) volumes_.erase(earlier.name);
      co_return fail(ErrorKind::kExists, "volume {} exists", info.name);
    }
    info.id = next_id_++;
    info.size_bytes = size_bytes;
    info.parent = request.from;
    info.cache = request.cache;
    info.durability = request.durability;
    info.stateless = request.stateless;
    info.shared = request.shared;
    info.store = request.store;
    volumes_[info.name] = {info, std::make_shared<MemoryDisk>(reactor_, size_bytes), {}};
    made.push_back(info);
  }
  co_return made;
}

Task<Result<std::vector<VolumeInfo>>> MemoryVolumeManager::list_volumes() {
  std::vector<VolumeInfo> list;
  list.reserve(volumes_.size());
  for (const auto& [name, volume] : volumes_) list.push_back(volume.info);
  co_return list;
}

Task<Result<VolumeTotals>> MemoryVolumeManager::totals() {
  co_return VolumeTotals{.images = images_.size(), .volumes = volumes_.size()};
}

Task<Result<VolumeInfo>> MemoryVolumeManager::show_volume(std::string name) {
  CO_TRY_ASSIGN(const Volume* volume, find(name));
  co_return volume->info;
}

Task<Result<void>> MemoryVolumeManager::remove_volume(std::string name, bool) {
  CO_TRY(find(name));
  volumes_.erase(name);
  co_return Result<void>{};
}

Task<Result<VolumeInfo>> MemoryVolumeManager::resize_volume(std::string name, uint64_t size_bytes) {
  CO_TRY_ASSIGN(Volume * volume, find(name));
  if (size_bytes == 0 || size_bytes % 512 != 0) {
    co_return fail(ErrorKind::kInvalid, "{} is not a multiple of 512", size_bytes);
  }
  volume->info.size_bytes = size_bytes;
  volume->disk->set_size(size_bytes);
  co_return volume->info;
}

Task<Result<VolumeInfo>> MemoryVolumeManager::rollback_volume(std::string name,
                                                              std::string snapshot) {
  CO_TRY_ASSIGN(Volume * volume, find(name));
  const auto found = volume->snapshots.find(snapshot);
  if (found == volume->snapshots.end()) {
    co_return fail(ErrorKind::kNotFound, "snapshot {}@{} does not exist", name, snapshot);
  }
  volume->info.size_bytes = found->second.size_bytes;
  co_return volume->info;
}

Task<Result<VolumeInfo>> MemoryVolumeManager::takeover_volume(std::string name, bool lose_data) {
  CO_TRY_ASSIGN(Volume * volume, find(name));
  if (!lose_data) co_return fail(ErrorKind::kBusy, "volume {} is dirty elsewhere", name);
  ++volume->info.epoch;
  co_return volume->info;
}

Task<Result<void>> MemoryVolumeManager::commit_volume(std::string name) {
  CO_TRY(find(name));
  co_return Result<void>{};
}

Task<Result<SnapshotInfo>> MemoryVolumeManager::create_snapshot(std::string volume,
                                                                std::string snapshot) {
  CO_TRY_ASSIGN(Volume * found, find(volume));
  const auto [entry, is_new] = found->snapshots.try_emplace(snapshot);
  if (!is_new) co_return fail(ErrorKind::kExists, "snapshot {}@{} exists", volume, snapshot);
  entry->second = {volume, snapshot, next_id_++, found->info.size_bytes, 0};
  ++found->info.snapshots;
  co_return entry->second;
}

Task<Result<std::vector<SnapshotInfo>>> MemoryVolumeManager::list_snapshots(std::string volume) {
  CO_TRY_ASSIGN(const Volume* found, find(volume));
  std::vector<SnapshotInfo> list;
  list.reserve(found->snapshots.size());
  for (const auto& [name, snapshot] : found->snapshots) list.push_back(snapshot);
  co_return list;
}

Task<Result<void>> MemoryVolumeManager::remove_snapshot(std::string volume, std::string snapshot) {
  CO_TRY_ASSIGN(Volume * found, find(volume));
  if (found->snapshots.erase(snapshot) == 0) {
    co_return fail(ErrorKind::kNotFound, "snapshot {}@{} does not exist", volume, snapshot);
  }
  --found->info.snapshots;
  co_return Result<void>{};
}

Task<Result<std::vector<DiskSummary>>> MemoryVolumeManager::list_disks() {
  std::vector<DiskSummary> list;
  list.reserve(volumes_.size() + images_.size());
  for (const auto& [name, volume] : volumes_) {
    list.push_back({name, "volume", volume.info.size_bytes, false});
  }
  for (const auto& [name, image] : images_) {
    list.push_back({name, "image", image.info.size_bytes, true});
  }
  co_return list;
}

Task<Result<OpenDisk>> MemoryVolumeManager::open_disk(std::string name) {
  if (const auto volume = volumes_.find(name); volume != volumes_.end()) {
    co_return OpenDisk{volume->second.disk, volume->second.disk, volume->second.info.shared,
                       "volume"};
  }
  if (const auto image = images_.find(name); image != images_.end()) {
    co_return OpenDisk{image->second.disk, nullptr, false, "image"};
  }
  for (const auto& [id, image] : imports_) {
    if (session_disk(id) == name) co_return OpenDisk{image.disk, image.disk, false, "import"};
  }
  co_return fail(ErrorKind::kNotFound, "disk {} does not exist", name);
}

Task<void> MemoryVolumeManager::stop() {
  co_return;
}

}  // namespace squall::testing
