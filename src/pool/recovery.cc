// Why in the background: a segment that was open at a crash has to be read whole to find its
// records, up to 2 GiB of it, and start-up must take well under a second. Nothing waits for the
// result: reads need an address only, appends go to new segments, and what was published lies in
// front of the place where the segment is cut. Only those who need footers (garbage collection,
// deduplication) wait().
//
// Cutting off what lies behind the last valid record loses nothing that a sync has promised: a
// sync covers everything in front of it, and what it covered verifies, or is damaged and would not
// be served anyway. A segment whose records cannot be read for an I/O error is left as it is.
#include "pool/recovery.h"

#include <algorithm>

#include "base/buffer.h"
#include "base/log.h"
#include "pool/segment_reader.h"

namespace squall {

Task<void> Recovery::run(std::vector<SegmentInfo> found) {
  std::vector<SegmentInfo> full;  // no space for their footers
  for (const SegmentInfo& segment : found) {
    if (cancelled_) break;
    if (!co_await visit(segment)) full.push_back(segment);
  }
  if (!full.empty() && !cancelled_) {
    for (const SegmentInfo& segment : full) co_await segments_.release_reserve(segment.store);
    co_await visit_again(full);
  }
  is_done_ = true;
  done_.wake_all();
  co_await retry(std::move(full));
}

void Recovery::cancel() {
  cancelled_ = true;
  if (retry_timer_.armed) reactor_.disarm(retry_timer_);
  retry_.wake_all();
}

// False when it is worth another try once its disk has space.
Task<bool> Recovery::visit(SegmentInfo segment) {
  SegmentTotals totals{.store = segment.store};
  auto outcome = co_await recover(segment, totals);
  if (!outcome && outcome.error().kind() == ErrorKind::kCancelled) co_return true;
  if (!outcome)
    LOG_ERROR("pool: segment {} in store '{}' is left as it is: {}", segment.id, segment.store,
              outcome.error().message());
  if (!outcome || *outcome != Outcome::kRemoved)
    on_segment_(segment.id, totals, outcome && *outcome == Outcome::kSealed);
  co_return outcome || outcome.error().kind() != ErrorKind::kNoSpace;
}

// Leaves those in `full` that still find no space.
Task<void> Recovery::visit_again(std::vector<SegmentInfo>& full) {
  const auto known = co_await segments_.list();  // their sizes have changed
  if (!known) co_return;
  std::vector<SegmentInfo> left;
  for (const SegmentInfo& segment : full) {
    const auto now = std::ranges::find(*known, segment.id, &SegmentInfo::id);
    if (now == known->end()) continue;
    if (cancelled_ || !co_await visit(*now)) left.push_back(*now);
  }
  full = std::move(left);
}

Task<void> Recovery::retry(std::vector<SegmentInfo> full) {
  constexpr uint64_t kIntervalNs = 10'000'000'000;
  while (!full.empty() && !cancelled_) {
    reactor_.arm(retry_timer_, reactor_.now_ns() + kIntervalNs);
    co_await retry_.wait();
    if (!cancelled_) co_await visit_again(full);
  }
}

Task<void> Recovery::wait() {
  while (!is_done_) co_await done_.wait();
}

Task<Result<Recovery::Outcome>> Recovery::recover(SegmentInfo segment, SegmentTotals& totals) {
  auto trailer = co_await read_segment_trailer(segments_, pool_, segment.id, segment.size_bytes);
  if (trailer) {
    totals.records = trailer->records;
    totals.raw_bytes = trailer->raw_bytes;
    totals.stored_bytes = trailer->stored_bytes;
    totals.sealed_bytes = segment.size_bytes;
    co_return Outcome::kSealed;
  }
  if (trailer.error().kind() != ErrorKind::kCorrupt)
    co_return std::unexpected(std::move(trailer).error());
  CO_TRY_ASSIGN(const Header header, co_await read_header(segment));
  if (header == Header::kForeign)
    co_return fail(ErrorKind::kCorrupt, "its header is of another pool or another number");
  co_return co_await seal(segment, header, totals);
}

Task<Result<Recovery::Header>> Recovery::read_header(SegmentInfo segment) {
  AlignedBuffer bytes(kSegmentHeaderBytes);
  CO_TRY_ASSIGN(const size_t count, co_await segments_.read(segment.id, bytes.bytes(), 0));
  const auto header = decode_segment_header(ConstBytes(bytes.bytes()).first(count));
  if (header) {
    const bool ours = header->pool == pool_ && header->segment == segment.id;
    co_return ours ? Header::kOurs : Header::kForeign;
  }
  if (header.error().kind() == ErrorKind::kUnsupported) co_return std::unexpected(header.error());
  co_return Header::kDamaged;
}

Task<Result<Recovery::Outcome>> Recovery::seal(SegmentInfo segment, Header header,
                                               SegmentTotals& totals) {
  CO_TRY_ASSIGN(SegmentScan scan,
                co_await scan_segment(segments_, pool_, segment.id, segment.size_bytes,
                                      [this] { return cancelled_; }));
  if (scan.records.empty()) {
    // No record ever became durable: it was created ahead, or its first write was torn. More bytes
    // than one write without a header to say whose they are stay where they are.
    if (header == Header::kDamaged && !scan.blank &&
        segment.size_bytes > SegmentWriter::kBatchBytes)
      co_return fail(ErrorKind::kCorrupt, "it holds data but no header and no valid record");
    CO_TRY(co_await segments_.remove(segment.id));
    co_return Outcome::kRemoved;
  }
  for (const RecordEntry& entry : scan.records) {
    totals.raw_bytes += entry.raw_bytes;
    totals.stored_bytes += entry.sectors * kSectorBytes;
  }
  totals.records = scan.records.size();
  const uint64_t end_bytes = scan.end_bytes;
  // Of a first write that landed in part.
  if (header == Header::kDamaged)
    CO_TRY(co_await rewrite_segment_header(segments_, pool_, segment.id));
  CO_TRY_ASSIGN(totals.sealed_bytes,
                co_await seal_segment(segments_, pool_, segment.id, std::move(scan)));
  LOG_INFO("pool: sealed segment {}, which was open, at {} bytes ({} records)", segment.id,
           end_bytes, totals.records);
  co_return Outcome::kSealed;
}

}  // namespace squall
