// Reading the catalog when the host starts. An entry that has rotted concerns one volume, snapshot
// or image: the host starts without it, says so in log and status, and keeps its name taken, since
// the data may still be there for a check to repair. An entry in which one byte has changed is
// mended on the spot.
#include "base/log.h"
#include "volume/host_volumes.h"

namespace squall {

namespace {
constexpr std::string_view kSnapshotPrefix = "snap/";

MetaTransaction put_of(const MetaEntry& row, std::string value) {
  MetaTransaction transaction;
  transaction.partition = row.partition;
  transaction.puts.push_back({row.key, std::move(value)});
  return transaction;
}
}  // namespace

// Nothing when the entry is of no use; that is remembered.
template <class Head>
Task<std::optional<Head>> HostVolumes::decode_row(MetaEntry row, std::string object,
                                                  Result<Head> (*decode)(std::string_view)) {
  if (row.damaged && row.restored) {
    auto head = decode(*row.restored);
    auto written = co_await meta_.commit(put_of(row, *row.restored));
    if (head && written) {
      LOG_WARN("catalog: one byte of the entry of {} had changed; it was put right", object);
      co_return std::move(*head);
    }
  }
  auto head = decode(row.value);
  if (head && !row.damaged) co_return std::move(*head);
  std::string line = fmt::format("the catalog entry of {} is damaged: {}", object,
                                 head ? "it fails its checksum" : head.error().message());
  LOG_ERROR("{}; run: squall check --repair", line);
  damaged_.emplace(object.substr(object.find(' ') + 1), std::move(line));
  co_return std::nullopt;
}

Task<Result<void>> HostVolumes::load_catalog() {
  CO_TRY(co_await load_volumes());
  co_return co_await load_images();
}

Task<Result<void>> HostVolumes::load_volumes() {
  CO_TRY_ASSIGN(auto rows, co_await meta_.list("v/", ""));
  for (MetaEntry& row : rows) {
    const std::string name = row.partition.substr(2);
    EntryRef& entry = volumes_[name];
    if (entry == nullptr) {
      entry = std::make_shared<Entry>();
      entry->verbs = std::make_unique<Mutex>(reactor_);
    }
    const EntryRef kept = entry;
    if (row.key == kHeadKey) {
      std::string value = row.usable() != nullptr ? *row.usable() : "";
      auto head = co_await decode_row(std::move(row), "volume " + name, decode_volume_head);
      if (!head) continue;
      names_by_id_[head->id] = name;
      kept->head = std::move(*head);
      kept->head_value = std::move(value);
    } else if (row.key.starts_with(kSnapshotPrefix)) {
      const std::string snapshot = row.key.substr(kSnapshotPrefix.size());
      auto head = co_await decode_row(std::move(row), "snapshot " + name + "@" + snapshot,
                                      decode_snapshot_head);
      if (head) kept->snapshots.emplace(snapshot, std::move(*head));
    }
  }
  std::erase_if(volumes_, [](const auto& item) { return item.second->head.id == 0; });
  co_return Result<void>{};
}

Task<Result<void>> HostVolumes::load_images() {
  CO_TRY_ASSIGN(auto rows, co_await meta_.list("i/", std::string(kHeadKey)));
  for (MetaEntry& row : rows) {
    const std::string name = row.partition.substr(2);
    auto head = co_await decode_row(std::move(row), "image " + name, decode_snapshot_head);
    if (head) images_.emplace(name, std::move(*head));
  }
  co_return Result<void>{};
}

// The next journal generation is above every one that a node is known to have had.
Task<Result<void>> HostVolumes::load_generation() {
  CO_TRY_ASSIGN(auto rows, co_await meta_.list("n/", std::string(kHeadKey)));
  for (MetaEntry& row : rows) {
    const std::string object = "node " + row.partition.substr(2);
    const auto node = co_await decode_row(std::move(row), object, decode_node_head);
    if (node)
      config_.journal.min_generation =
          std::max(config_.journal.min_generation, node->journal_generation);
  }
  co_return Result<void>{};
}

std::unexpected<Error> HostVolumes::not_found(const char* kind, const std::string& name) const {
  if (const auto damaged = damaged_.find(name); damaged != damaged_.end())
    return std::unexpected(
        Error(ErrorKind::kCorrupt, damaged->second + "; run: squall check --repair", EIO));
  return fail(ErrorKind::kNotFound, "{} {} does not exist; see: squall {} list", kind, name, kind);
}

std::vector<std::string> HostVolumes::damaged() const {
  std::vector<std::string> lines;
  for (const auto& [name, line] : damaged_) lines.push_back(line);
  return lines;
}

}  // namespace squall
