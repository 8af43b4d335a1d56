// MemoryRecordStore: a RecordStore in memory for tests of what stands on one. It assigns addresses
// as a pool does (never twice, segment after segment), keeps every payload, counts calls, suspends
// at seeded moments, so that coroutines really interleave, and can be told to fail a call. The
// cache it models is seeded too: a payload is found in memory with a given chance. One reactor's
// thread.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/random.h"
#include "io/reactor.h"
#include "pool/record_store.h"

namespace squall {

class MemoryRecordStore : public RecordStore {
 public:
  struct Options {
    uint64_t seed = 1;
    double suspend_chance = 0.5;  // of every append, sync and read
    double cached_chance = 0.5;   // that read_cached finds a record
  };
  struct Counts {
    uint64_t appends = 0;
    uint64_t reads = 0;         // that read_cached did not answer
    uint64_t cached_reads = 0;  // that it did
    uint64_t syncs = 0;
  };

  MemoryRecordStore(Reactor& reactor, Options options)
      : reactor_(reactor), options_(options), random_(options.seed) {}

  Task<Result<Address>> append(RecordKind kind, ConstBytes payload, const Placement& placement,
                               std::span<const Fingerprint> fingerprints = {}) override;
  AppendMark mark() const override { return {losses_}; }
  AppendMark mark(const Placement&) const override { return {losses_}; }  // it is one store
  Task<Result<void>> sync(AppendMark since = {}) override;
  Task<Result<PayloadRef>> read(RecordKind kind, Address address) override;
  PayloadRef read_cached(Address address) override;

  const Counts& counts() const { return counts_; }
  void reset_counts() { counts_ = {}; }
  // The n-th append, read or sync from now on fails (1: the next one); 0: none. A failed append or
  // sync loses every record that was not durable yet, as RecordStore says.
  void fail_call(uint64_t n) { calls_until_failure_ = n; }
  // Whether a call has failed since clear_failure().
  bool has_failed() const { return has_failed_; }
  void clear_failure() { has_failed_ = false; }
  // Replaces a stored payload, as a fault that a checksum does not show would.
  void overwrite(Address address, ConstBytes payload);
  ConstBytes payload(Address address) const;
  size_t record_count() const { return records_.size(); }
  uint64_t payload_bytes() const { return payload_bytes_; }

 private:
  struct Record {
    RecordKind kind;
    PayloadRef payload;
  };

  Result<Record> find(RecordKind kind, Address address) const;
  Address assign(size_t payload_bytes);
  void lose_undurable();
  bool must_fail();

  Reactor& reactor_;
  Options options_;
  Random random_;
  std::unordered_map<Address, Record> records_;
  std::vector<Address> undurable_;
  uint64_t losses_ = 0;
  uint64_t next_segment_ = 1;
  uint64_t next_sector_ = 1;
  uint64_t payload_bytes_ = 0;
  uint64_t calls_until_failure_ = 0;
  bool has_failed_ = false;
  Counts counts_;
};

}  // namespace squall
