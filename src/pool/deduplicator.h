// Deduplicator: finds blocks of incoming data that the pool already stores (design decision 7).
//
// The sparse index says which neighbourhoods of which footers resemble the data; those are loaded
// (a bounded number stays in memory), compared in full, and runs of at least kRunBlocksMin blocks
// are looked for in them. A run becomes a hit only after the stored chunk was read and its bytes
// were found equal. Whatever goes wrong on the way, a segment that is gone, a record that was freed
// or is damaged, a footer that lies, is a miss and a counter, never an error.
//
// One reactor's thread. Calls of find() may overlap. `source` outlives it.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/task.h"
#include "cache/payload.h"
#include "io/reactor.h"
#include "pool/fingerprint.h"
#include "pool/footer_slice.h"
#include "pool/record_store.h"
#include "pool/sparse_index.h"

namespace squall {

// Where a deduplicator looks things up. Errors are expected and told to nobody.
class DedupSource {
 public:
  virtual ~DedupSource() = default;
  // The name of the store that a placement means.
  virtual const std::string& store_of(const Placement& placement) const = 0;
  // The lines [first, first + FooterSlice::kRecords) of a segment's table, as far as there are any,
  // with their fingerprints; kNotFound for a segment that must not be referred to.
  virtual Task<Result<FooterSlice::Content>> read_footer(SegmentId segment, uint64_t first) = 0;
  // The record as it is stored now, past any cache, verified.
  virtual Task<Result<PayloadRef>> read_stored(Address chunk) = 0;
};

struct DedupStats {
  uint64_t blocks_seen = 0;  // 4 KiB each, zero blocks not counted
  uint64_t blocks_shared = 0;
  uint64_t runs_shared = 0;
  // Runs that were found by their fingerprints and not used.
  uint64_t runs_unreadable = 0;  // the chunk is gone or damaged
  uint64_t runs_different = 0;   // its bytes differ
  uint64_t runs_refused = 0;     // it was about to be freed
  uint64_t footer_reads = 0;
  SparseIndex::Stats index;
  uint64_t slice_bytes = 0;     // neighbourhoods held in memory
  bool index_complete = false;  // every segment that was there at the start is in the index
};

class Deduplicator {
 public:
  static constexpr uint32_t kRunBlocksMin = 4;
  static constexpr uint32_t kWindowBlocks = 64;  // a good length for find(): 256 KiB
  static constexpr size_t kSlicesMax = 256;      // held in memory: about 14 MiB

  // `count` blocks of the data, from `first` on, equal those from `chunk_block` on of `chunk`.
  struct Hit {
    uint32_t first = 0;
    uint32_t count = 0;
    Address chunk;
    uint32_t chunk_block = 0;
    bool chunk_goes_on = false;  // has blocks beyond: more data might continue the run
    uint64_t version = 0;        // raised by forget()
  };

  Deduplicator(Reactor& reactor, DedupSource& source, SparseIndex::Config index);
  ~Deduplicator();
  Deduplicator(const Deduplicator&) = delete;
  Deduplicator& operator=(const Deduplicator&) = delete;

  // Of one block of incoming data.
  Fingerprint fingerprint(ConstBytes block) {
    ++stats_.blocks_seen;
    return fingerprinter_(block);
  }

  // The runs of `blocks` that are stored already: ascending, not overlapping. `blocks` is whole
  // blocks without zero blocks, `fingerprints` theirs; both stay the caller's until it returns. The
  // caller appends and syncs with `placement`: what is found is durable after its next sync().
  Task<std::vector<Hit>> find(ConstBytes blocks, std::span<const Fingerprint> fingerprints,
                              Placement placement);
  // To be asked for each hit right before it is used: no suspension between this answer and the
  // moment at which those who free records can see the reference.
  bool may_use(const Hit& hit);

  // A chunk has become line `record` of a segment's table.
  void add(SegmentId segment, uint64_t record, std::span<const Fingerprint> fingerprints);
  // Nothing in this segment may be referred to any more; hits found before are void, all of them.
  void forget(SegmentId segment);
  // Asked by may_use(); false refuses a reference to a chunk that is being freed. Whoever answers
  // true takes note that the chunk is in use.
  void set_may_reference(std::function<bool(Address)> may_reference) {
    may_reference_ = std::move(may_reference);
  }

  void set_index_complete() { stats_.index_complete = true; }
  DedupStats stats() const;

 private:
  struct SliceKey {
    SegmentId segment;
    uint64_t number;  // of its first line, divided by kRecords
    bool operator==(const SliceKey&) const = default;
  };
  struct SliceKeyHash {
    size_t operator()(const SliceKey& key) const noexcept {
      return (key.segment << 16 ^ key.number) * 0x9e3779b97f4a7c15ULL;
    }
  };
  using SliceRef = std::shared_ptr<FooterSlice>;
  struct Held {
    SliceKey key;
    SliceRef slice;
  };
  using HeldList = std::list<Held>;
  struct Prediction {
    SliceKey key;
    uint32_t votes = 0;
    uint64_t last_record = 0;  // of those voted for, within the slice
  };
  struct Candidate;
  using Candidates = std::vector<Candidate>;

  std::vector<Prediction> predict(std::span<const Fingerprint> fingerprints) const;
  Task<std::vector<Held>> gather(std::span<const Fingerprint> fingerprints,
                                 const std::string& store);
  SliceRef use(SliceKey key);
  Task<SliceRef> load(SliceKey key);
  void hold(SliceKey key, SliceRef slice);
  static Candidates match(std::span<const Fingerprint> fingerprints,
                          const std::vector<Held>& slices);
  Task<void> verify_all(ConstBytes blocks, Candidates& candidates);
  Task<Result<void>> verify(ConstBytes blocks, std::span<Candidate> same_chunk);
  Task<void> read_ahead(const Candidates& candidates);

  Reactor& reactor_;
  DedupSource& source_;
  SparseIndex index_;
  Fingerprinter fingerprinter_;
  HeldList held_;  // the latest used first
  std::unordered_map<SliceKey, HeldList::iterator, SliceKeyHash> held_by_key_;
  std::function<bool(Address)> may_reference_;
  uint64_t version_ = 0;
  DedupStats stats_;
};

}  // namespace squall
