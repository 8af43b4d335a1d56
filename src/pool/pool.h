// Pool: the RecordStore over a pool's engine: compresses and appends records to segments, reads
// them back verified, keeps hot ones in memory, finds what is stored already.
//
// Owned by one reactor's thread. stop() before destruction. `segments` and `catalog` outlive it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/uuid.h"
#include "cache/record_cache.h"
#include "engine/meta_store.h"
#include "engine/segment_store.h"
#include "io/gate.h"
#include "io/sync.h"
#include "pool/append_stream.h"
#include "pool/deduplicator.h"
#include "pool/record_codec.h"
#include "pool/record_store.h"
#include "pool/recovery.h"
#include "pool/segment_numbers.h"

namespace squall {

struct StoreStats {
  std::string store;
  uint64_t segments = 0;
  uint64_t unsealed_segments = 0;  // being written, or not yet gone through after a restart
  uint64_t records = 0;
  uint64_t raw_bytes = 0;     // payloads, decompressed
  uint64_t stored_bytes = 0;  // records as they lie on disk
  uint64_t allocated_bytes = 0;
};

struct PoolStats {
  std::vector<StoreStats> stores;  // all of the engine's, by name
  RecordCacheStats cache;
  uint64_t records_read = 0;   // from segments: cache misses
  uint64_t corrupt_reads = 0;  // that gave kCorrupt
  uint64_t losses = 0;         // segments that failed before all in them was durable
  std::optional<DedupStats> dedup;
};

class Pool final : public RecordStore, private DedupSource {
 public:
  static constexpr uint64_t kMinSegmentBytes = 256 * kKiB;

  struct Config {
    Uuid id;  // of the pool; seeds every checksum
    size_t cache_bytes = 256 * kMiB;
    uint64_t segment_bytes = kGiB;  // footer included
    Codec codec = Codec::kLz4;
    std::string default_store;  // empty: the engine's first
    // Memory of the sparse index; 0: nothing is deduplicated.
    uint64_t dedup_index_bytes = 0;
    uint32_t dedup_first_rate = 8;  // one fingerprint of so many is in the index, while it has room
    Result<void> validate() const;
  };

  // Quick whatever a crash left behind: segments left open are sealed in the background.
  static Task<Result<std::unique_ptr<Pool>>> open(Reactor& reactor, SegmentStore& segments,
                                                  MetaStore& catalog, Config config);
  ~Pool() override;

  Task<Result<Address>> append(RecordKind kind, ConstBytes payload, const Placement& placement,
                               std::span<const Fingerprint> fingerprints = {}) override;
  AppendMark mark() const override { return {losses_}; }
  AppendMark mark(const Placement& placement) const override;
  Task<Result<void>> sync(AppendMark since = {}) override;
  Task<Result<PayloadRef>> read(RecordKind kind, Address address) override;
  PayloadRef read_cached(Address address) override { return cache_.find(address); }

  Deduplicator* deduplicator() override { return dedup_.get(); }

  // Until every segment left open by a crash is sealed (or has turned out to be unreadable).
  Task<void> wait_recovered() { return recovery_.wait(); }
  bool is_recovered() const { return recovery_.is_done(); }
  Task<Result<PoolStats>> stats();

  // For garbage collection (pool/collector.h).
  Epochs& epochs() { return epochs_; }
  // Ends the segments being written that hold at least so much; appends go to new ones.
  void retire_segments(uint64_t used_bytes_min);
  // Until every segment that has ended is sealed, or waits for space to be.
  Task<void> wait_sealing();
  std::vector<SegmentId> sealed_segments() const;
  bool has_segment(SegmentId id) const;
  uint64_t appended_bytes() const { return appended_bytes_; }  // since the start, as stored
  Task<Result<SegmentFooter>> load_footer(SegmentId id, uint64_t segment_bytes);
  // Decides on deduplication hits; null: everything may be referred to.
  void set_reference_guard(std::function<bool(Address)> guard) {
    if (dedup_ != nullptr) dedup_->set_may_reference(std::move(guard));
  }
  // A record's bytes are gone: no copy in memory may serve it any more.
  void forget(Address address);
  // What a sealed segment holds from now on; nullopt: the segment is gone.
  void set_segment_totals(SegmentId id, std::optional<SegmentTotals> totals);
  const SegmentTotals& segment_totals(SegmentId id) const { return ended_.at(id).totals; }

  // Seals what is open. Calls that come later give kCancelled.
  Task<void> stop();

 private:
  struct Flight;  // a read in progress, shared by all who want the same record
  struct SegmentState {
    SegmentTotals totals;
    bool sealed = false;
  };

  Pool(Reactor& reactor, SegmentStore& segments, MetaStore& catalog, Config config,
       const std::vector<SegmentInfo>& found);
  Result<AppendStream*> stream_for(const std::string& store);
  ConstBytes find_unwritten(Address address) const;
  Task<Result<PayloadRef>> fetch(Address address);
  Task<Result<PayloadRef>> read_segment(Address address);
  Task<Result<PayloadRef>> read_verified(Address address);
  Result<PayloadRef> decode(Address address, ConstBytes stored);
  void keep(Address address, const PayloadRef& payload);
  Task<void> recover(std::vector<SegmentInfo> found);

  // DedupSource, but for the first in pool_dedup.cc.
  const std::string& store_of(const Placement& placement) const override {
    return placement.store.empty() ? config_.default_store : placement.store;
  }
  Task<Result<FooterSlice::Content>> read_footer(SegmentId segment, uint64_t first) override;
  Task<Result<PayloadRef>> read_stored(Address chunk) override;
  Result<FooterSlice::Content> open_footer(const SegmentWriter& writer, uint64_t first) const;
  Task<Result<SegmentTrailer>> trailer_of(SegmentId segment);
  Task<void> index_footers(std::vector<SegmentId> segments);

  Reactor& reactor_;
  SegmentStore& segments_;
  Config config_;
  uint64_t pool_seed_;
  RecordCodec codec_;
  RecordCache cache_;
  SegmentNumbers numbers_;
  std::map<std::string, AppendStream> streams_;  // by store, made at the first append
  std::map<SegmentId, SegmentState> ended_;      // segments that are not being written
  std::unordered_map<Address, std::shared_ptr<Flight>> flights_;
  Recovery recovery_;
  std::unique_ptr<Deduplicator> dedup_;
  std::optional<SegmentTrailer> last_trailer_;  // of the footer read last
  struct Losses {
    uint64_t count = 0;
    std::optional<Error> last;
  };
  uint64_t losses_ = 0;  // in all stores
  std::optional<Error> last_loss_;
  std::map<std::string, Losses> losses_by_store_;
  uint64_t appended_bytes_ = 0;
  uint64_t records_read_ = 0;
  uint64_t corrupt_reads_ = 0;
  Gate gate_;
};

}  // namespace squall
