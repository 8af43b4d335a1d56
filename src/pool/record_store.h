// RecordStore: what index and volumes need of a pool: append a record, read it by address. Payloads
// are decompressed bytes; compression, checksums, placement and caching are the pool's affair.
// One reactor's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/task.h"
#include "format/address.h"
#include "format/segment.h"

namespace squall {

// A record's decompressed payload, immutable and shared by all who read it.
class Payload {
 public:
  virtual ~Payload() = default;
  ConstBytes bytes() const { return bytes_; }

 protected:
  explicit Payload(ConstBytes bytes) : bytes_(bytes) {}
  ConstBytes bytes_;
};
using PayloadRef = std::shared_ptr<const Payload>;

// Where a writer wants its records: an open append stream of the pool. Records appended through one
// hint lie near each other.
struct Placement {
  std::string store;  // empty: the pool's default
};

class RecordStore {
 public:
  virtual ~RecordStore() = default;
  // Appends one record of at most 64 KiB of payload; its address may be used (read, referenced) at
  // once but is durable only after a later sync(). The payload is copied or compressed before the
  // first suspension, so the caller may reuse it when the call returns a suspended task.
  virtual Task<Result<Address>> append(RecordKind kind, ConstBytes payload,
                                       const Placement& placement) = 0;
  // Everything appended before the call is durable when it returns.
  virtual Task<Result<void>> sync() = 0;
  // Verified; kCorrupt (os_errno EIO) when no good copy is found. Concurrent reads of one address
  // share one fetch.
  virtual Task<Result<PayloadRef>> read(RecordKind kind, Address address) = 0;
  // The payload if it is in memory, else null. Never suspends.
  virtual PayloadRef read_cached(Address address) = 0;
};

}  // namespace squall
