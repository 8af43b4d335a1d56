#include "check/catalog_check.h"

#include <charconv>
#include <unordered_map>

namespace squall {

namespace {
constexpr const char* kHead = "head";
constexpr std::string_view kSnapshotPrefix = "snap/";
constexpr const char* kDamagedAdvice =
    "run: squall check --repair, which restores it or moves it to the catalog's quarantine";

// Goes through the catalog's entries and fills a view.
class CatalogReader {
 public:
  explicit CatalogReader(const std::set<std::string>& store_names) : store_names_(store_names) {}

  void read_nodes(const std::vector<MetaEntry>& entries);
  void read_volumes(const std::vector<MetaEntry>& entries);
  void read_images(const std::vector<MetaEntry>& entries);
  void read_pool(const std::vector<MetaEntry>& entries);
  CatalogView take() { return std::move(view_); }

 private:
  void add_fault(std::string object, std::string problem, std::string advice) {
    view_.faults.push_back({.kind = FaultKind::kCatalog,
                            .object = std::move(object),
                            .problem = std::move(problem),
                            .advice = std::move(advice)});
  }
  void add_bad(const MetaEntry& entry, const std::string& object, const std::string& problem) {
    view_.bad_entries.push_back(entry);
    add_fault(object, "its catalog entry is damaged: " + problem, kDamagedAdvice);
  }
  void add_object(const MetaEntry& entry, const std::string& object, uint64_t id, IndexRoot root,
                  uint64_t size_bytes, const std::string& store);
  void add_volume(const MetaEntry& entry, const std::string& name);

