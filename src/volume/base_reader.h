// Reading bytes of a block index: what a volume has below its dirty map, what a snapshot and an
// image are. Stateless functions; one reactor's thread.
#pragma once

#include <vector>

#include "index/block_index.h"
#include "io/reactor.h"
#include "pool/record_store.h"
#include "volume/disk.h"
#include "volume/root_pins.h"

namespace squall {

// Reads [offset, offset + to.size()). Appends what was read to `extents`; bytes of zero extents are
// left unwritten. Chunks that are not cached are fetched concurrently.
Task<Result<void>> read_base(Reactor& reactor, RecordStore& records, IndexRoot root,
                             uint64_t offset, Bytes to, std::vector<DiskExtent>& extents);
// Appends the extents of [offset, offset + length), from its beginning until there are more than
// `max_extents` in the list: the last one may then be cut short.
Task<Result<void>> base_status(RecordStore& records, IndexRoot root, uint64_t offset,
                               uint64_t length, size_t max_extents,
                               std::vector<DiskExtent>& extents);
// Brings the chunks of the range into the cache.
Task<Result<void>> prefetch_base(Reactor& reactor, RecordStore& records, IndexRoot root,
                                 uint64_t offset, uint64_t length);

// A snapshot or an image as a disk; it stays readable when that is removed.
class SnapshotDisk : public ReadableDisk {
 public:
  SnapshotDisk(Reactor& reactor, RecordStore& records, RootPins& pins, IndexRoot root,
               uint64_t size_bytes)
      : reactor_(reactor), records_(records), pin_(pins, root), size_bytes_(size_bytes) {}
  uint64_t size_bytes() const override { return size_bytes_; }
  Task<Result<void>> read(uint64_t offset, Bytes to) override;
  Task<Result<void>> read_sparse(uint64_t offset, Bytes to,
                                 std::vector<DiskExtent>& extents) override;
  Task<Result<void>> status(uint64_t offset, uint64_t length, size_t max_extents,
                            std::vector<DiskExtent>& extents) override;
  Task<Result<void>> prefetch(uint64_t offset, uint64_t length) override;

 private:
  Reactor& reactor_;
  RecordStore& records_;
  RootPin pin_;
  uint64_t size_bytes_;
};

}  // namespace squall
