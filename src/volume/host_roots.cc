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
    co_return co_await pacer_.did(pages * kPageBytes);
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
    CO_TRY(co_await pacer.did(0));
  }
}

Result<void> add_catalog_row(const MetaEntry& row, Roots& roots) {
  if (row.partition.starts_with("v/") && row.key == kHeadKey) {
    TRY_ASSIGN(const VolumeHead head, decode_volume_head(row.value));
    add_root(roots, head.root, head.root_height);
  } else if (row.key == kHeadKey || row.key.starts_with("snap/")) {
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
  for (const char* prefix : {"v/", "i/"}) {
    CO_TRY_ASSIGN(const std::vector<MetaEntry> rows, co_await meta_.list(prefix, ""));
    for (const MetaEntry& row : rows) {
      if (auto added = add_catalog_row(row, live.roots); !added)
        co_return std::unexpected(
            added.error().wrap(fmt::format("catalog: {} {}", row.partition, row.key)));
    }
  }
  for (const auto& import : live.imports) CO_TRY(co_await mark_import(import, marks, pacer));
  uint64_t done = 0;
  for (const auto& [address, height] : live.roots) {
    progress(done++, live.roots.size());
    CO_TRY(co_await mark_root(records_, {address, height}, marks, pacer));
  }
  co_return Result<void>();
}

}  // namespace squall
