// RecordStore: what index and volumes need of a pool: append a record, read it by address. Payloads
// are decompressed bytes; compression, checksums, placement and caching are the pool's affair.
// One reactor's thread.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/task.h"
#include "cache/payload.h"
#include "format/address.h"
#include "format/segment.h"
#include "pool/epochs.h"

namespace squall {

class Deduplicator;

// Where a writer wants its records: an open append stream of the pool. Records appended through one
// hint lie near each other.
struct Placement {
  std::string store;  // empty: the pool's default
};

// A moment in the life of a store, taken by a writer before its first append and handed to sync().
// A write or sync that fails loses every record that was not durable yet, whoever appended it, and
// several writers share one store: the mark tells sync() which losses concern its caller. The
// default mark stands for the store's beginning: after any loss, sync() with it fails for good.
struct AppendMark {
  uint64_t losses = 0;
  // The only store its writer appends to: what is wrong with the others does not concern it.
  std::optional<std::string> store{};
};

class RecordStore {
 public:
  virtual ~RecordStore() = default;
  // Appends one record of 1 byte to 64 KiB of payload that is not all zero; its address may be used
  // (read, referenced) at once but is durable only after a later sync(). The payload is copied or
  // compressed before the first suspension, so the caller may reuse it when the call returns a
  // suspended task. `fingerprints`, one per 4 KiB block of a chunk, are kept with its segment, so
  // that later data can be found equal to it; without them it takes no part in deduplication.
  virtual Task<Result<Address>> append(RecordKind kind, ConstBytes payload,
                                       const Placement& placement,
                                       std::span<const Fingerprint> fingerprints = {}) = 0;
  virtual AppendMark mark() const = 0;
  // For a writer that appends with this placement alone.
  virtual AppendMark mark(const Placement& placement) const = 0;
  // Everything appended before the call is durable when it returns well (of a mark with a store:
  // everything in that store). Fails when anything that was appended since `since` may be lost: the
  // writer must then append it all again. kNoSpace loses nothing: a later sync() tries again.
  virtual Task<Result<void>> sync(AppendMark since = {}) = 0;
  // Verified; kCorrupt (os_errno EIO) when no good copy is found. Concurrent reads of one address
  // share one fetch.
  virtual Task<Result<PayloadRef>> read(RecordKind kind, Address address) = 0;
  // The payload if it is in memory, else null. Never suspends.
  virtual PayloadRef read_cached(Address address) = 0;
  // Finds what is stored already; null for a store that does not deduplicate.
  virtual Deduplicator* deduplicator() { return nullptr; }

  // An operation that holds addresses which no root in the catalog or in its owner's memory reaches
  // any more, or not yet, keeps a pass from before it got the first one until it is done: garbage
  // collection frees nothing that such an operation may still read or publish.
  Epochs::Pass begin() { return epochs_.enter(); }

 protected:
  Epochs epochs_;
};

}  // namespace squall
