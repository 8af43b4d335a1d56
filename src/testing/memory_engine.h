// An engine in memory: SegmentStore and MetaStore for tests of whatever stands on them. Complete
// implementations, plus what a test wants from a disk: lose what was not synced, fail, fill up,
// rot. One reactor's thread; every call suspends at least once, as real ones do. The content stays
// when the user of the store goes: destroy it, crash(), build it again, and it has restarted.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/random.h"
#include "engine/meta_store.h"
#include "engine/segment_store.h"
#include "io/reactor.h"

namespace squall::testing {

// What a power cut leaves of the changes since the last sync.
enum class Loss {
  kAll,      // nothing
  kNone,     // everything
  kWrites,   // some of the writes, whatever their order
  kSectors,  // some sectors of some of the writes
};

class MemorySegmentStore : public SegmentStore {
 public:
  enum class Call { kCreate, kWrite, kSync, kRead, kTruncate, kPunch, kRemove };

  explicit MemorySegmentStore(Reactor& reactor, std::vector<std::string> stores = {"main"});

  Task<Result<std::vector<SegmentInfo>>> list() override;
  Result<std::vector<StoreInfo>> stores() override;
  Task<Result<void>> create(SegmentId id, const std::string& store) override;
  Task<Result<void>> write(SegmentId id, std::span<const iovec> from, uint64_t offset) override;
  Task<Result<void>> sync(SegmentId id) override;
  Task<Result<size_t>> read(SegmentId id, Bytes to, uint64_t offset) override;
  Task<Result<void>> truncate(SegmentId id, uint64_t size_bytes) override;
  bool can_punch() const override { return true; }
  Task<Result<void>> punch(SegmentId id, uint64_t offset, uint64_t length) override;
  Task<Result<void>> remove(SegmentId id) override;
  Task<void> release_reserve(std::string) override { co_return; }
  Task<Result<std::string>> quarantine(SegmentId id) override;

  // The next call of this kind fails so.
  void fail_next(Call call, int os_errno) { failures_[call] = os_errno; }
  // After so many more creates, writes, syncs, truncates and removes the power is out: the next
  // call and every later one fails with EIO, until crash(). A write that is cut so may still land
  // as far as crash() lets any write land that was not synced.
  void cut_after(uint64_t changes) { changes_left_ = changes + 1; }
  bool is_cut() const { return changes_left_ == 0; }
  // Power comes back: what was not synced is lost as `loss` says.
  void crash(Loss loss, Random& random);
  // Writes beyond this, over all segments, find no space.
  void set_capacity_bytes(uint64_t bytes) { capacity_bytes_ = bytes; }
  void flip_bit(SegmentId id, uint64_t offset, unsigned bit = 0);

  uint64_t count(Call call) const;
  std::vector<std::byte> content(SegmentId id) const { return segments_.at(id).bytes; }
  void put(SegmentId id, const std::string& store, std::vector<std::byte> content);
  void clear() { segments_.clear(); }
  bool contains(SegmentId id) const { return segments_.contains(id); }

 private:
  struct Change {
    uint64_t offset = 0;
    std::optional<std::vector<std::byte>> data;  // nullopt: truncate to `offset`
  };
  struct Segment {
    std::string store;
    std::vector<std::byte> bytes;
    std::vector<std::byte> durable;
    std::vector<Change> unsynced;
  };
  Task<Result<void>> begin(Call call, SegmentId id);
  Result<Segment*> find(SegmentId id);
  uint64_t used_bytes() const;
  static void apply(const Change& change, std::vector<std::byte>& bytes);
  static void apply_sectors(const Change& change, std::vector<std::byte>& bytes, Random& random);

  Reactor& reactor_;
  std::vector<std::string> stores_;
  std::map<SegmentId, Segment> segments_;
  std::map<Call, int> failures_;
  std::map<Call, uint64_t> counts_;
  uint64_t changes_left_ = ~uint64_t{0};
  uint64_t capacity_bytes_ = ~uint64_t{0};
};

class MemoryMetaStore final : public MetaStore {
 public:
  explicit MemoryMetaStore(Reactor& reactor) : reactor_(reactor) {}

  Task<Result<std::optional<std::string>>> get(std::string partition, std::string key) override;
  Task<Result<std::vector<MetaEntry>>> list(std::string partition_prefix,
                                            std::string key_prefix) override;
  Task<Result<void>> commit(MetaTransaction transaction) override;

  void clear() { entries_.clear(); }
  // The next commit fails so, and writes nothing.
  void fail_next_commit(int os_errno) { commit_failure_ = os_errno; }

 private:
  Reactor& reactor_;
  std::map<std::pair<std::string, std::string>, std::string> entries_;
  int commit_failure_ = 0;
};

}  // namespace squall::testing
