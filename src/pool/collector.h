// Collector: garbage collection of a pool (design note at the head of collector.cc): finds what no
// root reaches any more and gives its space back. Runs on request and by itself in the background,
// one collection at a time. Owned by one reactor's thread; stop() before destruction; pool,
// segments, catalog and source outlive it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/meta_store.h"
#include "engine/segment_store.h"
#include "io/gate.h"
#include "io/sync.h"
#include "pool/compaction.h"
#include "pool/live_source.h"
#include "pool/marks.h"
#include "pool/pacer.h"
#include "pool/pool.h"

namespace squall {

struct CollectorConfig {
  bool background = true;
  // Of what the background reads and writes; 0: no limit. Not kept to while garbage comes faster
  // than it is collected.
  uint64_t rate_bytes_per_s = 64 * kMiB;
  uint64_t interval_ms = 500;  // how often the background looks whether it is time
  // It is time when so much was appended since the last collection began: the greater of a size and
  // a part of what was live then, in percent.
  uint64_t appended_min_bytes = 32 * kMiB;
  uint64_t appended_min_percent = 5;
  // Removals alone are reason enough after so long.
  uint64_t removal_age_ms = 30'000;
  // Sparse segments are compacted when the pool holds more than this part of what is live.
  uint64_t compact_percent = 115;
  uint64_t compact_slack_bytes = 4 * kMiB;  // and at least by so much
};

// What a collection found and did. Bytes are of records as they lie on disk unless said otherwise.
struct CollectionReport {
  uint64_t segments = 0;  // that took part: the sealed ones
  uint64_t records = 0;
  uint64_t live_records = 0;
  uint64_t live_bytes = 0;     // of records in part live, their live part
  uint64_t held_bytes = 0;     // what the pool takes on disk at the end
  uint64_t freed_bytes = 0;    // given back to the disks
  uint64_t freed_records = 0;  // that nothing reached
  uint64_t removed_segments = 0;
  uint64_t moved_bytes = 0;  // copied out of sparse segments; their space comes with the next one
  uint64_t unreadable_segments = 0;  // no valid footer: nothing of them is ever freed
  uint64_t duration_ms = 0;
  int64_t started_s = 0;  // seconds since 1970
};

struct CollectorStatus {
  bool running = false;
  std::string phase;     // while running: waiting, reading, marking, sweeping, moving
  uint64_t percent = 0;  // of the phase
  uint64_t ticket = 0;   // of the last request that is done
  bool ended = false;    // a collection has ended; what follows is about the last
  std::string error;     // empty: it went well
  CollectionReport last;
};

class Collector {
 public:
  Collector(Reactor& reactor, Pool& pool, SegmentStore& segments, MetaStore& catalog,
            LiveSource& source, CollectorConfig config);
  ~Collector();

  // Begins to look after the pool.
  void start();
  // Wants a collection that begins from now on, at full speed; done when status().ticket has
  // reached what this returns.
  uint64_t request();
  // request() and wait. The error of a collection is returned, and found in status().
  Task<Result<CollectionReport>> collect();
  // Ends the running collection, and the requests that wait, soon. What was freed stays freed.
  void cancel();
  CollectorStatus status() const;
  Task<void> stop();

 private:
  enum class Phase : uint8_t { kIdle, kWaiting, kReading, kMarking, kSweeping, kMoving };

  Task<void> run();
  bool is_due() const;
  uint64_t appended_bytes() const;
  Task<void> run_one();
  Task<Result<void>> collect_and_compact();
  Task<Result<void>> collect_once();
  Task<Result<void>> wait_recovered();
  Task<Result<void>> load_segments();
  Task<Result<void>> barrier();
  Task<Result<void>> raise_version();
  bool may_reference(Address address);
  Task<Result<void>> sweep();
  Task<Result<void>> sweep_segment(SegmentId id, const SegmentMarks& marks);
  Task<Result<void>> remove_segment(SegmentId id, const SegmentMarks& marks);
  Task<Result<void>> punch(SegmentId id, const SegmentMarks& marks,
                           const std::vector<ByteRange>& ranges, uint64_t needed);
  Task<Result<void>> forget_dead(SegmentId id, const SegmentMarks& marks);
  Task<Result<uint64_t>> compact();
  Task<Result<void>> measure();
  uint64_t enough_bytes() const;
  bool watch();
  void enter(Phase phase, uint64_t done = 0, uint64_t all = 1);

  Reactor& reactor_;
  Pool& pool_;
  SegmentStore& segments_;
  MetaStore& catalog_;
  LiveSource& source_;
  CollectorConfig config_;

  Phase phase_ = Phase::kIdle;
  uint64_t percent_ = 0;
  Pacer pacer_;
  std::unique_ptr<Marks> marks_;
  std::map<SegmentId, uint64_t> allocated_;      // bytes on disk, when the collection began
  std::vector<CompactionCandidate> candidates_;  // segments that were swept and hold something
  bool condemned_ = false;                       // what is unmarked is dead from now on
  CollectionReport report_;
  bool ended_ = false;
  CollectionReport last_;
  std::optional<Error> last_error_;

  uint64_t requested_ = 0;  // tickets
  uint64_t served_ = 0;
  bool is_thorough_ = false;      // the running collection was requested
  uint64_t appended_before_ = 0;  // pool bytes appended when the last collection began
  uint64_t removals_before_ = 0;  // source removals then
  uint64_t last_began_ns_ = 0;
  bool is_hurried_ = false;  // it goes at full speed
  bool cancelled_ = false;   // the running collection
  bool stopping_ = false;
  WaitQueue wanted_;
  WaitQueue done_;
  Timer timer_;
  Gate gate_;
};

}  // namespace squall
