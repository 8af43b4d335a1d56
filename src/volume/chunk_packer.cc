// Without deduplication a block goes straight into the open chunk. With it, blocks gather in a
// window, which is looked up as a whole and then settled in order: a block is either referred to
// where the pool has it, or goes into the open chunk. What lies at a window's end and might be part
// of a run that goes on in the next one waits for that.
#include "volume/chunk_packer.h"

namespace squall {

ChunkPacker::ChunkPacker(RecordStore& records, Placement placement, Options options)
    : records_(records),
      placement_(std::move(placement)),
      options_(options),
      dedup_(options.deduplicate ? records.deduplicator() : nullptr),
      window_(dedup_ != nullptr ? Deduplicator::kWindowBlocks * kBlockBytes : 0),
      chunk_(options.chunk_blocks * kBlockBytes) {
  CHECK(options.chunk_blocks > 0 && options.chunk_blocks <= kChunkBlocksMax);
}

Task<Result<void>> ChunkPacker::add(uint64_t block, ConstBytes data) {
  CHECK(data.size() == kBlockBytes);
  if (is_zero(data)) co_return co_await add_hole(block, 1);
  if (dedup_ == nullptr) co_return co_await store(block, data, nullptr);
  std::memcpy(window_.data() + window_fingerprints_.size() * kBlockBytes, data.data(), kBlockBytes);
  window_fingerprints_.push_back(dedup_->fingerprint(data));
  waiting_.push_back({.block = block});
  if (window_fingerprints_.size() == Deduplicator::kWindowBlocks) CO_TRY(co_await settle(false));
  co_return Result<void>{};
}

Task<Result<void>> ChunkPacker::add_hole(uint64_t block, uint64_t count) {
  if (count == 0) co_return Result<void>{};
  if (waiting_.empty())
    put_hole(block, count);
  else
    waiting_.push_back({block, count, true});
  co_return Result<void>{};
}

Task<Result<void>> ChunkPacker::finish() {
  if (!waiting_.empty()) CO_TRY(co_await settle(true));
  co_return co_await cut();
}

Task<Result<void>> ChunkPacker::settle(bool is_last) {
  const uint32_t blocks = static_cast<uint32_t>(window_fingerprints_.size());
  const ConstBytes data = ConstBytes(window_.bytes()).first(blocks * kBlockBytes);
  const auto hits = co_await dedup_->find(data, window_fingerprints_, placement_);
  const uint32_t kept_blocks = is_last ? 0 : hold_back(hits);
  auto hit = hits.begin();
  bool use = false;  // the hit that the block at hand lies in
  uint32_t at = 0;   // block of the window
  size_t settled = 0;
  for (; settled < waiting_.size() && (waiting_[settled].hole || at < blocks - kept_blocks);
       ++settled) {
    const Waiting& next = waiting_[settled];
    if (next.hole) {
      put_hole(next.block, next.count);
      continue;
    }
    if (hit != hits.end() && at == hit->first + hit->count) ++hit;
    const bool in_hit = hit != hits.end() && at >= hit->first;
    // Between this answer and the last reference to the hit nothing suspends.
    if (in_hit && at == hit->first) use = dedup_->may_use(*hit);
    if (in_hit && use)
      refer(next.block, hit->chunk, hit->chunk_block + (at - hit->first));
    else
      CO_TRY(co_await store(next.block, data.subspan(at * kBlockBytes, kBlockBytes),
                            &window_fingerprints_[at]));
    ++at;
  }
  keep_waiting(settled, kept_blocks);
  co_return Result<void>{};
}

// How many of the window's last blocks may be the beginning of a run that ends in the next one.
uint32_t ChunkPacker::hold_back(const std::vector<Deduplicator::Hit>& hits) const {
  const uint32_t blocks = static_cast<uint32_t>(window_fingerprints_.size());
  const uint32_t hit_end = hits.empty() ? 0 : hits.back().first + hits.back().count;
  if (hit_end == blocks) return hits.back().chunk_goes_on ? hits.back().count : 0;
  return std::min(blocks - hit_end, Deduplicator::kRunBlocksMin - 1);
}

void ChunkPacker::keep_waiting(size_t settled, uint32_t kept_blocks) {
  const size_t gone = window_fingerprints_.size() - kept_blocks;
  std::memmove(window_.data(), window_.data() + gone * kBlockBytes, kept_blocks * kBlockBytes);
  window_fingerprints_.erase(window_fingerprints_.begin(), window_fingerprints_.begin() + gone);
  waiting_.erase(waiting_.begin(), waiting_.begin() + settled);
}

Task<Result<void>> ChunkPacker::store(uint64_t block, ConstBytes data,
                                      const Fingerprint* fingerprint) {
  const uint64_t limit = options_.chunk_blocks;
  if (filled_blocks_ > 0) {
    const BlockRun& last = runs_[open_runs_.back()];
    const uint64_t last_block = last.block + last.count - 1;
    const bool other_leaf = last_block / kLeafBlocks != block / kLeafBlocks;
    const bool aligned_end = filled_blocks_ >= limit / 2 && last_block / limit != block / limit;
    if (other_leaf || aligned_end || filled_blocks_ == limit) CO_TRY(co_await cut());
  }
  std::memcpy(chunk_.data() + filled_blocks_ * kBlockBytes, data.data(), kBlockBytes);
  if (fingerprint != nullptr) chunk_fingerprints_.push_back(*fingerprint);
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

// A block that lies in a chunk of the pool. Runs are contiguous on both sides and cross no leaf.
void ChunkPacker::refer(uint64_t block, Address chunk, uint32_t chunk_block) {
  if (!runs_.empty()) {
    BlockRun& last = runs_.back();
    if (last.chunk == chunk && last.block + last.count == block &&
        last.chunk_block + last.count == chunk_block && block % kLeafBlocks != 0) {
      ++last.count;
      return;
    }
  }
  runs_.push_back({block, 1, chunk, chunk_block});
}

void ChunkPacker::put_hole(uint64_t block, uint64_t count) {
  const bool back_is_hole = !runs_.empty() &&
                            (open_runs_.empty() || open_runs_.back() + 1 != runs_.size()) &&
                            runs_.back().chunk.is_hole();
  if (back_is_hole && runs_.back().block + runs_.back().count == block) {
    runs_.back().count += count;
  } else {
    runs_.push_back({block, count, Address(), 0});
  }
}

Task<Result<void>> ChunkPacker::cut() {
  if (filled_blocks_ == 0) co_return Result<void>{};
  CO_TRY_ASSIGN(const Address address,
                co_await records_.append(RecordKind::kChunk,
                                         chunk_.bytes().first(filled_blocks_ * kBlockBytes),
                                         placement_, chunk_fingerprints_));
  for (const size_t run : open_runs_) runs_[run].chunk = address;
  open_runs_.clear();
  chunk_fingerprints_.clear();
  filled_blocks_ = 0;
  co_return Result<void>{};
}

}  // namespace squall
