// HostVolumes as the LiveSource of garbage collection.
//
// What is reachable: the roots of volumes, snapshots and images as memory has them, those that are
// pinned, the chunks of imports under way, and whatever the catalog lists. Memory is newer than the
// catalog or equal to it, but for a transaction whose outcome is not known; hence both.
#include <set>

#include "base/log.h"
#include "volume/host_volumes.h"

namespace squall {

namespace {

using Roots = std::set<std::pair<Address, uint8_t>>;

void add_root(Roots& roots, Address address, uint8_t height) {
  if (!address.is_hole()) roots.emplace(address, height);
}

class MarkingVisitor : public IndexVisitor {
 public:
  MarkingVisitor(Marks& marks, Pacer& pacer) : marks_(marks), pacer_(pacer) {}

  bool page(Address address, unsigned, uint64_t) override {
    auto is_new = marks_.mark_page(address);
    if (!is_new) {
      keep(std::move(is_new).error());
      return false;
    }
    return *is_new;
  }
  void run(const BlockRun& run) override {
    if (auto marked = marks_.mark_blocks(run.chunk, run.chunk_block, run.count); !marked)
      keep(std::move(marked).error());
  }
  Task<Result<void>> rest(uint64_t pages) override {
    if (error_) co_return std::unexpected(*error_);
    constexpr uint64_t kPageBytes = 8 * kKiB;  // a full leaf, nearly
    co_return co_await pacer_.spend(pages * kPageBytes);
  }
  Result<void> outcome() const {
    if (error_) return std::unexpected(*error_);
    return {};
  }

