// SegmentNumbers: hands out segment numbers that no segment of the pool ever had. Takes them from
// the catalog (partition "pool", key "next_segment", a decimal number) in ranges, by compare and
// put; what is left of a range when the daemon ends is never used. One reactor's thread.
#pragma once

#include "base/task.h"
#include "engine/meta_store.h"
#include "format/address.h"
#include "io/sync.h"

namespace squall {

class SegmentNumbers {
 public:
  static constexpr uint64_t kRange = 16;

  // `first_free`: no number below it is handed out, whatever the catalog says (it may be older than
  // the segments, after a restored backup for instance).
  SegmentNumbers(Reactor& reactor, MetaStore& catalog, SegmentId first_free)
      : catalog_(catalog), first_free_(first_free), mutex_(reactor) {}

  Task<Result<SegmentId>> take();

 private:
  Task<Result<void>> take_range();

  MetaStore& catalog_;
  SegmentId first_free_;
  Mutex mutex_;
  SegmentId next_ = 0;
  SegmentId end_ = 0;
};

}  // namespace squall
