#include "volume/import_disk.h"

#include "base/buffer.h"
#include "volume/chunk_packer.h"
#include "volume/extents.h"

namespace squall {

bool ImportDisk::overlaps(uint64_t block, uint64_t count) const {
  auto it = runs_.lower_bound(block + count);
  if (it == runs_.begin()) return false;
  --it;
  return it->second.block + it->second.count > block;
}

Task<Result<void>> ImportDisk::write(uint64_t offset, ConstBytes from, bool fua) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "import: the session has ended");
  const Epochs::Pass operation = records_.begin();
  const uint64_t end = offset + from.size();
  if (end > size_bytes_) co_return fail(ErrorKind::kInvalid, "import: write beyond the end");
  if (offset % kBlockBytes != 0 || (end % kBlockBytes != 0 && end != size_bytes_))
    co_return fail(ErrorKind::kInvalid,
                   "import: write at {} of {} bytes is not whole 4096-byte blocks", offset,
                   from.size());
  const uint64_t first = offset / kBlockBytes;
  const uint64_t count = round_up(from.size(), kBlockBytes) / kBlockBytes;
  if (overlaps(first, count))
    co_return fail(ErrorKind::kInvalid, "import: a block at {} was written before", offset);
  if (take_room_) CO_TRY(take_room_(from.size()));
  ChunkPacker packer(records_, placement_, {.deduplicate = deduplicate_});
  for (uint64_t i = 0; i < count; ++i) {
    const ConstBytes data =
        from.subspan(i * kBlockBytes, std::min<size_t>(kBlockBytes, from.size() - i * kBlockBytes));
    if (data.size() == kBlockBytes) {
      CO_TRY(co_await packer.add(first + i, data));
    } else {
      AlignedBuffer padded(kBlockBytes);
      std::memcpy(padded.data(), data.data(), data.size());
      CO_TRY(co_await packer.add(first + i, padded.bytes()));
    }
  }
  CO_TRY(co_await packer.finish());
  if (overlaps(first, count))
    co_return fail(ErrorKind::kInvalid, "import: blocks at {} were written twice at once", offset);
  for (const BlockRun& run : packer.runs())
    if (!run.chunk.is_hole()) runs_.emplace(run.block, run);
  co_return Result<void>{};
}

Task<Result<void>> ImportDisk::zero(uint64_t offset, uint64_t length, bool fua) {
  const uint64_t first = offset / kBlockBytes;
  if (length > 0 && overlaps(first, (offset + length + kBlockBytes - 1) / kBlockBytes - first))
    co_return fail(ErrorKind::kInvalid, "import: a block at {} was written before", offset);
  co_return Result<void>{};
}

Task<Result<void>> ImportDisk::trim(uint64_t offset, uint64_t length, bool fua) {
  return zero(offset, length, fua);
}

std::vector<BlockRun> ImportDisk::runs_of(uint64_t block, uint64_t count) const {
  std::vector<BlockRun> found;
  auto it = runs_.upper_bound(block);
  if (it != runs_.begin()) --it;
  uint64_t at = block;
  for (; it != runs_.end() && it->first < block + count; ++it) {
    BlockRun run = it->second;
    if (run.block + run.count <= at) continue;
    if (run.block > at) found.push_back({at, run.block - at, Address(), 0});
    found.push_back(run);
    at = run.block + run.count;
  }
  if (at < block + count) found.push_back({at, block + count - at, Address(), 0});
  return found;
}

Task<Result<void>> ImportDisk::status(uint64_t offset, uint64_t length, size_t max_extents,
                                      std::vector<DiskExtent>& extents) {
  const uint64_t first = offset / kBlockBytes;
  const uint64_t end = offset + length;
  for (const BlockRun& run : runs_of(first, (end + kBlockBytes - 1) / kBlockBytes - first)) {
    const uint64_t from = std::max(offset, run.block * kBlockBytes);
    const uint64_t to = std::min(end, (run.block + run.count) * kBlockBytes);
    if (to > from) append_extent(extents, to - from, run.chunk.is_hole(), run.chunk.is_hole());
  }
  limit_extents(extents, max_extents);
  co_return Result<void>{};
}

Task<Result<void>> ImportDisk::read_sparse(uint64_t offset, Bytes to,
                                           std::vector<DiskExtent>& extents) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "import: the session has ended");
  const uint64_t first = offset / kBlockBytes;
  const uint64_t end = offset + to.size();
  const auto runs = runs_of(first, (end + kBlockBytes - 1) / kBlockBytes - first);
  for (const BlockRun& run : runs) {
    const uint64_t from = std::max(offset, run.block * kBlockBytes);
    const uint64_t until = std::min(end, (run.block + run.count) * kBlockBytes);
    if (until <= from) continue;
    append_extent(extents, until - from, run.chunk.is_hole(), run.chunk.is_hole());
    if (run.chunk.is_hole()) continue;
    CO_TRY_ASSIGN(const PayloadRef payload, co_await records_.read(RecordKind::kChunk, run.chunk));
    const uint64_t skip = run.chunk_block * kBlockBytes + (from - run.block * kBlockBytes);
    CHECK(skip + (until - from) <= payload->bytes().size());
    std::memcpy(to.data() + (from - offset), payload->bytes().data() + skip, until - from);
  }
  co_return Result<void>{};
}

Task<Result<void>> ImportDisk::read(uint64_t offset, Bytes to) {
  std::vector<DiskExtent> extents;
  CO_TRY(co_await read_sparse(offset, to, extents));
  fill_zero_extents(extents, to);
  co_return Result<void>{};
}

Task<Result<IndexRoot>> ImportDisk::finish() {
  co_await gate_.close();
  std::vector<BlockRun> updates;
  updates.reserve(runs_.size());
  for (const auto& [block, run] : runs_) updates.push_back(run);
  const uint64_t blocks = round_up(size_bytes_, kBlockBytes) / kBlockBytes;
  CO_TRY_ASSIGN(const IndexRoot root,
                co_await index_update(records_, IndexRoot{}, blocks, updates, placement_));
  CO_TRY(co_await records_.sync(mark_));
  co_return root;
}

std::vector<BlockRun> ImportDisk::data_runs(uint64_t block, size_t most) const {
  std::vector<BlockRun> found;
  for (auto it = runs_.lower_bound(block); it != runs_.end() && found.size() < most; ++it)
    found.push_back(it->second);
  return found;
}

Task<void> ImportDisk::close() {
  co_await gate_.close();
}

}  // namespace squall
