// ImportDisk: the target of an image import: whole 4 KiB blocks, in any order, each written once,
// packed into chunks and appended to the pool at once; no journal. The image exists only when
// finish() built the index and the manager published it. One reactor's thread.
#pragma once

#include <functional>
#include <map>

#include "index/block_index.h"
#include "io/gate.h"
#include "pool/record_store.h"
#include "volume/disk.h"

namespace squall {

class ImportDisk : public WritableDisk {
 public:
  // Sets room in the pool aside for so many bytes, or says why not.
  using TakeRoom = std::function<Result<void>(uint64_t bytes)>;

  ImportDisk(RecordStore& records, uint64_t size_bytes, Placement placement, bool deduplicate,
             TakeRoom take_room = {})
      : records_(records),
        size_bytes_(size_bytes),
        placement_(std::move(placement)),
        deduplicate_(deduplicate),
        take_room_(std::move(take_room)),
        mark_(records.mark(placement_)) {}

  uint64_t size_bytes() const override { return size_bytes_; }
  bool has_write_cache() const override { return true; }
  Task<Result<void>> read(uint64_t offset, Bytes to) override;
  Task<Result<void>> read_sparse(uint64_t offset, Bytes to,
                                 std::vector<DiskExtent>& extents) override;
  Task<Result<void>> status(uint64_t offset, uint64_t length, size_t max_extents,
                            std::vector<DiskExtent>& extents) override;
  Task<Result<void>> prefetch(uint64_t, uint64_t) override { co_return Result<void>{}; }
  // Refused (kInvalid) where it is not whole blocks or a block was written before.
  Task<Result<void>> write(uint64_t offset, ConstBytes from, bool fua) override;
  // Nothing to do for what was never written; refused otherwise.
  Task<Result<void>> zero(uint64_t offset, uint64_t length, bool fua) override;
  Task<Result<void>> trim(uint64_t offset, uint64_t length, bool fua) override;
  Task<Result<void>> flush() override { co_return co_await records_.sync(mark_); }

  // Ends intake, builds the index and makes everything durable.
  Task<Result<IndexRoot>> finish();
  Task<void> close();
  // At most `most` of the runs written so far that begin at `block` or later, in order.
  std::vector<BlockRun> data_runs(uint64_t block, size_t most) const;

 private:
  std::vector<BlockRun> runs_of(uint64_t block, uint64_t count) const;
  bool overlaps(uint64_t block, uint64_t count) const;

  RecordStore& records_;
  uint64_t size_bytes_;
  Placement placement_;
  bool deduplicate_;
  TakeRoom take_room_;
  AppendMark mark_;                    // of the session's first append
  std::map<uint64_t, BlockRun> runs_;  // by first block; data only
  Gate gate_;
};

}  // namespace squall
