// One round, for a window of blocks:
//
//   predict   the sparse index names a place for each sampled fingerprint; places vote for slices
//             (neighbourhoods of kRecords lines of a footer)
//   gather    the slices with most votes, from memory or from the segment's footer, and those used
//             last: data comes in the order in which it was stored, so that most windows need
//             nothing new; and the slice that follows one whose last line was reached
//   match     greedily, the longest run at each block
//   verify    every chunk of a run is read as it is stored, all of a window at once, and compared
//
// Freeing. Between the moment a chunk was read and the moment a reference to it is recorded it may
// be freed, or its segment may lose what was not durable. may_use() closes the gap: garbage
// collection decides there, through may_reference, and lets nobody refer after its sweep to what
// was read before it (pool/collector.cc); forget() voids all hits found before.
#include "pool/deduplicator.h"

#include <algorithm>
#include <ranges>

#include "base/check.h"
#include "io/sync.h"

namespace squall {

namespace {
constexpr size_t kPredictedMax = 8;  // slices a window's sampled fingerprints may name
constexpr size_t kRecentMax = 4;     // slices looked at because they were used last
constexpr uint64_t kNearEnd = 8;     // lines
}  // namespace

struct Deduplicator::Candidate {
  Hit hit;
  Held from;
  uint32_t record = 0;  // within the slice
  bool verified = false;
};

Deduplicator::Deduplicator(Reactor& reactor, DedupSource& source, SparseIndex::Config index)
    : reactor_(reactor), source_(source), index_(index) {}

Deduplicator::~Deduplicator() = default;

void Deduplicator::add(SegmentId segment, uint64_t record,
                       std::span<const Fingerprint> fingerprints) {
  for (const Fingerprint& fingerprint : fingerprints)
    index_.insert(fingerprint, {segment, static_cast<uint32_t>(record)});
}

void Deduplicator::forget(SegmentId segment) {
  ++version_;
  index_.remove_segment(segment);
  for (auto it = held_.begin(); it != held_.end();) {
    const auto next = std::next(it);
    if (it->key.segment == segment) {
      held_by_key_.erase(it->key);
      held_.erase(it);
    }
    it = next;
  }
}

std::vector<Deduplicator::Prediction> Deduplicator::predict(
    std::span<const Fingerprint> fingerprints) const {
  std::vector<Prediction> found;
  for (const Fingerprint& fingerprint : fingerprints) {
    const auto place = index_.find(fingerprint);
    if (!place) continue;
    const SliceKey key{place->segment, place->record / FooterSlice::kRecords};
    auto prediction = std::ranges::find(found, key, &Prediction::key);
    if (prediction == found.end()) prediction = found.insert(found.end(), {.key = key});
    ++prediction->votes;
    prediction->last_record =
        std::max<uint64_t>(prediction->last_record, place->record % FooterSlice::kRecords);
  }
  std::ranges::sort(found, std::greater(), &Prediction::votes);
  if (found.size() > kPredictedMax) found.resize(kPredictedMax);
  return found;
}

// The slice if it is in memory; it counts as used last.
Deduplicator::SliceRef Deduplicator::use(SliceKey key) {
  const auto it = held_by_key_.find(key);
  if (it == held_by_key_.end()) return nullptr;
  held_.splice(held_.begin(), held_, it->second);
  return it->second->slice;
}

void Deduplicator::hold(SliceKey key, SliceRef slice) {
  if (const auto old = held_by_key_.find(key); old != held_by_key_.end()) {
    held_.erase(old->second);
    held_by_key_.erase(old);
  }
  held_.push_front({key, std::move(slice)});
  held_by_key_[key] = held_.begin();
  if (held_.size() <= kSlicesMax) return;
  held_by_key_.erase(held_.back().key);
  held_.pop_back();
}

Task<Deduplicator::SliceRef> Deduplicator::load(SliceKey key) {
  const uint64_t version = version_;
  ++stats_.footer_reads;
  auto content = co_await source_.read_footer(key.segment, key.number * FooterSlice::kRecords);
  // A segment that was forgotten meanwhile must not come back.
  if (!content || version != version_) co_return nullptr;
  auto slice = std::make_shared<FooterSlice>(key.segment, std::move(*content));
  hold(key, slice);
  co_return slice;
}

Task<std::vector<Deduplicator::Held>> Deduplicator::gather(
    std::span<const Fingerprint> fingerprints, const std::string& store) {
  std::vector<Held> slices;
  for (const Held& recent : held_ | std::views::take(kRecentMax))
    if (recent.slice->is_for(store)) slices.push_back(recent);
  for (const Prediction& prediction : predict(fingerprints)) {
    SliceRef slice = use(prediction.key);
    if (slice == nullptr || slice->may_have_grown_to(prediction.last_record) ||
        !slice->is_for(store))
      slice = co_await load(prediction.key);
    if (slice != nullptr && slice->is_for(store) &&
        std::ranges::find(slices, slice, &Held::slice) == slices.end())
      slices.push_back({prediction.key, std::move(slice)});
  }
  co_return slices;
}

Deduplicator::Candidates Deduplicator::match(std::span<const Fingerprint> fingerprints,
                                             const std::vector<Held>& slices) {
  Candidates candidates;
  for (uint32_t i = 0; i + kRunBlocksMin <= fingerprints.size();) {
    FooterSlice::Run best;
    const Held* from = nullptr;
    for (const Held& held : slices) {
      const FooterSlice::Run run = held.slice->longest_run(fingerprints.subspan(i));
      if (run.count <= best.count) continue;
      best = run;
      from = &held;
    }
    if (best.count < kRunBlocksMin) {
      ++i;
      continue;
    }
    const FooterSlice& slice = *from->slice;
    candidates.push_back(
        {.hit = {.first = i,
                 .count = best.count,
                 .chunk = slice.address(best.record),
                 .chunk_block = best.chunk_block,
                 .chunk_goes_on = best.chunk_block + best.count < slice.blocks_of(best.record)},
         .from = *from,
         .record = best.record});
    i += best.count;
  }
  return candidates;
}

// The candidates lie in one chunk.
Task<Result<void>> Deduplicator::verify(ConstBytes blocks, std::span<Candidate> same_chunk) {
  const auto payload = co_await source_.read_stored(same_chunk.front().hit.chunk);
  if (!payload) {
    stats_.runs_unreadable += same_chunk.size();
    for (Candidate& candidate : same_chunk) candidate.from.slice->drop(candidate.record);
    co_return Result<void>();
  }
  for (Candidate& candidate : same_chunk) {
    const Hit& hit = candidate.hit;
    const ConstBytes stored = (*payload)->bytes();
    const uint64_t from = hit.chunk_block * kBlockBytes, length = hit.count * kBlockBytes;
    candidate.verified =
        from + length <= stored.size() &&
        std::memcmp(stored.data() + from, blocks.data() + hit.first * kBlockBytes, length) == 0;
    if (!candidate.verified) ++stats_.runs_different;
  }
  co_return Result<void>();
}

Task<void> Deduplicator::verify_all(ConstBytes blocks, Candidates& candidates) {
  std::ranges::sort(candidates, {}, [](const Candidate& c) { return c.hit.chunk; });
  std::vector<Task<Result<void>>> readings;
  for (auto it = candidates.begin(); it != candidates.end();) {
    const auto end = std::find_if(it, candidates.end(),
                                  [&](const Candidate& c) { return c.hit.chunk != it->hit.chunk; });
    readings.push_back(verify(blocks, {it, end}));
    it = end;
  }
  if (!readings.empty()) (void)co_await join_all(reactor_, std::move(readings));
  std::ranges::sort(candidates, {}, [](const Candidate& c) { return c.hit.first; });
}

// Data that has come to the end of a slice will need the next one, and may bring no sampled
// fingerprint that says so.
Task<void> Deduplicator::read_ahead(const Candidates& candidates) {
  if (candidates.empty() || !candidates.back().verified) co_return;
  const Candidate& last = candidates.back();
  if (use(last.from.key) == nullptr || last.record + kNearEnd < FooterSlice::kRecords) co_return;
  const SliceKey next{last.from.key.segment, last.from.key.number + 1};
  if (use(next) == nullptr) co_await load(next);
}

Task<std::vector<Deduplicator::Hit>> Deduplicator::find(ConstBytes blocks,
                                                        std::span<const Fingerprint> fingerprints,
                                                        Placement placement) {
  CHECK(blocks.size() == fingerprints.size() * kBlockBytes);
  const uint64_t version = version_;
  Candidates candidates =
      match(fingerprints, co_await gather(fingerprints, source_.store_of(placement)));
  co_await verify_all(blocks, candidates);
  co_await read_ahead(candidates);
  std::vector<Hit> hits;
  for (Candidate& candidate : candidates) {
    candidate.hit.version = version;
    if (candidate.verified) hits.push_back(candidate.hit);
  }
  co_return hits;
}

bool Deduplicator::may_use(const Hit& hit) {
  if (hit.version != version_ || (may_reference_ && !may_reference_(hit.chunk))) {
    ++stats_.runs_refused;
    return false;
  }
  ++stats_.runs_shared;
  stats_.blocks_shared += hit.count;
  return true;
}

DedupStats Deduplicator::stats() const {
  DedupStats stats = stats_;
  stats.index = index_.stats();
  for (const Held& held : held_) stats.slice_bytes += held.slice->memory_bytes();
  return stats;
}

}  // namespace squall
