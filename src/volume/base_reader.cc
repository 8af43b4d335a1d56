#include "volume/base_reader.h"

#include "io/sync.h"
#include "volume/extents.h"

namespace squall {

namespace {

// Status looks up a piece at a time: little when few extents are wanted, and never so much that the
// runs of one piece take much memory. A piece with few runs is followed by one twice as long.
constexpr uint64_t kStatusBlocks = 64 * kLeafBlocks;
constexpr uint64_t kStatusBlocksMax = 1024 * kLeafBlocks;
constexpr size_t kFewRuns = 1024;

struct Blocks {
  uint64_t first;
  uint64_t count;
};
Blocks blocks_of(uint64_t offset, uint64_t length) {
  const uint64_t first = offset / kBlockBytes;
  return {first, (offset + length + kBlockBytes - 1) / kBlockBytes - first};
}

// The part of `to` (the bytes from `offset` on) that `run` covers, and where it lies in the chunk.
struct RunCopy {
  Address chunk;
  uint64_t chunk_offset;
  Bytes to;
};
RunCopy clip(const BlockRun& run, uint64_t offset, Bytes to) {
  const uint64_t begin = std::max(run.block * kBlockBytes, offset);
  const uint64_t end = std::min((run.block + run.count) * kBlockBytes, offset + to.size());
  return {run.chunk, run.chunk_block * kBlockBytes + (begin - run.block * kBlockBytes),
          to.subspan(begin - offset, end - begin)};
}

Result<void> copy_out(const Payload& payload, const RunCopy& copy) {
  if (copy.chunk_offset + copy.to.size() > payload.bytes().size())
    return fail(ErrorKind::kCorrupt, "index points beyond the chunk at {}", copy.chunk.to_string());
  std::memcpy(copy.to.data(), payload.bytes().data() + copy.chunk_offset, copy.to.size());
  return {};
}

Task<Result<void>> fetch(RecordStore& records, RunCopy copy) {
  CO_TRY_ASSIGN(const PayloadRef payload, co_await records.read(RecordKind::kChunk, copy.chunk));
  co_return copy_out(*payload, copy);
}

Task<Result<void>> touch(RecordStore& records, Address chunk) {
  CO_TRY(co_await records.read(RecordKind::kChunk, chunk));
  co_return Result<void>{};
}

}  // namespace

Task<Result<void>> read_base(Reactor& reactor, RecordStore& records, IndexRoot root,
                             uint64_t offset, Bytes to, std::vector<DiskExtent>& extents) {
  const Blocks blocks = blocks_of(offset, to.size());
  std::vector<BlockRun> runs;
  CO_TRY(co_await index_lookup(records, root, blocks.first, blocks.count, runs));
  std::vector<RunCopy> missing;
  for (const BlockRun& run : runs) {
    const RunCopy copy = clip(run, offset, to);
    const bool hole = run.chunk.is_hole();
    append_extent(extents, copy.to.size(), hole, hole);
    if (hole) continue;
    if (const PayloadRef payload = records.read_cached(run.chunk)) {
      CO_TRY(copy_out(*payload, copy));
    } else {
      missing.push_back(copy);
    }
  }
  if (missing.size() == 1) co_return co_await fetch(records, missing[0]);
  if (missing.empty()) co_return Result<void>{};
  std::vector<Task<Result<void>>> fetches;
  fetches.reserve(missing.size());
  for (const RunCopy& copy : missing) fetches.push_back(fetch(records, copy));
  co_return co_await join_all(reactor, std::move(fetches));
}

Task<Result<void>> base_status(RecordStore& records, IndexRoot root, uint64_t offset,
                               uint64_t length, size_t max_extents,
                               std::vector<DiskExtent>& extents) {
  const uint64_t end = offset + length;
  uint64_t piece = max_extents < kFewRuns ? kLeafBlocks : kStatusBlocks;
  std::vector<BlockRun> runs;
  while (offset < end && extents.size() <= max_extents) {
    Blocks blocks = blocks_of(offset, end - offset);
    blocks.count = std::min(blocks.count, piece);
    runs.clear();
    CO_TRY(co_await index_lookup(records, root, blocks.first, blocks.count, runs));
    for (const BlockRun& run : runs) {
      const uint64_t from = std::max(offset, run.block * kBlockBytes);
      const uint64_t to = std::min(end, (run.block + run.count) * kBlockBytes);
      append_extent(extents, to - from, run.chunk.is_hole(), run.chunk.is_hole());
    }
    offset = std::min(end, (blocks.first + blocks.count) * kBlockBytes);
    piece = runs.size() < kFewRuns ? std::min(2 * piece, kStatusBlocksMax)
                                   : std::min(piece, kStatusBlocks);
  }
  co_return Result<void>{};
}

Task<Result<void>> prefetch_base(Reactor& reactor, RecordStore& records, IndexRoot root,
                                 uint64_t offset, uint64_t length) {
  const Blocks blocks = blocks_of(offset, length);
  std::vector<BlockRun> runs;
  CO_TRY(co_await index_lookup(records, root, blocks.first, blocks.count, runs));
  std::vector<Task<Result<void>>> fetches;
  for (const BlockRun& run : runs)
    if (!run.chunk.is_hole() && !records.read_cached(run.chunk))
      fetches.push_back(touch(records, run.chunk));
  co_return co_await join_all(reactor, std::move(fetches));
}

Task<Result<void>> SnapshotDisk::read(uint64_t offset, Bytes to) {
  std::vector<DiskExtent> extents;
  CO_TRY(co_await read_sparse(offset, to, extents));
  fill_zero_extents(extents, to);
  co_return Result<void>{};
}

Task<Result<void>> SnapshotDisk::read_sparse(uint64_t offset, Bytes to,
                                             std::vector<DiskExtent>& extents) {
  CHECK(offset + to.size() <= size_bytes_);
  return read_base(reactor_, records_, pin_.root(), offset, to, extents);
}

Task<Result<void>> SnapshotDisk::status(uint64_t offset, uint64_t length, size_t max_extents,
                                        std::vector<DiskExtent>& extents) {
  CO_TRY(co_await base_status(records_, pin_.root(), offset, length, max_extents, extents));
  limit_extents(extents, max_extents);
  co_return Result<void>{};
}

Task<Result<void>> SnapshotDisk::prefetch(uint64_t offset, uint64_t length) {
  return prefetch_base(reactor_, records_, pin_.root(), offset, length);
}

}  // namespace squall
