#include "volume/chunk_packer.h"

namespace squall {

Task<Result<void>> ChunkPacker::add(uint64_t block, ConstBytes data) {
  CHECK(data.size() == kBlockBytes);
  if (is_zero(data)) co_return co_await add_hole(block, 1);
  if (filled_blocks_ > 0) {
    const BlockRun& last = runs_[open_runs_.back()];
    const uint64_t last_block = last.block + last.count - 1;
    const bool other_leaf = last_block / kLeafBlocks != block / kLeafBlocks;
    const bool aligned_end = filled_blocks_ >= kChunkBlocksMax / 2 &&
                             last_block / kChunkBlocksMax != block / kChunkBlocksMax;
    if (other_leaf || aligned_end || filled_blocks_ == kChunkBlocksMax) CO_TRY(co_await cut());
  }
  std::memcpy(buffer_.data() + filled_blocks_ * kBlockBytes, data.data(), kBlockBytes);
  const bool continues = !open_runs_.empty() && open_runs_.back() + 1 == runs_.size() &&
                         runs_.back().block + runs_.back().count == block;
  if (continues) {
    ++runs_.back().count;
  } else {
    open_runs_.push_back(runs_.size());
    runs_.push_back({block, 1, Address(), static_cast<uint32_t>(filled_blocks_)});
  }
  ++filled_blocks_;
  co_return Result<void>{};
}

Task<Result<void>> ChunkPacker::add_hole(uint64_t block, uint64_t count) {
  if (count == 0) co_return Result<void>{};
  const bool back_is_hole = !runs_.empty() &&
                            (open_runs_.empty() || open_runs_.back() + 1 != runs_.size()) &&
                            runs_.back().chunk.is_hole();
  if (back_is_hole && runs_.back().block + runs_.back().count == block) {
    runs_.back().count += count;
  } else {
    runs_.push_back({block, count, Address(), 0});
  }
  co_return Result<void>{};
}

Task<Result<void>> ChunkPacker::cut() {
  if (filled_blocks_ == 0) co_return Result<void>{};
  CO_TRY_ASSIGN(
      const Address address,
      co_await records_.append(RecordKind::kChunk,
                               buffer_.bytes().first(filled_blocks_ * kBlockBytes), placement_));
  for (const size_t run : open_runs_) runs_[run].chunk = address;
  open_runs_.clear();
  filled_blocks_ = 0;
  co_return Result<void>{};
}

Task<Result<void>> ChunkPacker::finish() {
  return cut();
}

}  // namespace squall
