// Reading the catalog as a check does: what decodes becomes roots to walk, what does not becomes
// faults. Changes nothing. One reactor's thread.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/task.h"
#include "check/fault.h"
#include "engine/meta_store.h"
#include "format/catalog.h"
#include "index/block_index.h"

namespace squall {

// A tree that some object of the catalog holds.
struct CatalogRoot {
  std::string object;  // as in AffectedRange
  std::string partition;
  std::string key;
  IndexRoot root;
  uint64_t size_bytes = 0;
};

struct CatalogView {
  std::vector<CatalogRoot> roots;
  std::map<std::string, VolumeHead> volumes;  // by name
  uint64_t highest_id = 0;                    // of volumes, snapshots and images
  std::vector<MetaEntry> bad_entries;         // the values that are of no use
  std::vector<Fault> faults;
};

// `store_names`: those that the pool has.
Task<Result<CatalogView>> read_catalog(MetaStore& catalog, std::set<std::string> store_names);
// The root that an entry has now; nullopt when it is gone or of no use.
Task<Result<std::optional<IndexRoot>>> current_root(MetaStore& catalog, const CatalogRoot& root);

// The counters that names and numbers are handed out from: each above what it has given out.
// `highest_segment`: of the segments that were there before the call.
Task<Result<std::vector<Fault>>> check_counters(MetaStore& catalog, const CatalogView& view,
                                                SegmentId highest_segment);

constexpr const char* kPoolPartition = "pool";
constexpr const char* kNextIdKey = "next_id";
constexpr const char* kNextSegmentKey = "next_segment";

}  // namespace squall