  const std::set<std::string>& store_names_;
  std::set<std::string> nodes_;
  bool nodes_complete_ = true;
  std::unordered_map<uint64_t, std::string> objects_by_id_;
  CatalogView view_;
};

// The error that a damaged entry gives, whether or not its value still decodes.
template <class T>
Result<T> unless_damaged(const MetaEntry& entry, Result<T> decoded) {
  if (decoded && entry.damaged) return fail(ErrorKind::kCorrupt, "it fails its checksum");
  return decoded;
}

void CatalogReader::read_nodes(const std::vector<MetaEntry>& entries) {
  for (const MetaEntry& entry : entries) {
    const std::string id = entry.partition.substr(2);
    const auto node = unless_damaged(entry, decode_node_head(entry.value));
    if (!node) {
      nodes_complete_ = false;
      add_bad(entry, "node " + id, node.error().message());
    } else if (node->journal_id.to_string() != id) {
      add_fault("node " + id, "its entry is that of node " + node->journal_id.to_string(),
                kDamagedAdvice);
    } else {
      nodes_.insert(id);
    }
  }
}

void CatalogReader::add_object(const MetaEntry& entry, const std::string& object, uint64_t id,
                               IndexRoot root, uint64_t size_bytes, const std::string& store) {
  const auto [other, is_new] = objects_by_id_.emplace(id, object);
  if (!is_new)
    add_fault(object, fmt::format("it has the id {} of {}", id, other->second),
              "export both, then remove the younger one");
  view_.highest_id = std::max(view_.highest_id, id);
  if (id == 0) add_fault(object, "it has no id", kDamagedAdvice);
  if (!store.empty() && !store_names_.contains(store))
    add_fault(object, "it prefers store " + store + ", which the pool does not have",
              "add the store: squall init --store " + store + "=DIR");
  if (size_bytes == 0 || size_bytes % kSectorBytes != 0)
    add_fault(object, fmt::format("its size is {} bytes", size_bytes), kDamagedAdvice);
  const bool is_empty = root.height == 0;
  if (root.height > kPageLevelMax + 1 || root.address.is_hole() != is_empty) {
    add_bad(entry, object,
            fmt::format("a root of height {} at {}", root.height, root.address.to_string()));
    return;
  }
  view_.roots.push_back({object, entry.partition, entry.key, root, size_bytes});
}

void CatalogReader::add_volume(const MetaEntry& entry, const std::string& name) {
  const std::string object = "volume " + name;
  auto head = unless_damaged(entry, decode_volume_head(entry.value));
  if (!head) return add_bad(entry, object, head.error().message());
  if (!head->owner.is_nil() && nodes_complete_ && !nodes_.contains(head->owner.to_string()))
    add_fault(object, "it is held by node " + head->owner.to_string() + ", which nobody knows",
              "run: squall volume takeover " + name);
  add_object(entry, object, head->id, {head->root, head->root_height}, head->size_bytes,
             head->store);
  view_.volumes.emplace(name, std::move(*head));
}

void CatalogReader::read_volumes(const std::vector<MetaEntry>& entries) {
  // "head" sorts before "snap/...".
  std::set<std::string> with_head;
  for (const MetaEntry& entry : entries) {
    const std::string name = entry.partition.substr(2);
    if (entry.key == kHead) {
      with_head.insert(name);
      add_volume(entry, name);
      continue;
    }
    if (!entry.key.starts_with(kSnapshotPrefix)) {
      if (entry.damaged) add_bad(entry, "volume " + name + ", entry " + entry.key, "its checksum");
      continue;
    }
    const std::string object = "snapshot " + name + "@" + entry.key.substr(kSnapshotPrefix.size());
    const auto head = unless_damaged(entry, decode_snapshot_head(entry.value));
    if (!head) {
      add_bad(entry, object, head.error().message());
      continue;
    }
    if (!with_head.contains(name)) {
      view_.bad_entries.push_back(entry);
      add_fault(object, "its volume does not exist", kDamagedAdvice);
    }
    add_object(entry, object, head->id, {head->root, head->root_height}, head->size_bytes,
               head->store);
  }
}

void CatalogReader::read_images(const std::vector<MetaEntry>& entries) {
  for (const MetaEntry& entry : entries) {
    const std::string object = "image " + entry.partition.substr(2);
    if (entry.key != kHead) {
      if (entry.damaged) add_bad(entry, object + ", entry " + entry.key, "its checksum");
      continue;
    }
    const auto head = unless_damaged(entry, decode_snapshot_head(entry.value));
    if (!head) {
      add_bad(entry, object, head.error().message());
      continue;
    }
    add_object(entry, object, head->id, {head->root, head->root_height}, head->size_bytes,
               head->store);
  }
}

void CatalogReader::read_pool(const std::vector<MetaEntry>& entries) {
  for (const MetaEntry& entry : entries)
    if (entry.damaged) add_bad(entry, "catalog entry pool " + entry.key, "it fails its checksum");
}

// The number in a counter's entry; 0 when it is none.
Task<Result<uint64_t>> read_counter(MetaStore& catalog, std::string key) {
  auto value = co_await catalog.get(kPoolPartition, std::move(key));
  if (!value && value.error().kind() == ErrorKind::kCorrupt) co_return 0;
  if (!value) co_return std::unexpected(value.error());
  if (!*value) co_return 1;  // nothing was ever handed out
  uint64_t number = 0;
  const char* end = (*value)->data() + (*value)->size();
  const auto parsed = std::from_chars((*value)->data(), end, number);
  co_return parsed.ec == std::errc() && parsed.ptr == end ? number : 0;
}

Fault counter_fault(std::string_view key, uint64_t value, uint64_t in_use) {
  return {.kind = FaultKind::kCounter,
          .object = fmt::format("catalog entry pool {}", key),
          .problem = fmt::format("it says {}, and {} is in use", value, in_use),
          .advice = "run: squall check --repair, which raises it"};
}
}  // namespace

Task<Result<CatalogView>> read_catalog(MetaStore& catalog, std::set<std::string> store_names) {
  CatalogReader reader(store_names);
  // Volumes before nodes: a node's entry is written before it becomes the owner of a volume.
  CO_TRY_ASSIGN(const auto volumes, co_await catalog.list("v/", ""));
  CO_TRY_ASSIGN(const auto images, co_await catalog.list("i/", ""));
  CO_TRY_ASSIGN(const auto nodes, co_await catalog.list("n/", kHead));
  CO_TRY_ASSIGN(const auto pool, co_await catalog.list(kPoolPartition, ""));
  reader.read_nodes(nodes);
  reader.read_volumes(volumes);
  reader.read_images(images);
  reader.read_pool(pool);
  co_return reader.take();
}

Task<Result<std::optional<IndexRoot>>> current_root(MetaStore& catalog, const CatalogRoot& root) {
  auto value = co_await catalog.get(root.partition, root.key);
  if (!value && value.error().kind() == ErrorKind::kCorrupt) co_return std::nullopt;
  if (!value) co_return std::unexpected(value.error());
  if (!*value) co_return std::nullopt;
  if (root.partition.starts_with("v/") && root.key == kHead) {
    const auto head = decode_volume_head(**value);
    if (!head) co_return std::nullopt;
    co_return IndexRoot{head->root, head->root_height};
  }
  const auto head = decode_snapshot_head(**value);
  if (!head) co_return std::nullopt;
  co_return IndexRoot{head->root, head->root_height};
}

Task<Result<std::vector<Fault>>> check_counters(MetaStore& catalog, const CatalogView& view,
                                                SegmentId highest_segment) {
  std::vector<Fault> faults;
  CO_TRY_ASSIGN(const uint64_t next_segment, co_await read_counter(catalog, kNextSegmentKey));
  if (next_segment <= highest_segment)
    faults.push_back(counter_fault(kNextSegmentKey, next_segment, highest_segment));
  CO_TRY_ASSIGN(const uint64_t next_id, co_await read_counter(catalog, kNextIdKey));
  if (next_id <= view.highest_id)
    faults.push_back(counter_fault(kNextIdKey, next_id, view.highest_id));
  co_return faults;
}

}  // namespace squall
