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
  // Writers wait so long for a quota or a journal that nothing gets out of, then get ENOSPC.
  uint64_t stall_ms = 120'000;
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
  // Start-up, scope `pool`: moves what the log object has beyond the journal into the pool. Until
  // that has succeeded every operation fails.
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
  // Lets writers that wait for the quota see how long they have waited; called now and then.
  void recheck_waiters() { commit_done_.wake_all(); }
  Task<void> close();  // ends intake and waits; the volume may be destroyed afterwards

  const std::string& name() const { return name_; }
  IndexRoot root() const { return root_; }
  const VolumeHead& head() const { return head_; }
  const std::string& head_value() const { return head_value_; }  // as the catalog has it
  uint64_t dirty_bytes() const { return active_.data_bytes() + frozen_.data_bytes(); }
  bool is_dirty() const { return !active_.empty() || !frozen_.empty(); }
  bool holds_lease() const { return lease_held_; }
  uint64_t dirty_since_ns() const { return dirty_since_ns_; }
  bool commit_failing() const { return commit_error_.has_value() || failed_.has_value(); }
  // Acknowledged data is gone: everything is EIO until a rollback.
  bool is_lost() const { return head_.lost || lost_; }
  // recover_log() failed and is to be tried again.
  bool is_unrecovered() const { return unrecovered_; }

 private:
  struct ReadPlan;
  class CommitBuilder;
  class QuotaShare;
  struct LoggedData;

  // JournalSink.
  void landed(const JournalRecord& record, JournalPlace place) override;
  void relocated(const JournalRecord& record, JournalPlace place) override;
  bool lost(const JournalRecord& record) override;
  Task<Result<void>> record_loss() override;

  // volume.cc
  CacheMode cache_mode() const { return static_cast<CacheMode>(head_.cache_mode); }
  Task<Result<void>> acquire_lease();
  void fail_lost(std::string_view how);
  Task<Result<void>> wait_for_quota(uint64_t bytes);
  Task<Result<void>> log(journal_format::RecordType type, uint64_t offset, uint64_t length,
                         ConstBytes payload);
  Task<Result<void>> acknowledge(bool fua);
  Task<Result<void>> make_durable();
  Task<Result<void>> zero_range(uint64_t offset, uint64_t length, bool fua);

  // volume_log.cc: scope `pool`
  bool is_logged() const { return head_.durability == static_cast<uint8_t>(Durability::kPool); }
  Task<Result<void>> write_log_object();
  Task<Result<void>> recover_log_locked();
  Task<Result<LoggedData>> read_log(uint64_t known);
  Task<Result<void>> fold_in(LoggedData data, bool take_over);

  // volume_commit.cc
  Task<void> commit_in_background();
  Task<Result<void>> commit_locked(bool even_if_clean, uint64_t size_bytes, SnapshotHead* snapshot);
  Task<Result<IndexRoot>> build_root(const DirtyMap& map, ConstBytes memory, uint64_t size_bytes);
  Task<Result<void>> reappend(uint64_t begin, DirtyMap::Entry entry);
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
  uint64_t admitted_bytes_ = 0;  // of writes under way, which are not yet in active_
  uint64_t committed_ns_ = 0;    // when a commit last succeeded
  std::optional<Error> failed_;  // every operation fails from now on
  bool lost_ = false;            // and that because data was lost; head_.lost says so durably
  std::optional<Error> commit_error_;
  bool commit_requested_ = false;
  WaitQueue commit_done_;

  bool unrecovered_ = false;   // scope pool: what failed_ says
  bool folding_log_ = false;   // scope pool: commits leave the log object alone
  bool log_is_short_ = false;  // scope pool: the journal's replay brought what the log may not have
  std::string unlogged_;       // scope pool: records not yet in the log object

  SharedMutex intake_;  // writes share it; rollback, resize and removal hold it alone
  Mutex commit_mutex_;
  Mutex head_mutex_;  // read-modify-write of the head
  Mutex log_mutex_;
  Gate gate_;
};

}  // namespace squall
