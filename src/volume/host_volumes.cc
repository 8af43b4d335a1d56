// Start-up, the directory of disks, the end. Verbs: volume_verbs.cc; background work:
// host_background.cc.
#include "volume/host_volumes.h"

#include "base/log.h"
#include "volume/base_reader.h"

namespace squall {

namespace {
constexpr std::string_view kPoolPartition = "pool";
constexpr std::string_view kNextIdKey = "next_id";
constexpr uint64_t kIdBatch = 4096;
constexpr std::string_view kImportPrefix = ":import-";
}  // namespace

HostVolumes::HostVolumes(Reactor& reactor, FileSystem& files, RecordStore& records, MetaStore& meta,
                         SegmentStore& segments, LogStore& logs, HostVolumesConfig config)
    : reactor_(reactor),
      records_(records),
      meta_(meta),
      segments_(segments),
      logs_(logs),
      files_(files),
      config_(std::move(config)),
      scratch_{reactor, files, records, config_.scratch, 0},
      room_(reactor, segments, config_.reserve_bytes),
      id_mutex_(std::make_unique<Mutex>(reactor)) {}

HostVolumes::~HostVolumes() {
  for (const int lock : scratch_locks_) files_.close(lock);
}

Task<Result<std::unique_ptr<HostVolumes>>> HostVolumes::open(Reactor& reactor, FileSystem& files,
                                                             RecordStore& records, MetaStore& meta,
                                                             SegmentStore& segments, LogStore& logs,
                                                             HostVolumesConfig config) {
  std::unique_ptr<HostVolumes> host(
      new HostVolumes(reactor, files, records, meta, segments, logs, std::move(config)));
  CO_TRY(co_await host->load_catalog());
  CO_TRY(host->open_scratch());
  auto opened = co_await host->open_journal();
  if (opened) opened = co_await host->recover_logs();
  if (!opened) {
    co_await host->stop();
    co_return std::unexpected(opened.error());
  }
  spawn(host->background());
  co_return std::move(host);
}

Result<void> HostVolumes::open_scratch() {
  for (const std::string& directory :
       {config_.scratch.fast_directory, config_.scratch.overflow_directory}) {
    if (directory.empty()) continue;
    TRY(files_.make_directory_durably(directory));
    TRY_ASSIGN(const int lock, files_.open(directory + "/LOCK", {.write = true, .create = true}));
    scratch_locks_.push_back(lock);
    if (auto locked = files_.lock(lock, config_.journal.lock_wait_ms); !locked)
      return std::unexpected(locked.error().wrap(fmt::format(
          "scratch: {} is in use by another squalld; stop it or choose another directory",
          directory)));
  }
  std::set<uint64_t> known;
  for (const auto& [name, entry] : volumes_)
    if (entry->head.stateless) known.insert(entry->head.id);
  return take_stock(scratch_, known);
}

// The generation is recorded in the catalog before it is used, so that sequences never go back even
// when the journal's disk is replaced by an empty one.
Task<Result<void>> HostVolumes::open_journal() {
  CO_TRY(co_await load_generation());
  struct Replayed {
    JournalRecord record;
    JournalPlace place;
  };
  // Volumes need the journal and the journal's replay needs volumes: kept apart by this list, whose
  // entries pin their files.
  std::vector<Replayed> replayed;
  config_.journal.stall_ms = config_.stall_ms;
  config_.journal.on_damage = [this](Uuid journal, std::vector<JournalProblem> damage) {
    return judge_damage(journal, std::move(damage));
  };
  CO_TRY_ASSIGN(journal_,
                co_await Journal::open(reactor_, files_, config_.journal,
                                       [&](const JournalRecord& record, JournalPlace place) {
                                         const auto name = names_by_id_.find(record.volume_id);
                                         if (name == names_by_id_.end()) return;
                                         const Entry& entry = *volumes_.at(name->second);
                                         if (record.sequence <= entry.head.journal_position) return;
                                         ++place.file->pins;
                                         replayed.push_back({record, place});
                                       }));
  context_.reset(new VolumeContext{reactor_, records_, meta_, logs_, *journal_,
                                   config_.commit_bytes, config_.quota_bytes, config_.stall_ms,
                                   room_});
  for (const Replayed& r : replayed) {
    const std::string& name = names_by_id_.at(r.record.volume_id);
    const EntryRef& entry = volumes_.at(name);
    if (auto disk = volume_of(name, entry)) (*disk)->replay(r.record, r.place);
    --r.place.file->pins;
  }
  journal_->reclaim();
  journal_->set_pressure_handler([this] { relieve_pressure(); });
  NodeHead node{journal_->id(), journal_->generation(), config_.host_name};
  MetaTransaction transaction;
  transaction.partition = "n/" + journal_->id().to_string();
  transaction.puts.push_back({std::string(kHeadKey), encode(node)});
  co_return co_await meta_.commit(std::move(transaction));
}

// A volume with no unpublished data has lost nothing. For the others nobody can tell what the
// damaged part held, and older data must not pass for newer: they are lost, which their heads say
// before the journal changes anything.
Task<Result<void>> HostVolumes::judge_damage(Uuid journal, std::vector<JournalProblem> damage) {
  std::vector<std::pair<std::string, EntryRef>> concerned;
  for (const auto& [name, entry] : volumes_) {
    const VolumeHead& head = entry->head;
    if (head.dirty && !head.stateless && (journal.is_nil() || head.owner == journal))
      concerned.emplace_back(name, entry);
  }
  if (concerned.empty()) co_return Result<void>{};
  if (!config_.accept_journal_loss) {
    co_return fail(
        ErrorKind::kCorrupt,
        "journal: {} at {}: {}{}; acknowledged writes of {} volumes ({}{}) may be lost: restore "
        "the "
        "journal, or run once: squall serve --accept-journal-loss (they then answer EIO until "
        "rolled back)",
        damage[0].file, damage[0].offset, damage[0].what,
        damage.size() > 1 ? fmt::format(" (and {} more)", damage.size() - 1) : "", concerned.size(),
        concerned[0].first, concerned.size() > 1 ? ", ..." : "");
  }
  for (const auto& [name, entry] : concerned) {
    // A journal that nobody can identify is not this host's any more: volumes that name it as
    // their owner are fenced already, until they are taken over with --lose-data.
    if (journal.is_nil() || entry->head.lost) continue;
    VolumeHead head = entry->head;
    head.lost = true;
    std::string value = encode(head);
    MetaTransaction transaction;
    transaction.partition = volume_partition(name);
    transaction.compares.push_back({std::string(kHeadKey), entry->head_value});
    transaction.puts.push_back({std::string(kHeadKey), value});
    CO_TRY(co_await meta_.commit(std::move(transaction)));
    LOG_ERROR(
        "volume {}: acknowledged writes may be lost with the journal; it answers EIO until it "
        "is rolled back",
        name);
    entry->head = std::move(head);
    entry->head_value = std::move(value);
  }
  co_return Result<void>{};
}

Task<Result<void>> HostVolumes::recover_logs() {
  std::vector<std::pair<std::string, EntryRef>> logged;
  for (const auto& [name, entry] : volumes_)
    if (entry->head.durability == static_cast<uint8_t>(Durability::kPool) && entry->head.dirty &&
        entry->head.owner == journal_->id() && !entry->head.lost)
      logged.emplace_back(name, entry);
  for (const auto& [name, entry] : logged) {
    CO_TRY_ASSIGN(const auto disk, volume_of(name, entry));
    // One volume's trouble is its own; it is tried again in the background.
    (void)co_await disk->recover_log();
  }
  co_return Result<void>{};
}

Task<void> HostVolumes::recover_again(std::shared_ptr<Volume> disk) {
  auto pass = gate_.enter();
  if (pass) (void)co_await disk->recover_log();
}

// ---- the directory of disks ----

// Counts one client of a volume for as long as it lives.
class HostVolumes::ClientHold {
 public:
  ClientHold(Reactor& reactor, EntryRef entry, std::shared_ptr<WritableDisk> disk)
      : reactor_(reactor), entry_(std::move(entry)), disk_(std::move(disk)) {
    ++entry_->clients;
  }
  ClientHold(const ClientHold&) = delete;
  ~ClientHold() {
    --entry_->clients;
    entry_->idle_since_ns = reactor_.now_ns();
  }

