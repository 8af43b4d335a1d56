// The verbs of images, volumes and snapshots.
#include "base/log.h"
#include "volume/host_volumes.h"

namespace squall {

namespace {
std::string image_partition(const std::string& name) {
  return "i/" + name;
}

Result<void> check_size(uint64_t size_bytes) {
  // A block index of height 4 reaches this far; far beyond any disk.
  constexpr uint64_t kMaxVolumeBytes = uint64_t{1} << 50;
  if (size_bytes == 0 || size_bytes % kSectorBytes != 0 || size_bytes > kMaxVolumeBytes)
    return fail(ErrorKind::kInvalid, "size {} is not a multiple of 512 bytes between 512 and 1 PiB",
                size_bytes);
  return {};
}

// Keeps names that are being created from being taken twice.
class NameHold {
 public:
  NameHold(std::map<std::string, uint64_t>& reserved, std::string name)
      : reserved_(reserved), name_(std::move(name)) {
    ++reserved_[name_];
  }
  NameHold(const NameHold&) = delete;
  ~NameHold() { reserved_.erase(name_); }

 private:
  std::map<std::string, uint64_t>& reserved_;
  std::string name_;
};
}  // namespace

// IMAGE or VOLUME@SNAPSHOT.
Result<HostVolumes::Origin> HostVolumes::resolve_origin(const std::string& from) const {
  const SnapshotHead* head = nullptr;
  if (const size_t at = from.find('@'); at != std::string::npos) {
    TRY_ASSIGN(const EntryRef entry, find(from.substr(0, at)));
    const auto it = entry->snapshots.find(from.substr(at + 1));
    if (it == entry->snapshots.end()) return not_found("snapshot", from);
    head = &it->second;
  } else {
    const auto it = images_.find(from);
    if (it == images_.end()) {
      if (volumes_.contains(from))
        return fail(ErrorKind::kInvalid,
                    "{} is a volume: clone one of its snapshots, {}@SNAPSHOT, instead", from, from);
      return not_found("image", from);
    }
    head = &it->second;
  }
  return Origin{{head->root, head->root_height}, head->size_bytes, head->store, head->deduplicate};
}

// ---- images ----

ImageInfo HostVolumes::describe_image(const std::string& name, const SnapshotHead& head) {
  return {name,        head.id,    head.size_bytes, head.created_s,
          head.source, head.store, head.deduplicate};
}

Task<Result<ImportSession>> HostVolumes::begin_import(ImportRequest request) {
  CO_TRY(check_new_name(request.name));
  CO_TRY(check_size(request.size_bytes));
  CO_TRY(check_store(request.store));
  constexpr size_t kImportsMax = 256;  // bounds their memory
  if (imports_.size() >= kImportsMax)
    co_return fail(ErrorKind::kBusy, "{} imports are under way; wait for one to end", kImportsMax);
  CO_TRY(take_catalog_room(1));
  ++reserved_names_[request.name];
  auto id = co_await new_ids(1);
  if (!id) {
    reserved_names_.erase(request.name);
    co_return std::unexpected(id.error());
  }
  PoolRoom::Store& room = room_.store(request.store);
  auto disk = std::make_shared<ImportDisk>(
      records_, request.size_bytes, Placement{request.store}, request.deduplicate,
      [this, &room](uint64_t bytes) { return room_.take(room, bytes); });
  imports_.emplace(*id, Import{std::move(request), std::move(disk)});
  co_return ImportSession{*id, fmt::format(":import-{}", *id)};
}

Task<Result<ImageInfo>> HostVolumes::finish_import(uint64_t session) {
  auto pass = gate_.enter();
  const auto it = imports_.find(session);
  if (!pass || it == imports_.end() || it->second.finishing)
    co_return fail(ErrorKind::kNotFound, "import session {} does not exist", session);
  it->second.finishing = true;
  const std::string name = it->second.request.name;
  SnapshotHead head;
  head.id = session;
  head.size_bytes = it->second.disk->size_bytes();
  head.created_s = reactor_.wall_clock_s();
  head.source = it->second.request.source;
  head.store = it->second.request.store;
  head.deduplicate = it->second.request.deduplicate;
  const std::shared_ptr<ImportDisk> disk = it->second.disk;
  const Epochs::Pass operation = records_.begin();
  auto root = co_await disk->finish();
  Result<void> done;
  if (root) {
    head.root = root->address;
    head.root_height = root->height;
    done = co_await put_image(name, head);
  } else {
    done = std::unexpected(root.error().wrap(fmt::format("import of image {}", name)));
  }
  imports_.erase(session);  // not sooner: until the image is there, this is what keeps its chunks
  reserved_names_.erase(name);
  if (!done) {
    ++removals_;
    co_return std::unexpected(done.error());
  }
  co_return describe_image(name, head);
}

Task<Result<void>> HostVolumes::abort_import(uint64_t session) {
  const auto it = imports_.find(session);
  if (it == imports_.end() || it->second.finishing)
    co_return fail(ErrorKind::kNotFound, "import session {} does not exist", session);
  it->second.finishing = true;
  const Import import = it->second;
  co_await import.disk->close();  // its reads need its chunks until then
  imports_.erase(session);
  reserved_names_.erase(import.request.name);
  ++removals_;
  co_return Result<void>{};
}

Task<Result<void>> HostVolumes::put_image(std::string name, SnapshotHead head) {
  MetaTransaction transaction;
  transaction.partition = image_partition(name);
  transaction.compares.push_back({std::string(kHeadKey), std::nullopt});
  transaction.puts.push_back({std::string(kHeadKey), encode(head)});
  auto done = co_await meta_.commit(std::move(transaction));
  if (!done) co_return std::unexpected(done.error().wrap(fmt::format("image {}", name)));
  images_.emplace(name, std::move(head));
  co_return Result<void>{};
}

Task<Result<ImageInfo>> HostVolumes::create_image(std::string name, std::string from) {
  auto pass = gate_.enter();
  CO_TRY(check_new_name(name));
  CO_TRY(take_catalog_room(1));
  const NameHold hold(reserved_names_, name);
  CO_TRY_ASSIGN(const uint64_t id, co_await new_ids(1));
  SnapshotHead head;
  if (from.find('@') == std::string::npos) {
    CO_TRY_ASSIGN(const EntryRef entry, find(from));
    co_await entry->verbs->acquire();
    SemaphoreGuard guard(*entry->verbs);
    CO_TRY_ASSIGN(const auto disk, volume_of(from, entry));
    CO_TRY(disk->check_ours());
    CO_TRY(co_await disk->commit());
    refresh(*entry);
    head.root = entry->head.root;
    head.root_height = entry->head.root_height;
    head.size_bytes = entry->head.size_bytes;
    head.store = entry->head.store;
    head.deduplicate = entry->head.deduplicate;
  } else {
    CO_TRY_ASSIGN(const Origin origin, resolve_origin(from));
    head.root = origin.root.address;
    head.root_height = origin.root.height;
    head.size_bytes = origin.size_bytes;
    head.store = origin.store;
    head.deduplicate = origin.deduplicate;
  }
  // What it was made from may go away, or on, before the image is there.
  const RootPin pin(pins_, {head.root, head.root_height});
  head.id = id;
  head.created_s = reactor_.wall_clock_s();
  head.source = from;
  CO_TRY(co_await put_image(name, head));
  co_return describe_image(name, head);
}

Task<Result<std::vector<ImageInfo>>> HostVolumes::list_images() {
  std::vector<ImageInfo> list;
  for (const auto& [name, head] : images_) list.push_back(describe_image(name, head));
  co_return list;
}

Task<Result<ImageInfo>> HostVolumes::show_image(std::string name) {
  const auto it = images_.find(name);
  if (it == images_.end()) co_return not_found("image", name);
  co_return describe_image(name, it->second);
}

Task<Result<void>> HostVolumes::remove_image(std::string name) {
  auto pass = gate_.enter();
  if (!images_.contains(name)) co_return not_found("image", name);
  MetaTransaction transaction;
  transaction.partition = image_partition(name);
  transaction.puts.push_back({std::string(kHeadKey), std::nullopt});
  CO_TRY(co_await meta_.commit(std::move(transaction)));
  images_.erase(name);
  ++removals_;
  co_return Result<void>{};
}

// ---- volumes ----

VolumeInfo HostVolumes::describe(const std::string& name, Entry& entry) const {
  refresh(entry);
  const VolumeHead& h = entry.head;
  VolumeInfo info;
  info.name = name;
  info.id = h.id;
  info.size_bytes = h.size_bytes;
  info.created_s = h.created_s;
  info.parent = h.parent;
  info.cache = static_cast<CacheMode>(h.cache_mode);
  info.durability = static_cast<Durability>(h.durability);
  info.stateless = h.stateless;
  info.shared = h.shared;
  info.store = h.store;
  info.deduplicate = h.deduplicate;
  info.epoch = h.epoch;
  info.snapshots = entry.snapshots.size();
  info.open = entry.clients > 0;
  info.bytes_read = entry.counters.bytes_read;
  info.bytes_written = entry.counters.bytes_written;
  if (entry.disk != nullptr) info.dirty_bytes = entry.disk->dirty_bytes();
  info.lost = entry.disk != nullptr ? entry.disk->is_lost() : entry.head.lost;
  if (entry.stateless != nullptr) {
    info.dirty_bytes = entry.stateless->scratch_bytes();
    info.bytes_read += entry.stateless->bytes_read;
    info.bytes_written += entry.stateless->bytes_written;
  }
  return info;
}

Task<Result<void>> HostVolumes::create_one(std::string name, VolumeHead head) {
  std::string value = encode(head);
  MetaTransaction transaction;
  transaction.partition = volume_partition(name);
  transaction.compares.push_back({std::string(kHeadKey), std::nullopt});
  transaction.puts.push_back({std::string(kHeadKey), value});
  auto done = co_await meta_.commit(std::move(transaction));
  if (!done) co_return std::unexpected(done.error().wrap(fmt::format("volume {}", name)));
  auto entry = std::make_shared<Entry>();
  entry->head = std::move(head);
  entry->head_value = std::move(value);
  entry->verbs = std::make_unique<Mutex>(reactor_);
  names_by_id_[entry->head.id] = name;
  volumes_.emplace(std::move(name), std::move(entry));
  co_return Result<void>{};
}

Task<Result<std::vector<VolumeInfo>>> HostVolumes::create_volumes(CreateVolume request) {
  auto pass = gate_.enter();
  constexpr uint64_t kMaxCount = 100'000;
  if (request.count == 0 || request.count > kMaxCount)
    co_return fail(ErrorKind::kInvalid, "count {} is not between 1 and {}", request.count,
                   kMaxCount);
  CO_TRY(check_store(request.store));
  VolumeHead head;
  head.size_bytes = request.size_bytes;
  head.store = request.store;
  head.deduplicate = request.deduplicate;
  if (!request.from.empty()) {
    CO_TRY_ASSIGN(const Origin origin, resolve_origin(request.from));
    head.root = origin.root.address;
    head.root_height = origin.root.height;
    if (request.size_bytes == 0) head.size_bytes = origin.size_bytes;
    if (head.size_bytes < origin.size_bytes)
      co_return fail(ErrorKind::kInvalid, "size {} is smaller than the {} bytes of {}",
                     head.size_bytes, origin.size_bytes, request.from);
    if (head.store.empty()) head.store = origin.store;
    head.deduplicate = head.deduplicate && origin.deduplicate;
  }
  CO_TRY(check_size(head.size_bytes));
  const RootPin pin(pins_, {head.root, head.root_height});  // its origin may be removed meanwhile
  head.created_s = reactor_.wall_clock_s();
  head.parent = request.from;
  head.cache_mode = static_cast<uint8_t>(request.cache);
  head.durability = static_cast<uint8_t>(request.durability);
  head.stateless = request.stateless;
  head.shared = request.shared;

  std::vector<std::string> names;
  for (uint64_t i = 1; i <= request.count; ++i)
    names.push_back(request.count == 1 ? request.name : fmt::format("{}-{}", request.name, i));
  for (const std::string& name : names) CO_TRY(check_new_name(name));
  CO_TRY(take_catalog_room(names.size()));
  std::vector<std::unique_ptr<NameHold>> holds;
  for (const std::string& name : names)
    holds.push_back(std::make_unique<NameHold>(reserved_names_, name));
  CO_TRY_ASSIGN(const uint64_t first_id, co_await new_ids(request.count));
  // Issued together: the catalog makes them durable with one sync.
  std::vector<Task<Result<void>>> creations;
  for (size_t i = 0; i < names.size(); ++i) {
    head.id = first_id + i;
    creations.push_back(create_one(names[i], head));
  }
  auto created = co_await join_all(reactor_, std::move(creations));
  if (!created) {
    for (const std::string& name : names)
      if (volumes_.contains(name))
        if (auto removed = co_await remove_volume(name, true); !removed)
          LOG_WARN("{}", removed.error().message());
    co_return std::unexpected(created.error());
  }
  std::vector<VolumeInfo> infos;
  for (const std::string& name : names) infos.push_back(describe(name, *volumes_.at(name)));
  co_return infos;
}

Task<Result<VolumeInfo>> HostVolumes::show_volume(std::string name) {
  CO_TRY_ASSIGN(const EntryRef entry, find(name));
  co_return describe(name, *entry);
}

Task<Result<void>> HostVolumes::remove_volume(std::string name, bool force) {
  auto pass = gate_.enter();
  CO_TRY_ASSIGN(const EntryRef entry, find(name));
  co_await entry->verbs->acquire();
  SemaphoreGuard guard(*entry->verbs);
  if (entry->removed) co_return fail(ErrorKind::kNotFound, "volume {} does not exist", name);
  if (entry->clients > 0 && !force)
    co_return fail(ErrorKind::kBusy, "volume {} is in use; stop its VM first, or use --force",
                   name);
  std::vector<std::string> snapshots;
  for (const auto& [snapshot, head] : entry->snapshots) snapshots.push_back(snapshot);
  const std::string prefix = name + "@";
  for (const auto& [damaged, line] : damaged_)
    if (damaged.starts_with(prefix)) snapshots.push_back(damaged.substr(prefix.size()));
  if (entry->head.stateless) {
    MetaTransaction transaction;
    transaction.partition = volume_partition(name);
    transaction.compares.push_back({std::string(kHeadKey), entry->head_value});
    transaction.puts.push_back({std::string(kHeadKey), std::nullopt});
    CO_TRY(co_await meta_.commit(std::move(transaction)));
    if (auto disk = std::exchange(entry->stateless, nullptr)) co_await disk->close();
    StatelessDisk::forget(scratch_, entry->head.id);
  } else {
    CO_TRY_ASSIGN(const auto disk, volume_of(name, entry));
    CO_TRY(co_await disk->remove(std::move(snapshots)));
    entry->disk = nullptr;
    co_await disk->close();
  }
  entry->removed = true;
  ++removals_;
  names_by_id_.erase(entry->head.id);
  std::erase_if(damaged_, [&](const auto& item) { return item.first.starts_with(prefix); });
  volumes_.erase(name);
  co_return Result<void>{};
}

Task<Result<VolumeInfo>> HostVolumes::resize_volume(std::string name, uint64_t size_bytes) {
  auto pass = gate_.enter();
  CO_TRY_ASSIGN(const EntryRef entry, find(name));
  CO_TRY(check_size(size_bytes));
  co_await entry->verbs->acquire();
  SemaphoreGuard guard(*entry->verbs);
  refresh(*entry);
  if (size_bytes < entry->head.size_bytes && entry->clients > 0)
    co_return fail(ErrorKind::kBusy, "volume {} is in use; stop its VM before shrinking it", name);
  if (!entry->head.stateless) {
    CO_TRY_ASSIGN(const auto disk, volume_of(name, entry));
    CO_TRY(co_await disk->resize(size_bytes));
    co_return describe(name, *entry);
  }
  CO_TRY(co_await resize_stateless(name, entry, size_bytes));
  co_return describe(name, *entry);
}

// Whatever the moment of a crash, the scratch files hold what the catalog's size promises: they
// grow before the catalog says so, and lose what a shrink cuts off after it.
Task<Result<void>> HostVolumes::resize_stateless(std::string name, EntryRef entry,
                                                 uint64_t size_bytes) {
  CO_TRY_ASSIGN(const auto disk, stateless_of(entry));
  VolumeHead head = entry->head;
  const bool shrinks = size_bytes < head.size_bytes;
  head.size_bytes = size_bytes;
  std::string value = encode(head);
  MetaTransaction transaction;
  transaction.partition = volume_partition(name);
  transaction.compares.push_back({std::string(kHeadKey), entry->head_value});
  transaction.puts.push_back({std::string(kHeadKey), value});
  if (!shrinks) CO_TRY(co_await disk->resize(size_bytes));
  CO_TRY(co_await meta_.commit(std::move(transaction)));
  entry->head = std::move(head);
  entry->head_value = std::move(value);
  if (shrinks) co_return co_await disk->resize(size_bytes);
  co_return Result<void>{};
}

Task<Result<VolumeInfo>> HostVolumes::rollback_volume(std::string name, std::string snapshot) {
  auto pass = gate_.enter();
  CO_TRY_ASSIGN(const EntryRef entry, find(name));
  co_await entry->verbs->acquire();
  SemaphoreGuard guard(*entry->verbs);
  const auto it = entry->snapshots.find(snapshot);
  if (it == entry->snapshots.end()) co_return not_found("snapshot", name + "@" + snapshot);
  if (entry->clients > 0)
    co_return fail(ErrorKind::kBusy, "volume {} is in use; stop its VM before rolling it back",
                   name);
  CO_TRY_ASSIGN(const auto disk, volume_of(name, entry));
  CO_TRY(co_await disk->rollback(it->second));
  co_return describe(name, *entry);
}

Task<Result<void>> HostVolumes::commit_volume(std::string name) {
  auto pass = gate_.enter();
  CO_TRY_ASSIGN(const EntryRef entry, find(name));
  CO_TRY_ASSIGN(const auto disk, volume_of(name, entry));
  co_return co_await disk->commit();
}

Task<Result<VolumeInfo>> HostVolumes::takeover_volume(std::string name, bool lose_data) {
  auto pass = gate_.enter();
  CO_TRY_ASSIGN(const EntryRef entry, find(name));
  co_await entry->verbs->acquire();
  SemaphoreGuard guard(*entry->verbs);
  refresh(*entry);
  if (!entry->head.dirty || entry->head.owner == journal_->id())
    co_return fail(ErrorKind::kInvalid, "volume {} is not held by another node", name);
  if (entry->head.durability != static_cast<uint8_t>(Durability::kPool) && !lose_data)
    co_return fail(ErrorKind::kBusy,
                   "volume {}: what node {} had not yet committed would be lost; make sure that "
                   "node is gone, then add --lose-data",
                   name, entry->head.owner.to_string());
  CO_TRY_ASSIGN(const auto disk, volume_of(name, entry));
  CO_TRY(co_await disk->takeover());
  CO_TRY(co_await disk->commit());
  co_return describe(name, *entry);
}

// ---- snapshots ----

Task<Result<SnapshotInfo>> HostVolumes::create_snapshot(std::string volume, std::string snapshot) {
  auto pass = gate_.enter();
  CO_TRY_ASSIGN(const EntryRef entry, find(volume));
  const bool good =
      !snapshot.empty() && snapshot.size() <= 64 &&
      snapshot.find_first_not_of(
          "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == std::string::npos;
  if (!good)
    co_return fail(ErrorKind::kInvalid,
                   "snapshot name '{}' is not 1 to 64 of letters, digits, '.', '_', '-'", snapshot);
  co_await entry->verbs->acquire();
  SemaphoreGuard guard(*entry->verbs);
  if (entry->removed) co_return fail(ErrorKind::kNotFound, "volume {} does not exist", volume);
  if (entry->snapshots.contains(snapshot))
    co_return fail(ErrorKind::kExists, "snapshot {}@{} exists; choose another name", volume,
                   snapshot);
  if (damaged_.contains(volume + "@" + snapshot))
    co_return fail(ErrorKind::kExists, "{}; choose another name",
                   damaged_.at(volume + "@" + snapshot));
  CO_TRY(take_catalog_room(1));
  CO_TRY_ASSIGN(const auto disk, volume_of(volume, entry));
  CO_TRY_ASSIGN(const uint64_t id, co_await new_ids(1));
  CO_TRY_ASSIGN(const SnapshotHead head, co_await disk->snapshot(snapshot, id));
  entry->snapshots.emplace(snapshot, head);
  co_return SnapshotInfo{volume, snapshot, head.id, head.size_bytes, head.created_s};
}

Task<Result<std::vector<SnapshotInfo>>> HostVolumes::list_snapshots(std::string volume) {
  CO_TRY_ASSIGN(const EntryRef entry, find(volume));
  std::vector<SnapshotInfo> list;
  for (const auto& [name, head] : entry->snapshots)
    list.push_back({volume, name, head.id, head.size_bytes, head.created_s});
  co_return list;
}

Task<Result<void>> HostVolumes::remove_snapshot(std::string volume, std::string snapshot) {
  auto pass = gate_.enter();
  CO_TRY_ASSIGN(const EntryRef entry, find(volume));
  co_await entry->verbs->acquire();
  SemaphoreGuard guard(*entry->verbs);
  if (!entry->snapshots.contains(snapshot))
    co_return not_found("snapshot", volume + "@" + snapshot);
  CO_TRY_ASSIGN(const auto disk, volume_of(volume, entry));
  CO_TRY(co_await disk->remove_snapshot(snapshot));
  entry->snapshots.erase(snapshot);
  ++removals_;
  co_return Result<void>{};
}

}  // namespace squall
