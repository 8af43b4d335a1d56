// What the deduplicator needs of a pool: parts of footers, chunks as they are stored, and the
// sparse index, which is made again from the footers at every start. That takes a while in a large
// pool (5 GiB of fingerprints for each TiB of disk content) and is nobody's business but its own:
// it goes newest segment first, a little at a time, and deduplication works meanwhile with what is
// there.
#include <algorithm>

#include "base/buffer.h"
#include "base/log.h"
#include "pool/pool.h"
#include "pool/segment_reader.h"

namespace squall {

namespace {
// After each slice of a footer, up to 43 KiB and a third of a millisecond of the thread's time.
constexpr uint64_t kIndexPauseNs = 5'000'000;

std::unexpected<Error> no_footer(SegmentId segment) {
  return fail(ErrorKind::kNotFound, "segment {} has no such part of a footer", segment);
}
}  // namespace

Task<Result<PayloadRef>> Pool::read_stored(Address chunk) {
  const Gate::Pass pass = gate_.enter();
  if (!pass) co_return fail(ErrorKind::kCancelled, "pool: it is being closed");
  if (const ConstBytes stored = find_unwritten(chunk); !stored.empty())
    co_return decode(chunk, stored);
  co_return co_await read_verified(chunk);
}

// A segment that failed has lost records, and which ones is not known before it is sealed.
Result<FooterSlice::Content> Pool::open_footer(const SegmentWriter& writer, uint64_t first) const {
  const auto& entries = writer.entries();
  if (writer.has_failed() || first >= entries.size()) return no_footer(writer.id());
  const uint64_t end = std::min<uint64_t>(entries.size(), first + FooterSlice::kRecords);
  const RecordEntry& last = entries[end - 1];
  const auto fingerprints = writer.fingerprints().begin();
  FooterPart part{.records = {entries.begin() + first, entries.begin() + end},
                  .first_fingerprint = entries[first].first_fingerprint};
  part.fingerprints.assign(fingerprints + part.first_fingerprint,
                           fingerprints + last.first_fingerprint + last.fingerprints);
  return FooterSlice::Content{.part = std::move(part), .open_in = writer.store()};
}

Task<Result<SegmentTrailer>> Pool::trailer_of(SegmentId segment) {
  if (last_trailer_ && last_trailer_->segment == segment) co_return *last_trailer_;
  const auto ended = ended_.find(segment);
  if (ended == ended_.end() || !ended->second.sealed) co_return no_footer(segment);
  CO_TRY_ASSIGN(const SegmentTrailer trailer,
                co_await read_segment_trailer(segments_, config_.id, segment,
                                              ended->second.totals.sealed_bytes));
  last_trailer_ = trailer;
  co_return trailer;
}

Task<Result<FooterSlice::Content>> Pool::read_footer(SegmentId segment, uint64_t first) {
  const Gate::Pass pass = gate_.enter();
  if (!pass) co_return fail(ErrorKind::kCancelled, "pool: it is being closed");
  for (const auto& [store, stream] : streams_)
    if (const SegmentWriter* writer = stream.find_open(segment); writer != nullptr)
      co_return open_footer(*writer, first);
  CO_TRY_ASSIGN(const SegmentTrailer trailer, co_await trailer_of(segment));
  CO_TRY_ASSIGN(FooterPart part,
                co_await read_footer_part(segments_, trailer, first, FooterSlice::kRecords));
  co_return FooterSlice::Content{.part = std::move(part)};
}

Task<void> Pool::index_footers(std::vector<SegmentId> segments) {
  std::ranges::sort(segments, std::greater());
  for (const SegmentId segment : segments) {
    for (uint64_t first = 0; !gate_.is_closed(); first += FooterSlice::kRecords) {
      const auto content = co_await read_footer(segment, first);
      if (!content) break;
      for (uint64_t i = 0; i < content->part.records.size(); ++i)
        dedup_->add(segment, first + i, content->part.fingerprints_of(i));
      co_await sleep_ns(reactor_, kIndexPauseNs);
    }
  }
  dedup_->set_index_complete();
}

}  // namespace squall