 private:
  void keep(Error error) {
    if (!error_) error_ = std::move(error);
  }
  Marks& marks_;
  Pacer& pacer_;
  std::optional<Error> error_;
};

Task<Result<void>> mark_root(RecordStore& records, IndexRoot root, Marks& marks, Pacer& pacer) {
  MarkingVisitor visitor(marks, pacer);
  CO_TRY(co_await index_walk(records, root, visitor));
  co_return visitor.outcome();
}

Task<Result<void>> mark_import(std::shared_ptr<ImportDisk> import, Marks& marks, Pacer& pacer) {
  constexpr size_t kRunsAtOnce = 4096;
  uint64_t block = 0;
  for (;;) {
    const std::vector<BlockRun> runs = import->data_runs(block, kRunsAtOnce);
    for (const BlockRun& run : runs)
      CO_TRY(marks.mark_blocks(run.chunk, run.chunk_block, run.count));
    if (runs.size() < kRunsAtOnce) co_return Result<void>();
    block = runs.back().block + runs.back().count;
    CO_TRY(co_await pacer.spend(0));
  }
}

// What a damaged row refers to is unknown, so it may be anything.
Result<void> add_catalog_row(const MetaEntry& row, Roots& roots) {
  if (row.damaged)
    return fail(ErrorKind::kCorrupt,
                "its entry is damaged, so nothing may be freed; stop the daemon and run: squall "
                "check --repair");
  if (row.partition.starts_with("v/") && row.key == kHeadKey) {
    TRY_ASSIGN(const VolumeHead head, decode_volume_head(row.value));
    add_root(roots, head.root, head.root_height);
  } else if (row.partition.starts_with("v/") || row.partition.starts_with("i/")) {
    TRY_ASSIGN(const SnapshotHead head, decode_snapshot_head(row.value));
    add_root(roots, head.root, head.root_height);
  }
  return {};
}

}  // namespace

HostVolumes::LiveRoots HostVolumes::take_roots() const {
  LiveRoots live;
  for (const auto& [name, entry] : volumes_) {
    const IndexRoot root = entry->disk != nullptr
                               ? entry->disk->root()
                               : IndexRoot{entry->head.root, entry->head.root_height};
    add_root(live.roots, root.address, root.height);
    for (const auto& [snapshot, head] : entry->snapshots)
      add_root(live.roots, head.root, head.root_height);
  }
  for (const auto& [name, head] : images_) add_root(live.roots, head.root, head.root_height);
  for (const IndexRoot& root : pins_.roots()) add_root(live.roots, root.address, root.height);
  for (const auto& [id, import] : imports_) live.imports.push_back(import.disk);
  return live;
}

Task<Result<void>> HostVolumes::mark_live(Marks& marks, Pacer& pacer, const Progress& progress) {
  LiveRoots live = take_roots();
  // All of it: a row whose damage lies in its key may stand anywhere.
  CO_TRY_ASSIGN(const std::vector<MetaEntry> rows, co_await meta_.list("", ""));
  for (const MetaEntry& row : rows) {
    if (auto added = add_catalog_row(row, live.roots); !added)
      co_return std::unexpected(
          added.error().wrap(fmt::format("catalog: {} {}", row.partition, row.key)));
  }
  for (const auto& import : live.imports) CO_TRY(co_await mark_import(import, marks, pacer));
  uint64_t done = 0;
  for (const auto& [address, height] : live.roots) {
    progress(done++, live.roots.size());
    CO_TRY(co_await mark_root(records_, {address, height}, marks, pacer));
  }
  co_return Result<void>();
}

// ---- relocation ----

// Puts a relocated root into the head of an image or a snapshot. False when there was nothing to
// do: no root moved, or somebody removed it meanwhile.
Task<Result<bool>> HostVolumes::replace_root(std::string partition, std::string key,
                                             SnapshotHead head, IndexRelocation& relocation,
                                             AppendMark mark, IndexRoot& moved) {
  const IndexRoot root{head.root, head.root_height};
  CO_TRY_ASSIGN(moved, co_await relocation.relocate(root, Placement{head.store}));
  if (moved == root) co_return false;
  CO_TRY(co_await records_.sync(mark));
  MetaTransaction transaction;
  transaction.partition = std::move(partition);
  transaction.compares.push_back({key, encode(head)});
  head.root = moved.address;
  head.root_height = moved.height;
  transaction.puts.push_back({key, encode(head)});
  auto done = co_await meta_.commit(std::move(transaction));
  if (!done && done.error().kind() == ErrorKind::kConflict) co_return false;
  CO_TRY(std::move(done));
  co_return true;
}

Task<Result<void>> HostVolumes::relocate_image(std::string name, IndexRelocation& relocation,
                                               AppendMark mark) {
  const auto before = images_.find(name);
  if (before == images_.end()) co_return Result<void>();
  const uint64_t id = before->second.id;
  IndexRoot root;
  CO_TRY_ASSIGN(const bool replaced, co_await replace_root("i/" + name, std::string(kHeadKey),
                                                           before->second, relocation, mark, root));
  const auto now = images_.find(name);
  if (!replaced || now == images_.end() || now->second.id != id) co_return Result<void>();
  now->second.root = root.address;
  now->second.root_height = root.height;
  co_return Result<void>();
}

// The caller holds the entry's verbs, so nobody else changes its snapshots.
Task<Result<void>> HostVolumes::relocate_snapshot(std::string name, EntryRef entry,
                                                  std::string snapshot, IndexRelocation& relocation,
                                                  AppendMark mark) {
  IndexRoot root;
  CO_TRY_ASSIGN(const bool replaced,
                co_await replace_root(volume_partition(name), snapshot_key(snapshot),
                                      entry->snapshots.at(snapshot), relocation, mark, root));
  if (!replaced) co_return Result<void>();
  SnapshotHead& head = entry->snapshots.at(snapshot);
  head.root = root.address;
  head.root_height = root.height;
  co_return Result<void>();
}

Task<Result<void>> HostVolumes::relocate_stateless(std::string name, EntryRef entry,
                                                   IndexRelocation& relocation, AppendMark mark) {
  VolumeHead head = entry->head;
  const IndexRoot root{head.root, head.root_height};
  CO_TRY_ASSIGN(const IndexRoot moved, co_await relocation.relocate(root, Placement{head.store}));
  if (moved == root) co_return Result<void>();
  CO_TRY(co_await records_.sync(mark));
  head.root = moved.address;
  head.root_height = moved.height;
  std::string value = encode(head);
  MetaTransaction transaction;
  transaction.partition = volume_partition(name);
  transaction.compares.push_back({std::string(kHeadKey), entry->head_value});
  transaction.puts.push_back({std::string(kHeadKey), value});
  CO_TRY(co_await meta_.commit(std::move(transaction)));
  entry->head = std::move(head);
  entry->head_value = std::move(value);
  if (entry->stateless != nullptr) entry->stateless->set_base(moved);
  co_return Result<void>();
}

Task<Result<void>> HostVolumes::relocate_volume(std::string name, IndexRelocation& relocation,
                                                AppendMark mark) {
  const auto it = volumes_.find(name);
  if (it == volumes_.end()) co_return Result<void>();
  const EntryRef entry = it->second;
  // The copying is done before verbs are held up; the second time is quick, by memory.
  std::vector<IndexRoot> roots;
  for (const auto& [snapshot, head] : entry->snapshots)
    roots.push_back({head.root, head.root_height});
  roots.push_back(entry->disk != nullptr ? entry->disk->root()
                                         : IndexRoot{entry->head.root, entry->head.root_height});
  const Placement placement{entry->head.store};
  for (const IndexRoot& root : roots) CO_TRY(co_await relocation.relocate(root, placement));
  co_await entry->verbs->acquire();
  SemaphoreGuard guard(*entry->verbs);
  if (entry->removed) co_return Result<void>();
  std::vector<std::string> snapshots;
  for (const auto& [snapshot, head] : entry->snapshots) snapshots.push_back(snapshot);
  for (const std::string& snapshot : snapshots)
    CO_TRY(co_await relocate_snapshot(name, entry, snapshot, relocation, mark));
  if (entry->head.stateless) co_return co_await relocate_stateless(name, entry, relocation, mark);
  // Thousands of volumes that nobody uses need no objects: only if the root moves.
  if (entry->disk == nullptr) {
    const IndexRoot root{entry->head.root, entry->head.root_height};
    CO_TRY_ASSIGN(const IndexRoot moved, co_await relocation.relocate(root, placement));
    if (moved == root) co_return Result<void>();
  }
  CO_TRY_ASSIGN(const auto disk, volume_of(name, entry));
  co_return co_await disk->relocate(relocation, mark);
}

Task<Result<uint64_t>> HostVolumes::relocate(Leaves leaves, Pacer& pacer,
                                             const Progress& progress) {
  const AppendMark mark = records_.mark();
  IndexRelocation relocation(records_, std::move(leaves),
                             [&pacer](uint64_t bytes) { return pacer.spend(bytes); });
  std::vector<std::string> images;
  for (const auto& [name, head] : images_) images.push_back(name);
  std::vector<std::string> volumes;
  for (const auto& [name, entry] : volumes_) volumes.push_back(name);
  const uint64_t all = images.size() + volumes.size();
  uint64_t done = 0;
  for (const std::string& name : images) {
    progress(done++, all);
    CO_TRY(co_await relocate_image(name, relocation, mark));
  }
  for (const std::string& name : volumes) {
    progress(done++, all);
    CO_TRY(co_await relocate_volume(name, relocation, mark));
  }
  co_return relocation.moved_bytes();
}

}  // namespace squall
