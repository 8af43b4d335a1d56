// DirectorySegmentStore: the segments of a `file:` pool: each a file STORE/segments/<16 hex>.seg in
// one of several named directories. A directory counts as a store only while its marker file names
// this pool and this store: an empty mount point, or another pool's disk, makes that store
// unavailable (its segments fail with kIo and say so) and leaves the others working. Whether it has
// come back is looked at whenever somebody asks for the stores or for a segment that is not there.
//
// Reads go past the page cache (`direct_reads`), since the host cache above keeps records; a
// segment with unsynced writes is read through it. Writes go through it and become durable with
// sync(). After a failed sync the segment takes no more writes or syncs: what the kernel dropped
// cannot be told, and a second sync that succeeds proves nothing.
//
// One reactor's thread; name operations, truncate and list run on `executor`. No call in flight at
// destruction. `executor` may be shared and outlives the store.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/buffer.h"
#include "base/uuid.h"
#include "engine/executor.h"
#include "engine/handle_cache.h"
#include "engine/segment_store.h"
#include "engine/store_directory.h"
#include "io/file_system.h"
#include "io/reactor.h"

namespace squall {

struct DirectorySegmentStoreOptions {
  bool direct_reads = true;
  size_t open_files_max = 256;
  uint64_t reserve_bytes = 0;  // that each store keeps back, in a file RESERVE
  // Gives every store but the first a thread of its own, so that a disk that hangs holds up
  // nobody else's; unset: all use the executor that they are opened with.
  ExecutorFactory make_executor;
};

class DirectorySegmentStore final : public SegmentStore {
 public:
  // Lists every store's directory. kCorrupt: two stores hold the same segment.
  static Result<std::unique_ptr<DirectorySegmentStore>> open(
      Reactor& reactor, FileSystem& file_system, Executor& executor, const Uuid& pool,
      const std::vector<StoreDirectory>& directories, DirectorySegmentStoreOptions options = {});

  Task<Result<std::vector<SegmentInfo>>> list() override;
  Result<std::vector<StoreInfo>> stores() override;
  Task<Result<void>> create(SegmentId id, const std::string& store) override;
  Task<Result<void>> write(SegmentId id, std::span<const iovec> from, uint64_t offset) override;
  Task<Result<void>> sync(SegmentId id) override;
  Task<Result<size_t>> read(SegmentId id, Bytes to, uint64_t offset) override;
  Task<Result<void>> truncate(SegmentId id, uint64_t size_bytes) override;
  bool can_punch() const override { return can_punch_; }
  // Only whole 4 KiB blocks within the range are given back; the rest of it stays as it is.
  Task<Result<void>> punch(SegmentId id, uint64_t offset, uint64_t length) override;
  Task<Result<void>> remove(SegmentId id) override;
  Task<void> release_reserve(std::string store) override;
  Task<Result<std::string>> quarantine(SegmentId id) override;

 private:
  struct Store {
    std::string name;
    std::string path;
    std::optional<Error> problem;  // set: unavailable
    bool direct_reads = true;
    std::unique_ptr<Executor> own_executor{};
    Executor* executor = nullptr;  // its own, or the shared one
  };
  struct Segment {
    size_t store = 0;
    uint64_t changes = 0;       // begun or ended writes, to tell whether a sync covered them all
    HandleCache::Pin unsynced;  // set: written since the last sync; the file stays open
    bool sync_failed = false;
  };

  DirectorySegmentStore(Reactor& reactor, FileSystem& file_system, Executor& executor,
                        const Uuid& pool, DirectorySegmentStoreOptions options)
      : reactor_(reactor),
        file_system_(file_system),
        executor_(executor),
        pool_(pool),
        options_(options),
        handles_(file_system, options.open_files_max) {}

  Result<void> add_store(const StoreDirectory& directory);
  Result<void> add_segments(size_t store);
  Task<Result<void>> stat_all(size_t store, std::vector<SegmentInfo>& infos);
  void look_again(size_t store);
  void keep_reserve(const Store& store, uint64_t available_bytes);
  StoreInfo info_of(const Store& store);
  std::unexpected<Error> cannot_open(const Error& error, SegmentId id, size_t store) const;
  Result<Segment*> find(SegmentId id);
  Result<Segment*> find_writable(SegmentId id);
  std::string path_of(SegmentId id, size_t store) const;
  std::string describe(SegmentId id, size_t store) const;
  Result<HandleCache::Pin> open_buffered(SegmentId id, size_t store);
  Result<HandleCache::Pin> open_direct(SegmentId id, size_t store);
  void drop_handles(SegmentId id);
  Task<Result<size_t>> read_buffered(SegmentId id, size_t store, Bytes to, uint64_t offset);
  Task<Result<size_t>> read_direct(SegmentId id, size_t store, Bytes to, uint64_t offset);
  AlignedBuffer take_bounce_buffer(size_t size);
  void keep_bounce_buffer(AlignedBuffer buffer);

  Reactor& reactor_;
  FileSystem& file_system_;
  Executor& executor_;
  const Uuid pool_;
  const DirectorySegmentStoreOptions options_;
  HandleCache handles_;
  std::vector<Store> stores_;
  std::unordered_map<SegmentId, Segment> segments_;  // references stay until remove()
  std::vector<AlignedBuffer> bounce_buffers_;
  bool can_punch_ = true;
};

}  // namespace squall
