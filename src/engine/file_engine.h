// The `file:` engine: a pool in a directory.
//
//   DIR/squall-pool    identity (format/pool_identity.h); without it DIR is no pool
//   DIR/squall-store   marker of the store "default"
//   DIR/squall-init    only while init_file_pool is at work
//   DIR/LOCK           held by the process that uses the pool
//   DIR/catalog.db     the catalog (SQLite), with catalog.db-wal
//   DIR/segments/      segments of the store "default"
//   DIR/logs/          volume logs of durability scope `pool`
//   STORE/squall-store, STORE/segments/   for every further store
//
// Further stores are in the catalog: partition "pool", key "store/NAME", value the directory.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/directory_segment_store.h"
#include "engine/file_log_store.h"
#include "engine/pool_lock.h"
#include "engine/sqlite_meta_store.h"
#include "format/pool_identity.h"

namespace squall {

constexpr const char* kDefaultStore = "default";

struct FilePoolOptions {
  std::optional<Codec> default_codec;  // unset: lz4 for a new pool, any for an old one
  std::vector<StoreDirectory> stores;  // besides "default"; absolute paths
  int64_t created_s = 0;               // wall clock, for a new pool
  uint64_t lock_wait_ms = 5000;
};

// Makes a pool of `directory` (absolute), or joins the one that is there and adds the stores that
// it does not have. Doing it again changes nothing. A crash leaves either no pool, which a second
// call completes, or the pool. kExists: foreign files in the directory, or options that differ from
// the pool's. A store whose disk moved is given its new path by naming it with that path.
Result<PoolIdentity> init_file_pool(FileSystem& file_system, const std::string& directory,
                                    const FilePoolOptions& options);

struct FileEngineOptions {
  uint64_t lock_wait_ms = 5000;
  // Disk space for when there is no other: for removals, and for each store's footers, without
  // which nothing of a segment can be collected (5 MiB for a GiB, and what waits to be written).
  uint64_t catalog_reserve_bytes = 8 * kMiB;
  uint64_t store_reserve_bytes = 16 * kMiB;
  DirectorySegmentStoreOptions segments;
  ExecutorFactory make_executor = make_thread_executor;
};

// An open pool. `close()` before destruction; both on the reactor's thread, with no call in flight
// on segments and logs.
struct FileEngine {
  PoolIdentity identity;
  PoolLock lock;  // first: released last
  std::unique_ptr<Executor> executor;
  std::unique_ptr<SqliteMetaStore> meta;
  std::unique_ptr<DirectorySegmentStore> segments;
  std::unique_ptr<FileLogStore> logs;

  Task<void> close();
};

// kNotFound: no pool there. kBusy: another process uses it. A store that is away does not fail the
// opening: see StoreInfo.
Result<FileEngine> open_file_engine(Reactor& reactor, FileSystem& file_system,
                                    const std::string& directory,
                                    const FileEngineOptions& options = {});

}  // namespace squall
