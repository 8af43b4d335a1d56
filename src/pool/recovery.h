// Recovery: what happens after open() to segments that were there before: counts those that are
// sealed, seals those that a crash left open. Runs in the background; one reactor's thread.
#pragma once

#include <functional>
#include <vector>

#include "base/task.h"
#include "engine/segment_store.h"
#include "format/segment.h"
#include "io/sync.h"
#include "pool/segment_writer.h"

namespace squall {

class Recovery {
 public:
  // `on_segment` hears of every segment once it is done; `sealed` is false for one that stays
  // without footer (its disk fails, or it is another pool's). Not of those it removes.
  using OnSegment = std::function<void(SegmentId, SegmentTotals, bool sealed)>;

  Recovery(Reactor& reactor, SegmentStore& segments, Uuid pool, OnSegment on_segment)
      : segments_(segments), pool_(pool), on_segment_(std::move(on_segment)), done_(reactor) {}

  // Goes through `found`; at most once.
  Task<void> run(std::vector<SegmentInfo> found);
  // Makes run() end soon; await wait() afterwards.
  void cancel() { cancelled_ = true; }
  // Until run() has ended.
  Task<void> wait();
  bool is_done() const { return is_done_; }

 private:
  enum class Header { kOurs, kForeign, kDamaged };
  enum class Outcome { kSealed, kLeftOpen, kRemoved };
  Task<Result<Outcome>> recover(SegmentInfo segment, SegmentTotals& totals);
  Task<Result<Outcome>> seal(SegmentInfo segment, Header header, SegmentTotals& totals);
  Task<Result<Header>> read_header(SegmentInfo segment);

  SegmentStore& segments_;
  Uuid pool_;
  OnSegment on_segment_;
  bool cancelled_ = false;
  bool is_done_ = false;
  WaitQueue done_;
};

}  // namespace squall
