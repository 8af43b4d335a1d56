// Volume: a writable disk: dirty map over frozen dirty map over block index (design decisions 4-6).
//
// Writes go to the journal and into the dirty map; a commit moves the map's content into the pool
// and publishes a new root. Every change of the head (lease, commit, snapshot, resize, rollback) is
// one catalog transaction that compares the head as last known, hence also the epoch.
// Owned by the VolumeManager; one reactor's thread; the gate lets operations finish before it dies.
#pragma once

#include <optional>
#include <string>

#include "engine/log_store.h"
#include "engine/meta_store.h"
#include "format/catalog.h"
#include "index/block_index.h"
#include "index/index_relocate.h"
#include "io/gate.h"
#include "io/sync.h"
#include "journal/dirty_map.h"
#include "journal/journal.h"
#include "volume/manager.h"
#include "volume/pool_room.h"

namespace squall {

// What every volume of a host stands on. All outlive the volumes.
struct VolumeContext {
  Reactor& reactor;
  RecordStore& records;
  MetaStore& meta;
  LogStore& logs;
  Journal& journal;
  // Commit when so much is dirty, and make writers wait when so much more is.
  uint64_t commit_bytes = 32 * kMiB;
  uint64_t quota_bytes = 256 * kMiB;
  PoolRoom& room;
};

struct VolumeCounters {
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
};

std::string volume_partition(std::string_view name);  // "v/NAME"
constexpr std::string_view kHeadKey = "head";
std::string snapshot_key(std::string_view snapshot);  // "snap/SNAPSHOT"

class Volume : public WritableDisk, private JournalSink {
 public:
  // `head_value` is the head as the catalog has it.
  Volume(VolumeContext& context, std::string name, VolumeHead head, std::string head_value,
         VolumeCounters& counters);
  ~Volume() override;

  // WritableDisk.
  uint64_t size_bytes() const override { return head_.size_bytes; }
  bool has_write_cache() const override;
  Task<Result<void>> read(uint64_t offset, Bytes to) override;
  Task<Result<void>> read_sparse(uint64_t offset, Bytes to,
                                 std::vector<DiskExtent>& extents) override;
  Task<Result<void>> status(uint64_t offset, uint64_t length, size_t max_extents,
                            std::vector<DiskExtent>& extents) override;
  Task<Result<void>> prefetch(uint64_t offset, uint64_t length) override;
  Task<Result<void>> write(uint64_t offset, ConstBytes from, bool fua) override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, bool fua) override;
  Task<Result<void>> trim(uint64_t offset, uint64_t length, bool fua) override;
  Task<Result<void>> flush() override;

  // Start-up: a record that replay found. Ignores those the head already contains.
  void replay(const JournalRecord& record, JournalPlace place);
  // Start-up, scope `pool`: appends what the log object has beyond the journal.
  Task<Result<void>> recover_log();
  // kFenced where another node's journal may hold what the pool does not: neither may anything be
  // written, nor is the root what the guest last saw.
  Result<void> check_ours() const;
  // Becomes the owner of a volume whose node is gone.
  Task<Result<void>> takeover();
  // Publishes a root that reads the same as the present one. Nothing to do for a volume of another
  // node's or one that is being removed.
  Task<Result<void>> relocate(IndexRelocation& relocation, AppendMark mark);

  // Everything acknowledged so far is in the pool when it returns.
  Task<Result<void>> commit();
  // The same, and records the root under `snapshot` in the same transaction.
  Task<Result<SnapshotHead>> snapshot(std::string snapshot, uint64_t id);
  Task<Result<void>> remove_snapshot(std::string snapshot);
  Task<Result<void>> resize(uint64_t size_bytes);
  Task<Result<void>> rollback(SnapshotHead snapshot);
  // Deletes head and snapshots from the catalog; every later operation fails.
  Task<Result<void>> remove(std::vector<std::string> snapshots);
  // Commits and gives the lease back; the volume can be dropped when nothing came in meanwhile.
  Task<Result<void>> release();
  // Moves what keeps the journal's oldest file alive to its end; for a volume that cannot commit.
  Task<Result<void>> reappend_stragglers();

  // Starts a commit in the background unless one runs.
  void request_commit();
  Task<void> close();  // ends intake and waits; the volume may be destroyed afterwards

  const std::string& name() const { return name_; }
  IndexRoot root() const { return root_; }
  const VolumeHead& head() const { return head_; }
  const std::string& head_value() const { return head_value_; }  // as the catalog has it
  uint64_t dirty_bytes() const { return active_.data_bytes() + frozen_.data_bytes(); }
  bool is_dirty() const { return !active_.empty() || !frozen_.empty(); }
  bool holds_lease() const { return lease_held_; }
  uint64_t dirty_since_ns() const { return dirty_since_ns_; }
  bool commit_failing() const { return commit_error_.has_value(); }

 private:
  struct ReadPlan;
  class CommitBuilder;

  // JournalSink.
  void landed(const JournalRecord& record, JournalPlace place) override;
  void relocated(const JournalRecord& record, JournalPlace place) override;
  void lost(const JournalRecord& record) override;

  // volume.cc
  CacheMode cache_mode() const { return static_cast<CacheMode>(head_.cache_mode); }
  Task<Result<void>> append_logged(uint64_t known);
  Task<Result<void>> acquire_lease();
  Task<Result<void>> admit(uint64_t bytes);
  Task<Result<void>> log(journal_format::RecordType type, uint64_t offset, uint64_t length,
                         ConstBytes payload);
  Task<Result<void>> acknowledge(bool fua);
  Task<Result<void>> make_durable();
  Task<Result<void>> write_log_object();
  Task<Result<void>> zero_range(uint64_t offset, uint64_t length, bool fua);

  // volume_commit.cc
  Task<void> commit_in_background();
  Task<Result<void>> commit_locked(bool even_if_clean, uint64_t size_bytes, SnapshotHead* snapshot);
  Task<Result<IndexRoot>> build_root(uint64_t size_bytes);
  Task<Result<void>> publish(VolumeHead head, std::vector<MetaTransaction::Put> extra);

  VolumeContext& context_;
  std::string name_;
  VolumeHead head_;
  std::string head_value_;
  PoolRoom::Store& room_;  // where its dirty bytes are counted
  VolumeCounters& counters_;
  IndexRoot root_;
  bool lease_held_ = false;

  DirtyMap active_;
  DirtyMap frozen_;
  uint64_t last_landed_ = 0;     // highest sequence of this volume in the journal
  uint64_t dirty_since_ns_ = 0;  // when active_ was last empty
  std::optional<Error> failed_;  // data of this volume was lost: EIO from now on
  std::optional<Error> commit_error_;
  bool commit_requested_ = false;
  WaitQueue commit_done_;

  bool log_is_short_ = false;  // scope pool: the journal's replay brought what the log may not have
  std::string unlogged_;       // scope pool: records not yet in the log object

  SharedMutex intake_;  // writes share it; rollback, resize and removal hold it alone
  Mutex commit_mutex_;
  Mutex head_mutex_;  // read-modify-write of the head
  Mutex log_mutex_;
  Gate gate_;
};

}  // namespace squall
