// AppendStream: the append side of one named store: its open segment, the one prepared to follow
// it, and those that are being sealed. One reactor's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/task.h"
#include "engine/segment_store.h"
#include "io/gate.h"
#include "io/sync.h"
#include "pool/segment_numbers.h"
#include "pool/segment_writer.h"

namespace squall {

class AppendStream {
 public:
  // How much may wait in memory to be written before an append waits too.
  static constexpr uint64_t kUnwrittenMaxBytes = 4 * kMiB;

  struct Options {
    Uuid pool;
    std::string store;
    uint64_t segment_bytes = 0;
    // Records of this segment that were not durable are gone.
    std::function<void(SegmentId, const Error&)> on_loss;
    // A chunk with fingerprints has become line `entry` of a segment's table.
    std::function<void(SegmentId, uint64_t entry, std::span<const Fingerprint>)> on_chunk;
    // A segment ended; it is sealed unless its sealing failed.
    std::function<void(SegmentId, SegmentTotals, bool sealed)> on_end;
  };
  // `segments` and `numbers` outlive the stream.
  AppendStream(Reactor& reactor, SegmentStore& segments, SegmentNumbers& numbers, Options options);

  // The record's bytes and fingerprints are copied before the first suspension.
  Task<Result<Address>> append(NewRecord record);
  // Starts making everything appended so far durable; sync() also waits for it.
  void request_sync();
  Task<Result<void>> sync();
  // A record's bytes while they are in memory only; empty otherwise.
  ConstBytes find_unwritten(Address address) const;
  // Ends the segment being written if it holds at least so much (bytes, header included).
  void retire(uint64_t used_bytes_min);
  // Until what has ended is sealed, or waits for space to be.
  Task<void> wait_sealing();
  // The writer of a segment that is not sealed yet; null otherwise.
  const SegmentWriter* find_open(SegmentId segment) const;
  // The segments being written or sealed.
  void for_each_open(const std::function<void(SegmentId, const SegmentTotals&)>& visit) const;
  // Seals what is open. No appends or syncs are running or come later.
  Task<void> stop();

 private:
  using WriterRef = std::shared_ptr<SegmentWriter>;

  bool has_segment_for(const NewRecord& record) const;
  bool is_congested() const;
  bool can_append(const NewRecord& record) const;
  WriterRef oldest_unwritten() const;
  Address append_now(const NewRecord& record);
  Task<Result<void>> make_room(const NewRecord& record);
  void retire_current();
  void start_preparing();
  Task<void> prepare_next();
  Task<Result<WriterRef>> create_segment();
  Task<void> close_segment(WriterRef writer);

  Reactor& reactor_;
  SegmentStore& segments_;
  SegmentNumbers& numbers_;
  Options options_;
  WriterRef current_;
  WriterRef next_;                  // empty, prepared ahead
  std::vector<WriterRef> closing_;  // being sealed
  size_t without_space_ = 0;        // of those, that wait for space
  bool preparing_ = false;
  std::optional<Error> prepare_error_;  // of the last attempt
  bool stopping_ = false;
  WaitQueue prepared_;
  WaitQueue retry_closing_;
  WaitQueue closing_changed_;
  Gate background_;
};

}  // namespace squall