 private:
  Reactor& reactor_;
  EntryRef entry_;
  std::shared_ptr<WritableDisk> disk_;
};

Result<HostVolumes::EntryRef> HostVolumes::find(const std::string& name) const {
  const auto it = volumes_.find(name);
  if (it == volumes_.end()) return not_found("volume", name);
  return it->second;
}

Result<std::shared_ptr<Volume>> HostVolumes::volume_of(const std::string& name,
                                                       const EntryRef& entry) {
  if (entry->removed) return fail(ErrorKind::kNotFound, "volume {} was just removed", name);
  if (entry->head.stateless)
    return fail(ErrorKind::kUnsupported,
                "volume {} is stateless: it has no snapshots, commits or rollback", name);
  if (entry->disk == nullptr) {
    entry->disk =
        std::make_shared<Volume>(*context_, name, entry->head, entry->head_value, entry->counters);
    entry->idle_since_ns = reactor_.now_ns();
  }
  return entry->disk;
}

Result<std::shared_ptr<StatelessDisk>> HostVolumes::stateless_of(const EntryRef& entry) {
  if (entry->removed) return fail(ErrorKind::kNotFound, "the volume was just removed");
  if (entry->stateless == nullptr) {
    const VolumeHead& head = entry->head;
    TRY_ASSIGN(
        entry->stateless,
        StatelessDisk::open(scratch_, head.id, {head.root, head.root_height}, head.size_bytes));
  }
  return entry->stateless;
}

Task<Result<OpenDisk>> HostVolumes::open_disk(std::string name) {
  if (!gate_.enter()) co_return fail(ErrorKind::kCancelled, "squalld is stopping");
  if (const size_t at = name.find('@'); at != std::string::npos) {
    CO_TRY_ASSIGN(const Origin origin, resolve_origin(name));
    co_return OpenDisk{
        std::make_shared<SnapshotDisk>(reactor_, records_, pins_, origin.root, origin.size_bytes),
        nullptr, false};
  }
  if (name.starts_with(kImportPrefix)) {
    for (const auto& [id, import] : imports_)
      if (name == fmt::format("{}{}", kImportPrefix, id))
        co_return OpenDisk{import.disk, import.disk, true};
    co_return fail(ErrorKind::kNotFound, "import session {} has ended", name);
  }
  if (const auto image = images_.find(name); image != images_.end()) {
    const SnapshotHead& head = image->second;
    co_return OpenDisk{
        std::make_shared<SnapshotDisk>(reactor_, records_, pins_,
                                       IndexRoot{head.root, head.root_height}, head.size_bytes),
        nullptr, false};
  }
  CO_TRY_ASSIGN(const EntryRef entry, find(name));
  std::shared_ptr<WritableDisk> disk;
  if (entry->head.stateless) {
    CO_TRY_ASSIGN(disk, stateless_of(entry));
  } else {
    CO_TRY_ASSIGN(disk, volume_of(name, entry));
  }
  auto hold = std::make_shared<ClientHold>(reactor_, entry, disk);
  co_return OpenDisk{std::shared_ptr<ReadableDisk>(hold, disk.get()),
                     std::shared_ptr<WritableDisk>(hold, disk.get()), entry->head.shared};
}

Task<Result<std::vector<DiskSummary>>> HostVolumes::list_disks() {
  std::vector<DiskSummary> disks;
  for (const auto& [name, head] : images_) disks.push_back({name, "image", head.size_bytes, true});
  co_await for_each_volume([this, &disks](const std::string& name, Entry& entry) {
    refresh(entry);
    disks.push_back({name, "volume", entry.head.size_bytes, false});
    for (const auto& [snapshot, head] : entry.snapshots)
      disks.push_back({name + "@" + snapshot, "snapshot", head.size_bytes, true});
  });
  co_return disks;
}

// In pieces, so that the data thread serves its clients in between. What appears or goes meanwhile
// may be visited or not.
template <class Visit>
Task<void> HostVolumes::for_each_volume(Visit visit) {
  constexpr size_t kPiece = 128;
  std::string last;
  auto it = volumes_.begin();
  while (it != volumes_.end()) {
    for (size_t i = 0; i < kPiece && it != volumes_.end(); ++i, ++it) {
      visit(it->first, *it->second);
      last = it->first;
    }
    if (it == volumes_.end()) break;
    co_await yield_to(reactor_);
    it = volumes_.upper_bound(last);
  }
}

Task<Result<std::vector<VolumeInfo>>> HostVolumes::list_volumes() {
  std::vector<VolumeInfo> list;
  list.reserve(volumes_.size());
  co_await for_each_volume([this, &list](const std::string& name, Entry& entry) {
    list.push_back(describe(name, entry));
  });
  co_return list;
}

Task<Result<VolumeTotals>> HostVolumes::totals() {
  VolumeTotals totals{.images = images_.size(), .volumes = volumes_.size()};
  co_await for_each_volume([&totals](const std::string&, Entry& entry) {
    totals.open_volumes += entry.clients > 0 ? 1 : 0;
    const bool lost = entry.disk != nullptr ? entry.disk->is_lost() : entry.head.lost;
    totals.lost_volumes += lost ? 1 : 0;
    totals.bytes_read += entry.counters.bytes_read;
    totals.bytes_written += entry.counters.bytes_written;
    if (entry.stateless == nullptr) return;
    totals.dirty_bytes += entry.stateless->scratch_bytes();
    totals.bytes_read += entry.stateless->bytes_read;
    totals.bytes_written += entry.stateless->bytes_written;
  });
  totals.dirty_bytes += room_.dirty_bytes();
  totals.damaged_journal_reads = journal_->stats().damaged_reads;
  co_return totals;
}

// ---- shared by the verbs ----

void HostVolumes::refresh(Entry& entry) const {
  if (entry.disk == nullptr) return;
  entry.head = entry.disk->head();
  entry.head_value = entry.disk->head_value();
}

Task<Result<uint64_t>> HostVolumes::new_ids(uint64_t count) {
  co_await id_mutex_->acquire();
  SemaphoreGuard guard(*id_mutex_);
  if (ids_end_ - next_id_ < count) {
    CO_TRY_ASSIGN(const auto stored,
                  co_await meta_.get(std::string(kPoolPartition), std::string(kNextIdKey)));
    const uint64_t first = stored ? std::strtoull(stored->c_str(), nullptr, 10) : 1;
    if (first == 0)
      co_return fail(ErrorKind::kCorrupt, "catalog: pool/next_id is not a number: '{}'", *stored);
    const uint64_t end = first + std::max(count, kIdBatch);
    MetaTransaction transaction;
    transaction.partition = kPoolPartition;
    transaction.compares.push_back({std::string(kNextIdKey), stored});
    transaction.puts.push_back({std::string(kNextIdKey), std::to_string(end)});
    CO_TRY(co_await meta_.commit(std::move(transaction)));
    next_id_ = first;
    ids_end_ = end;
  }
  const uint64_t id = next_id_;
  next_id_ += count;
  co_return id;
}

// The catalog lies in the pool's first store. What makes it grow leaves the last of the space to
// what makes it shrink.
Result<void> HostVolumes::take_catalog_room(uint64_t entries) {
  constexpr uint64_t kEntryBytes = 1024;
  auto taken = room_.take(room_.store(""), entries * kEntryBytes);
  if (!taken) return std::unexpected(taken.error().wrap("the catalog"));
  return {};
}

Result<void> HostVolumes::check_new_name(const std::string& name) const {
  const bool good = !name.empty() && name.size() <= 64 && name[0] != '.' && name[0] != '-' &&
                    name.find_first_not_of(
                        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                        "0123456789._-") == std::string::npos;
  if (!good)
    return fail(ErrorKind::kInvalid,
                "name '{}' is not 1 to 64 of letters, digits, '.', '_', '-', starting with a "
                "letter, digit or '_'",
                name);
  if (images_.contains(name))
    return fail(ErrorKind::kExists, "an image named {} exists; choose another name", name);
  if (volumes_.contains(name))
    return fail(ErrorKind::kExists, "a volume named {} exists; choose another name", name);
  if (const auto damaged = damaged_.find(name); damaged != damaged_.end())
    return fail(ErrorKind::kExists, "{}; choose another name, or run: squall check --repair",
                damaged->second);
  if (reserved_names_.contains(name))
    return fail(ErrorKind::kExists, "{} is being created right now; choose another name", name);
  return {};
}

Result<void> HostVolumes::check_store(const std::string& store) const {
  if (store.empty()) return {};
  TRY_ASSIGN(const auto stores, segments_.stores());
  for (const StoreInfo& info : stores)
    if (info.name == store) return {};
  return fail(ErrorKind::kNotFound, "store {} does not exist; see: squall status", store);
}

Task<void> HostVolumes::stop() {
  // Whoever waits for the journal's space gets an error now: what they hold open is waited for
  // below.
  if (journal_ != nullptr) journal_->refuse_admissions();
  auto closed = gate_.close();
  reactor_.disarm(background_timer_);
  if (background_waiter_) std::exchange(background_waiter_, {}).resume();
  co_await closed;
  for (auto& [id, import] : imports_) co_await import.disk->close();
  imports_.clear();
  for (auto& [name, entry] : volumes_) {
    if (entry->disk != nullptr) co_await entry->disk->close();
    if (entry->stateless != nullptr) co_await entry->stateless->close();
  }
  if (journal_ != nullptr) co_await journal_->stop();
  volumes_.clear();
}

}  // namespace squall
