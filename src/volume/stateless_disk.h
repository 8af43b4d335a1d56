// StatelessDisk: a volume whose writes are kept in scratch files and never reach the pool: identity
// mapping, a byte of state per 4 KiB block in an mmapped map beside the data, no journal, no index,
// no commit. What was acknowledged outlives the daemon (page cache, tmpfs, shared mapping) and is
// forgotten with the volume or at the host's next boot. Data goes to the fast directory (tmpfs)
// while the host's budget lasts, then to the overflow directory.
// One reactor's thread.
#pragma once

#include <map>
#include <set>
#include <string>

#include "base/error.h"
#include "index/block_index.h"
#include "io/file_system.h"
#include "io/gate.h"
#include "io/range_lock.h"
#include "pool/record_store.h"
#include "volume/disk.h"

namespace squall {

struct ScratchConfig {
  std::string fast_directory;  // tmpfs; empty: none
  std::string overflow_directory;
  uint64_t fast_budget_bytes = 1 * kGiB;
  std::string boot_id;  // scratch of another boot is discarded
};

// The host's scratch space. Shared by its stateless disks.
struct Scratch {
  Reactor& reactor;
  FileSystem& files;
  RecordStore& records;
  ScratchConfig config;
  uint64_t fast_used_bytes = 0;                      // of all volumes, open or not
  std::map<uint64_t, uint64_t> closed_fast_bytes{};  // by volume id; of those that are not open
};

// At start: counts what the volumes `known` have in the fast directory, and deletes the files of
// another boot and of volumes that exist no more.
Result<void> take_stock(Scratch& scratch, const std::set<uint64_t>& known);

class StatelessDisk : public WritableDisk {
 public:
  // Continues the scratch of this boot if there is one, else starts empty over `base`.
  static Result<std::shared_ptr<StatelessDisk>> open(Scratch& scratch, uint64_t volume_id,
                                                     IndexRoot base, uint64_t size_bytes);
  // Deletes the scratch files of a volume that is not open.
  static void forget(Scratch& scratch, uint64_t volume_id);
  ~StatelessDisk() override;

  uint64_t size_bytes() const override { return size_bytes_; }
  bool has_write_cache() const override { return true; }
  Task<Result<void>> read(uint64_t offset, Bytes to) override;
  Task<Result<void>> read_sparse(uint64_t offset, Bytes to,
                                 std::vector<DiskExtent>& extents) override;
  Task<Result<void>> status(uint64_t offset, uint64_t length, size_t max_extents,
                            std::vector<DiskExtent>& extents) override;
  Task<Result<void>> prefetch(uint64_t offset, uint64_t length) override;
  Task<Result<void>> write(uint64_t offset, ConstBytes from, bool fua) override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, bool fua) override;
  Task<Result<void>> trim(uint64_t offset, uint64_t length, bool fua) override;
  Task<Result<void>> flush() override;

  Task<Result<void>> resize(uint64_t size_bytes);
  // A base that reads the same.
  void set_base(IndexRoot base) { base_ = base; }
  Task<void> close();
  uint64_t scratch_bytes() const;

  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;

 private:
  enum State : uint8_t { kBase = 0, kFast = 1, kOverflow = 2, kZero = 3 };
  struct Run {
    uint64_t begin;  // bytes
    uint64_t end;
    State state;
  };

  StatelessDisk(Scratch& scratch, uint64_t volume_id, IndexRoot base, uint64_t size_bytes);
  Result<void> open_files();
  Result<void> map_states(uint64_t size_bytes);
  State state(uint64_t block) const { return static_cast<State>(map_[kMapHeader + block]); }
  void set_state(uint64_t block, State state);
  std::vector<Run> runs(uint64_t offset, uint64_t length, size_t max_runs) const;
  State place_for(uint64_t block);
  int handle(State state) const { return state == kFast ? fast_ : overflow_; }
  Task<Result<void>> write_block_part(uint64_t offset, ConstBytes from);
  Result<void> write_blocks(uint64_t offset, ConstBytes from);
  Task<Result<void>> zero_blocks(uint64_t first, uint64_t end);

  static constexpr uint64_t kMapHeader = 4096;

  Scratch& scratch_;
  uint64_t volume_id_;
  IndexRoot base_;
  uint64_t size_bytes_;
  int fast_ = -1;
  int overflow_ = -1;
  int map_handle_ = -1;
  Bytes map_;
  uint64_t fast_blocks_ = 0;
  uint64_t overflow_blocks_ = 0;
  RangeLock writes_;
  Gate gate_;
};

}  // namespace squall
