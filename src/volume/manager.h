// VolumeManager: images, volumes and snapshots of one host: every verb of the command line that
// concerns them, and the directory of disks for the protocol servers. One reactor's thread; the
// control plane reaches it by posting. Names: 1 to 64 of [A-Za-z0-9._-], not starting with '.' or
// '-'; an image and a volume may not share a name. Sizes are bytes, multiples of 512.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "volume/disk.h"

namespace squall {

enum class CacheMode : uint8_t {
  kWriteback = 0,
  kNone = 1,
  kWritethrough = 2,
  kDirectsync = 3,
  kUnsafe = 4,
};
enum class Durability : uint8_t { kHost = 0, kPool = 1 };
Result<CacheMode> parse_cache_mode(std::string_view text);
std::string_view to_string(CacheMode mode);
Result<Durability> parse_durability(std::string_view text);
std::string_view to_string(Durability durability);

struct ImageInfo {
  std::string name;
  uint64_t id = 0;
  uint64_t size_bytes = 0;
  int64_t created_s = 0;
  std::string source;  // what it was made from, for people
  std::string store;
  bool deduplicate = true;
};

struct SnapshotInfo {
  std::string volume;
  std::string name;
  uint64_t id = 0;
  uint64_t size_bytes = 0;
  int64_t created_s = 0;
};

struct VolumeInfo {
  std::string name;
  uint64_t id = 0;
  uint64_t size_bytes = 0;
  int64_t created_s = 0;
  std::string parent;  // IMAGE or VOLUME@SNAPSHOT it was cloned from; empty for none
  CacheMode cache = CacheMode::kWriteback;
  Durability durability = Durability::kHost;
  bool stateless = false;
  bool shared = false;
  std::string store;
  bool deduplicate = true;
  uint64_t epoch = 0;
  uint64_t snapshots = 0;
  bool open = false;
  uint64_t dirty_bytes = 0;  // in the journal, not yet in the pool
  bool lost = false;         // acknowledged data is gone: EIO until it is rolled back
  uint64_t bytes_read = 0;   // by clients since the daemon started
  uint64_t bytes_written = 0;
};

// Of the whole host; bytes as in VolumeInfo.
struct VolumeTotals {
  uint64_t images = 0;
  uint64_t volumes = 0;
  uint64_t open_volumes = 0;
  uint64_t lost_volumes = 0;           // acknowledged data of theirs is gone
  uint64_t damaged_journal_reads = 0;  // since the daemon started
  uint64_t dirty_bytes = 0;
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
};

struct CreateVolume {
  std::string name;  // with count > 1: NAME-1 ... NAME-count
  uint64_t count = 1;
  std::string from;         // IMAGE or VOLUME@SNAPSHOT; empty: an empty volume of `size_bytes`
  uint64_t size_bytes = 0;  // with `from`: 0 = the parent's, else at least the parent's
  CacheMode cache = CacheMode::kWriteback;
  Durability durability = Durability::kHost;
  bool stateless = false;
  bool shared = false;
  std::string store;
  bool deduplicate = true;  // false: not, even if the parent does
};

struct ImportRequest {
  std::string name;
  uint64_t size_bytes = 0;
  std::string source;  // for people
  std::string store;
  bool deduplicate = true;  // it and the clones of it
};

struct ImportSession {
  uint64_t id = 0;
  std::string disk;  // export name to write the image's bytes to, in any order, each block once
};

class VolumeManager : public DiskDirectory {
 public:
  // Images. An import writes through a session's disk straight into the pool; the image appears at
  // finish. A session that is neither finished nor aborted ends with the daemon.
  virtual Task<Result<ImportSession>> begin_import(ImportRequest request) = 0;
  virtual Task<Result<ImageInfo>> finish_import(uint64_t session) = 0;
  virtual Task<Result<void>> abort_import(uint64_t session) = 0;
  virtual Task<Result<ImageInfo>> create_image(std::string name, std::string from) = 0;
  virtual Task<Result<std::vector<ImageInfo>>> list_images() = 0;
  virtual Task<Result<ImageInfo>> show_image(std::string name) = 0;
  virtual Task<Result<void>> remove_image(std::string name) = 0;

  // Volumes. create makes all or none.
  virtual Task<Result<std::vector<VolumeInfo>>> create_volumes(CreateVolume request) = 0;
  virtual Task<Result<std::vector<VolumeInfo>>> list_volumes() = 0;
  virtual Task<Result<VolumeTotals>> totals() = 0;
  virtual Task<Result<VolumeInfo>> show_volume(std::string name) = 0;
  // Refused (kBusy) while a client has it open for writing, unless `force`.
  virtual Task<Result<void>> remove_volume(std::string name, bool force) = 0;
  virtual Task<Result<VolumeInfo>> resize_volume(std::string name, uint64_t size_bytes) = 0;
  virtual Task<Result<VolumeInfo>> rollback_volume(std::string name, std::string snapshot) = 0;
  // Takes over a volume whose node is gone: what that node's journal alone held is lost, which
  // `lose_data` must confirm unless the volume's durability is `pool`.
  virtual Task<Result<VolumeInfo>> takeover_volume(std::string name, bool lose_data) = 0;
  // Moves what is dirty into the pool.
  virtual Task<Result<void>> commit_volume(std::string name) = 0;

  virtual Task<Result<SnapshotInfo>> create_snapshot(std::string volume, std::string snapshot) = 0;
  virtual Task<Result<std::vector<SnapshotInfo>>> list_snapshots(std::string volume) = 0;
  virtual Task<Result<void>> remove_snapshot(std::string volume, std::string snapshot) = 0;

  // Writers that wait for space get an error from now on, so that protocol servers can stop.
  virtual void refuse_writes() = 0;
  // Ends background work and closes every disk; acknowledged writes stay in the journal.
  virtual Task<void> stop() = 0;
};

}  // namespace squall
