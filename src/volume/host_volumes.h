// HostVolumes: the VolumeManager of one host on one pool. Holds every head of the catalog in memory
// (the pool's lock makes this process its only writer), and a Volume object for each volume that is
// open or dirty.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>

#include "engine/log_store.h"
#include "engine/meta_store.h"
#include "engine/segment_store.h"
#include "format/catalog.h"
#include "io/file_system.h"
#include "pool/live_source.h"
#include "volume/import_disk.h"
#include "volume/manager.h"
#include "volume/root_pins.h"
#include "volume/stateless_disk.h"
#include "volume/volume.h"

namespace squall {

struct HostVolumesConfig {
  JournalConfig journal;
  ScratchConfig scratch;
  std::string host_name;
  uint64_t commit_bytes = 32 * kMiB;  // commit a volume when so much of it is dirty
  uint64_t quota_bytes = 256 * kMiB;  // a volume's writers wait beyond
  uint64_t commit_age_ms = 30'000;    // commit what has been dirty so long
  uint64_t idle_close_ms = 10'000;    // give up the lease of a volume nobody has open
  uint64_t stall_ms = 120'000;        // writers wait so long for commits that make no progress
  // Go on without what a damaged journal has lost: the volumes concerned answer EIO until they are
  // rolled back.
  bool accept_journal_loss = false;
  uint64_t reserve_bytes = 64 * kMiB;  // of the pool's stores, never used up by guests' writes
};

class HostVolumes : public VolumeManager, public LiveSource {
 public:
  // Reads the catalog, replays the journal, starts background commits.
  static Task<Result<std::unique_ptr<HostVolumes>>> open(Reactor& reactor, FileSystem& files,
                                                         RecordStore& records, MetaStore& meta,
                                                         SegmentStore& segments, LogStore& logs,
                                                         HostVolumesConfig config);
  ~HostVolumes() override;

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
  Task<Result<void>> commit_volume(std::string name) override;
  Task<Result<VolumeInfo>> takeover_volume(std::string name, bool lose_data) override;

  Task<Result<SnapshotInfo>> create_snapshot(std::string volume, std::string snapshot) override;
  Task<Result<std::vector<SnapshotInfo>>> list_snapshots(std::string volume) override;
  Task<Result<void>> remove_snapshot(std::string volume, std::string snapshot) override;

  Task<Result<std::vector<DiskSummary>>> list_disks() override;
  Task<Result<OpenDisk>> open_disk(std::string name) override;
  Task<void> stop() override;
  void refuse_writes() override { journal_->refuse_admissions(); }

  // LiveSource: host_roots.cc.
  Task<Result<void>> mark_live(Marks& marks, Pacer& pacer, const Progress& progress) override;
  Task<Result<uint64_t>> relocate(Leaves leaves, Pacer& pacer, const Progress& progress) override;
  uint64_t removals() const override { return removals_; }

  const Journal& journal() const { return *journal_; }
  // Volumes, snapshots and images that the catalog has a damaged entry of, a line each.
  std::vector<std::string> damaged() const;

 private:
  // What the host knows of one volume. Lives as long as the volume; `disk` and `stateless` only
  // while somebody has it open or it is dirty.
  struct Entry {
    VolumeHead head;  // stale while `disk` lives: that one publishes
    std::string head_value;
    std::map<std::string, SnapshotHead> snapshots;
    VolumeCounters counters;
    std::shared_ptr<Volume> disk;
    std::shared_ptr<StatelessDisk> stateless;
    uint64_t clients = 0;
    uint64_t idle_since_ns = 0;
    std::unique_ptr<Mutex> verbs;  // one verb at a time
    bool removed = false;
    bool closing = false;  // because it is idle
  };
  using EntryRef = std::shared_ptr<Entry>;
  struct Import {
    ImportRequest request;
    std::shared_ptr<ImportDisk> disk;
    bool finishing = false;
  };
  class ClientHold;

  HostVolumes(Reactor& reactor, FileSystem& files, RecordStore& records, MetaStore& meta,
              SegmentStore& segments, LogStore& logs, HostVolumesConfig config);

