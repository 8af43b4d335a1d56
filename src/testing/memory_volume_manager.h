// MemoryVolumeManager: a VolumeManager whose disks are MemoryDisks: for tests of the control plane.
// Snapshots and clones keep sizes and lineage, not content. One reactor's thread.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "testing/disk/memory_disk.h"
#include "volume/manager.h"

namespace squall::testing {

class MemoryVolumeManager final : public VolumeManager {
 public:
  explicit MemoryVolumeManager(Reactor& reactor) : reactor_(reactor) {}

  // Import sessions neither finished nor aborted.
  size_t open_imports() const { return imports_.size(); }

  Task<Result<ImportSession>> begin_import(ImportRequest request) override;
  Task<Result<ImageInfo>> finish_import(uint64_t session) override;
  Task<Result<void>> abort_import(uint64_t session) override;
  Task<Result<ImageInfo>> create_image(std::string name, std::string from) override;
  Task<Result<std::vector<ImageInfo>>> list_images() override;
  Task<Result<ImageInfo>> show_image(std::string name) override;
  Task<Result<void>> remove_image(std::string name) override;

  Task<Result<std::vector<VolumeInfo>>> create_volumes(CreateVolume request) override;
  Task<Result<std::vector<VolumeInfo>>> list_volumes() override;
  Task<Result<VolumeTotals>> totals() override;
  Task<Result<VolumeInfo>> show_volume(std::string name) override;
  Task<Result<void>> remove_volume(std::string name, bool force) override;
  Task<Result<VolumeInfo>> resize_volume(std::string name, uint64_t size_bytes) override;
  Task<Result<VolumeInfo>> rollback_volume(std::string name, std::string snapshot) override;
  Task<Result<VolumeInfo>> takeover_volume(std::string name, bool lose_data) override;
  Task<Result<void>> commit_volume(std::string name) override;

  Task<Result<SnapshotInfo>> create_snapshot(std::string volume, std::string snapshot) override;
  Task<Result<std::vector<SnapshotInfo>>> list_snapshots(std::string volume) override;
  Task<Result<void>> remove_snapshot(std::string volume, std::string snapshot) override;

  Task<Result<std::vector<DiskSummary>>> list_disks() override;
  Task<Result<OpenDisk>> open_disk(std::string name) override;
  void refuse_writes() override {}
  Task<void> stop() override;

 private:
  struct Image {
    ImageInfo info;
    std::shared_ptr<MemoryDisk> disk;
  };
  struct Volume {
    VolumeInfo info;
    std::shared_ptr<MemoryDisk> disk;
    std::map<std::string, SnapshotInfo> snapshots;
  };

  Result<uint64_t> size_of(const std::string& from) const;
  Result<Volume*> find(const std::string& name);

  Reactor& reactor_;
  std::map<std::string, Image> images_;
  std::map<std::string, Volume> volumes_;
  std::map<uint64_t, Image> imports_;
  uint64_t next_id_ = 1;
};

}  // namespace squall::testing
