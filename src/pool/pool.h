// Pool: the RecordStore over a pool's engine: compresses and appends records to segments, reads
// them back verified, keeps hot ones in memory.
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
};

class Pool final : public RecordStore {
 public:
  static constexpr uint64_t kMinSegmentBytes = 256 * kKiB;

  struct Config {
    Uuid id;  // of the pool; seeds every checksum
    size_t cache_bytes = 256 * kMiB;
    uint64_t segment_bytes = kGiB;  // footer included
    Codec codec = Codec::kLz4;
    std::string default_store;  // empty: the engine's first
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

  bool may_reference(Address address) override {
    return reference_guard_ == nullptr || reference_guard_(address);
  }

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
  Task<Result<SegmentFooter>> read_footer(SegmentId id, uint64_t segment_bytes);
  // Answers may_reference(); null: everything may be referred to.
  void set_reference_guard(std::function<bool(Address)> guard) {
    reference_guard_ = std::move(guard);
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
  const std::string& store_of(const Placement& placement) const {
    return placement.store.empty() ? config_.default_store : placement.store;
  }
  Result<AppendStream*> stream_for(const std::string& store);
  ConstBytes find_unwritten(Address address) const;
  Task<Result<PayloadRef>> fetch(Address address);
  Task<Result<PayloadRef>> read_segment(Address address);
  Result<PayloadRef> decode(Address address, ConstBytes stored);
  void keep(Address address, const PayloadRef& payload);
  Task<void> recover(std::vector<SegmentInfo> found);

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
  std::function<bool(Address)> reference_guard_;
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