  // host_volumes.cc
  Task<Result<void>> load_catalog();
  Task<Result<void>> load_volumes();
  Task<Result<void>> load_images();
  Task<Result<void>> load_generation();
  template <class Head>
  Task<std::optional<Head>> decode_row(MetaEntry row, std::string object,
                                       Result<Head> (*decode)(std::string_view));
  std::unexpected<Error> not_found(const char* kind, const std::string& name) const;
  Result<void> open_scratch();
  Task<Result<void>> open_journal();
  Task<Result<void>> judge_damage(Uuid journal, std::vector<JournalProblem> damage);
  Task<Result<void>> recover_logs();
  Task<void> recover_again(std::shared_ptr<Volume> disk);
  Task<void> background();
  void background_round();
  Task<void> close_idle(std::string name, EntryRef entry);
  void relieve_pressure();
  Task<void> relieve_pressure_task();
  Task<void> commit_all_dirty();
  Task<Result<void>> commit_or_move(std::shared_ptr<Volume> disk);
  Task<Result<uint64_t>> new_ids(uint64_t count);
  Result<void> take_catalog_room(uint64_t entries);
  Result<void> check_new_name(const std::string& name) const;
  Result<void> check_store(const std::string& store) const;
  Result<EntryRef> find(const std::string& name) const;
  template <class Visit>
  Task<void> for_each_volume(Visit visit);
  Result<std::shared_ptr<Volume>> volume_of(const std::string& name, const EntryRef& entry);
  Result<std::shared_ptr<StatelessDisk>> stateless_of(const EntryRef& entry);
  void refresh(Entry& entry) const;
  VolumeInfo describe(const std::string& name, Entry& entry) const;
  static ImageInfo describe_image(const std::string& name, const SnapshotHead& head);

  // host_roots.cc
  struct LiveRoots {
    std::set<std::pair<Address, uint8_t>> roots;  // with their height
    std::vector<std::shared_ptr<ImportDisk>> imports;
  };
  LiveRoots take_roots() const;
  Task<Result<void>> relocate_image(std::string name, IndexRelocation& relocation, AppendMark mark);
  Task<Result<void>> relocate_volume(std::string name, IndexRelocation& relocation,
                                     AppendMark mark);
  Task<Result<void>> relocate_snapshot(std::string name, EntryRef entry, std::string snapshot,
                                       IndexRelocation& relocation, AppendMark mark);
  Task<Result<void>> relocate_stateless(std::string name, EntryRef entry,
                                        IndexRelocation& relocation, AppendMark mark);
  Task<Result<bool>> replace_root(std::string partition, std::string key, SnapshotHead head,
                                  IndexRelocation& relocation, AppendMark mark, IndexRoot& moved);

  // volume_verbs.cc
  struct Origin {
    IndexRoot root;
    uint64_t size_bytes = 0;
    std::string store;
    bool deduplicate = true;
  };
  Result<Origin> resolve_origin(const std::string& from) const;
  Task<Result<void>> create_one(std::string name, VolumeHead head);
  Task<Result<void>> resize_stateless(std::string name, EntryRef entry, uint64_t size_bytes);
  Task<Result<void>> put_image(std::string name, SnapshotHead head);

  Reactor& reactor_;
  RecordStore& records_;
  MetaStore& meta_;
  SegmentStore& segments_;
  LogStore& logs_;
  FileSystem& files_;
  HostVolumesConfig config_;
  Scratch scratch_;
  std::vector<int> scratch_locks_;
  PoolRoom room_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<VolumeContext> context_;

  RootPins pins_;  // first: open disks may outlive the maps
  uint64_t removals_ = 0;
  std::map<std::string, EntryRef> volumes_;
  std::unordered_map<uint64_t, std::string> names_by_id_;
  std::map<std::string, SnapshotHead> images_;
  // What the catalog has a damaged entry of, by name (NAME, VOLUME@SNAPSHOT): what is wrong. The
  // name stays taken until a check repairs the entry.
  std::map<std::string, std::string> damaged_;
  std::map<std::string, uint64_t> reserved_names_;  // being created or imported
  std::map<uint64_t, Import> imports_;
  uint64_t next_id_ = 0;
  uint64_t ids_end_ = 0;
  std::unique_ptr<Mutex> id_mutex_;
  bool relieving_ = false;
  uint64_t closings_ = 0;  // idle volumes being closed
  Timer background_timer_;
  std::coroutine_handle<> background_waiter_;
  Gate gate_;
};

}  // namespace squall
