// MetaStore: the catalog: a small transactional key-value store. A key lies in a partition (a
// volume with its snapshots; an image; a node; the pool's counters); a transaction compares and
// writes keys of ONE partition, atomically and durably. Nothing relies on atomicity across
// partitions. Calls come from one reactor's thread and complete on it; concurrent transactions are
// applied in the order of their calls and may share one sync.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/task.h"

namespace squall {

struct MetaEntry {
  std::string partition;
  std::string key;
  std::string value;
  // The store found that the entry's bytes have changed by themselves: the value is what is there,
  // of use only to whoever can verify it. get() and compares give kCorrupt instead.
  bool damaged = false;
  // What a damaged value was, where changing one of its bytes back makes it fit its checksum.
  std::optional<std::string> restored = {};

  // The value to go by; null when there is none.
  const std::string* usable() const {
    if (!damaged) return &value;
    return restored ? &*restored : nullptr;
  }
};

struct MetaTransaction {
  struct Compare {
    std::string key;
    std::optional<std::string> expected;  // nullopt: the key must not exist
  };
  struct Put {
    std::string key;
    std::optional<std::string> value;  // nullopt: delete
  };
  std::string partition;
  std::vector<Compare> compares;
  std::vector<Put> puts;
};

class MetaStore {
 public:
  virtual ~MetaStore() = default;

  // nullopt when the key does not exist.
  virtual Task<Result<std::optional<std::string>>> get(std::string partition, std::string key) = 0;
  // All entries whose partition starts with `partition_prefix` and whose key starts with
  // `key_prefix`, ordered by partition, then key.
  virtual Task<Result<std::vector<MetaEntry>>> list(std::string partition_prefix,
                                                    std::string key_prefix) = 0;
  // Durable when it returns. kConflict: a compare failed and nothing was written. On any other
  // error the outcome is unknown until read again.
  virtual Task<Result<void>> commit(MetaTransaction transaction) = 0;
  // What is wrong with the store's own structure, a line each. A store without one finds nothing.
  virtual Task<Result<std::vector<std::string>>> check_structure() {
    co_return std::vector<std::string>();
  }
};

}  // namespace squall
