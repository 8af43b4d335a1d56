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
  // without footer (its disk fails or is full, or it is another pool's). Not of those it removes.
  // One whose disk was full is tried again from time to time, and heard of again once it is sealed.
  using OnSegment = std::function<void(SegmentId, SegmentTotals, bool sealed)>;

  Recovery(Reactor& reactor, SegmentStore& segments, Uuid pool, OnSegment on_segment)
      : reactor_(reactor),
        segments_(segments),
        pool_(pool),
        on_segment_(std::move(on_segment)),
        done_(reactor),
        retry_(reactor) {
    retry_timer_.context = this;
    retry_timer_.on_expire = [](Timer& timer) {
      static_cast<Recovery*>(timer.context)->retry_.wake_all();
    };
  }

  // Goes through `found`; at most once.
  Task<void> run(std::vector<SegmentInfo> found);
  // Makes run() end soon; await wait() afterwards.
  void cancel();
  // Until run() has gone through all of them once.
  Task<void> wait();
  bool is_done() const { return is_done_; }

 private:
  enum class Header { kOurs, kForeign, kDamaged };
  enum class Outcome { kSealed, kLeftOpen, kRemoved };
  Task<bool> visit(SegmentInfo segment);
  Task<void> visit_again(std::vector<SegmentInfo>& full);
  Task<void> retry(std::vector<SegmentInfo> full);
  Task<Result<Outcome>> recover(SegmentInfo segment, SegmentTotals& totals);
  Task<Result<Outcome>> seal(SegmentInfo segment, Header header, SegmentTotals& totals);
  Task<Result<Header>> read_header(SegmentInfo segment);

  Reactor& reactor_;
  SegmentStore& segments_;
  Uuid pool_;
  OnSegment on_segment_;
  bool cancelled_ = false;
  bool is_done_ = false;
  WaitQueue done_;
  WaitQueue retry_;
  Timer retry_timer_;
};

}  // namespace squall
