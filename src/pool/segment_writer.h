// SegmentWriter: one open segment, from its first record to its footer. It gives out addresses,
// gathers records into batches, writes the batches in order, syncs, and seals.
//
// A record lies in memory until its batch is written; a batch is written when it is full or when a
// sync asks for it. One write is in flight at a time, and independently one sync; a sync that
// returns well covers what had been written when it began, and serves everybody who waits for no
// more than that.
//
// Failures. A write that finds no space changes nothing: the batch stays, whoever waits is told
// kNoSpace, and the next wait tries again. Any other failed write or sync is final: the segment has
// failed, everything in it that was not durable is lost (told once through `on_loss`), and it can
// only be sealed at what was durable. One reactor's thread.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/task.h"
#include "engine/segment_store.h"
#include "format/segment.h"
#include "io/sync.h"

namespace squall {

struct SegmentTotals {
  std::string store;
  uint64_t records = 0;
  uint64_t raw_bytes = 0;     // payloads, decompressed
  uint64_t stored_bytes = 0;  // records as they lie on disk
  uint64_t sealed_bytes = 0;  // the segment's length, footer included; 0: not sealed
};

struct NewRecord {
  RecordKind kind = RecordKind::kChunk;
  Codec codec = Codec::kNone;
  ConstBytes stored;
  uint64_t raw_bytes = 0;
  std::span<const Fingerprint> fingerprints;
};

class SegmentWriter {
 public:
  static constexpr uint64_t kBatchBytes = kMiB;

  struct Options {
    Uuid pool;
    SegmentId id = 0;
    std::string store;
    uint64_t segment_bytes = 0;  // footer included
    std::function<void(SegmentId, const Error&)> on_loss;
  };
  // The segment exists and is empty. `segments` outlives the writer.
  SegmentWriter(Reactor& reactor, SegmentStore& segments, Options options);
  // Nobody waits and nothing is in flight.
  ~SegmentWriter();
  SegmentWriter(const SegmentWriter&) = delete;
  SegmentWriter& operator=(const SegmentWriter&) = delete;

  SegmentId id() const { return options_.id; }
  const std::string& store() const { return options_.store; }
  bool has_failed() const { return failure_.has_value(); }
  bool fits(const NewRecord& record) const;
  // What waits in memory to be written.
  uint64_t unwritten_bytes() const { return failure_ ? 0 : end_ - written_end_; }
  uint64_t used_bytes() const { return end_; }
  SegmentTotals totals() const;
  // What the footer will say. References are good until the next append or suspension.
  const std::vector<RecordEntry>& entries() const { return entries_; }
  const std::vector<Fingerprint>& fingerprints() const { return fingerprints_; }

  // Never suspends and copies. The record must fit, and the segment must not have failed.
  Address append(const NewRecord& record);
  // Until the next batch is written, or the segment has failed. kNoSpace when the disk is full.
  // For a segment with a full batch or a sync requested; returns at once when nothing waits.
  Task<Result<void>> wait_write();
  // Starts making everything appended so far durable; sync() also waits for it.
  void request_sync();
  Task<Result<void>> sync();
  // The record's bytes as they will lie on disk; empty when it is not in memory.
  ConstBytes find_unwritten(Address address) const;

  // Makes everything durable and writes the footer; after a failure, cuts the segment back to what
  // was durable first. A segment without any record is removed. No appends from now on. May be
  // called again after kNoSpace.
  Task<Result<void>> seal();

 private:
  struct Batch {
    AlignedBuffer buffer;
    uint64_t begin = 0;  // offset within the segment, on a 4 KiB boundary
    uint64_t used = 0;
    bool closed = false;  // padded to 4 KiB; takes no more records
    uint64_t end() const { return begin + used; }
  };

  bool back_takes(uint64_t bytes) const;
  Batch& batch_for(uint64_t bytes);
  void close(Batch& batch);
  bool is_write_due() const;
  void start_writing();
  void start_syncing();
  Task<void> write_batches();
  Task<void> sync_once();
  void fail_with(const Error& error);
  Task<Result<void>> cut_to_durable();
  Task<Result<void>> write_footer();

  Reactor& reactor_;
  SegmentStore& segments_;
  Options options_;
  uint64_t pool_seed_;
  std::deque<Batch> batches_;  // the front one is being written, the back one is being filled
  AlignedBuffer spare_;
  std::vector<RecordEntry> entries_;
  std::vector<Fingerprint> fingerprints_;
  uint64_t raw_bytes_ = 0;
  uint64_t stored_bytes_ = 0;
  uint64_t sealed_bytes_ = 0;

  // Offsets within the segment: synced_end_ <= written_end_ <= end_, wanted_end_ <= end_.
  uint64_t end_ = 0;
  uint64_t wanted_end_ = 0;  // somebody waits for durability up to here
  uint64_t written_end_ = 0;
  uint64_t synced_end_ = 0;
  bool writing_ = false;
  bool syncing_ = false;

  std::optional<Error> failure_;
  std::optional<Error> no_space_;
  uint64_t no_space_count_ = 0;
  WaitQueue changed_;
};

}  // namespace squall
