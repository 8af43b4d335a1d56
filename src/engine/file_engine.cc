// The identity file is written last and atomically: it is what makes a directory a pool. Until then
// the file squall-init, written first, says that the rest is an unfinished beginning and not
// somebody's data. A pool whose catalog is missing is never given a fresh one: that would make
// garbage of every segment.
#include "engine/file_engine.h"

#include <algorithm>
#include <set>

#include "base/log.h"

namespace squall {
namespace {

constexpr const char* kPoolPartition = "pool";
constexpr const char* kIdentityKey = "identity";
// More than an identity takes, so that a file that is none is told from one that cannot be read.
constexpr uint64_t kIdentityFileBytesMax = 4096;
constexpr std::string_view kStorePrefix = "store/";

std::string identity_path(const std::string& pool) {
  return pool + "/squall-pool";
}
std::string init_path(const std::string& pool) {
  return pool + "/squall-init";
}
std::string marker_path(const std::string& pool) {
  return pool + "/squall-store";
}
std::string catalog_path(const std::string& pool) {
  return pool + "/catalog.db";
}
std::string logs_path(const std::string& pool) {
  return pool + "/logs";
}

Result<void> remove_if_there(FileSystem& file_system, const std::string& path) {
  auto done = file_system.remove(path);
  if (!done && done.error().kind() == ErrorKind::kNotFound) return {};
  return done;
}

// Unlike FileSystem::exists, tells "not there" from "cannot be told".
Result<bool> is_there(FileSystem& file_system, const std::string& path) {
  auto info = file_system.stat(path);
  if (info) return true;
  if (info.error().kind() == ErrorKind::kNotFound) return false;
  return std::unexpected(std::move(info).error());
}

// The directory and all that lead to it, with durable names.
Result<void> make_durable_directory(FileSystem& file_system, const std::string& path) {
  std::vector<std::string> made;
  for (std::string at = path;; at = parent_directory(at)) {
    TRY_ASSIGN(const bool found, is_there(file_system, at));
    if (found) break;
    made.push_back(at);
  }
  TRY(file_system.make_directory(path));
  for (const std::string& directory : made)
    TRY(file_system.sync_directory(parent_directory(directory)));
  return {};
}

Result<PoolIdentity> read_identity(FileSystem& file_system, const std::string& pool) {
  const std::string path = identity_path(pool);
  TRY_ASSIGN(const bool found, is_there(file_system, path));
  if (!found)
    return fail(ErrorKind::kNotFound, "no pool in {}; make one with: squall init --pool file:{}",
                pool, pool);
  TRY_ASSIGN(const auto bytes, file_system.read_file(path, kIdentityFileBytesMax));
  auto identity = decode_pool_identity(bytes);
  if (!identity) return std::unexpected(identity.error().wrap(path));
  return identity;
}

Result<void> check_options(const std::string& directory, const FilePoolOptions& options) {
  if (!directory.starts_with('/'))
    return fail(ErrorKind::kInvalid, "pool {}: the path must be absolute", directory);
  std::set<std::string> names, paths = {directory};
  for (const StoreDirectory& store : options.stores) {
    if (!is_store_name(store.name) || store.name == kDefaultStore)
      return fail(ErrorKind::kInvalid,
                  "store {}: a name is 1 to 64 of [A-Za-z0-9._-], does not begin with '.' or '-', "
                  "and \"{}\" is the pool's own directory",
                  store.name, kDefaultStore);
    if (!store.path.starts_with('/'))
      return fail(ErrorKind::kInvalid, "store {}: its path {} must be absolute", store.name,
                  store.path);
    if (!names.insert(store.name).second || !paths.insert(store.path).second)
      return fail(ErrorKind::kInvalid, "store {}: name or directory {} is given twice", store.name,
                  store.path);
  }
  return {};
}

// Ok when a pool may be made of the directory: it is empty, or an earlier attempt did not finish.
Result<void> check_vacant(FileSystem& file_system, const std::string& directory) {
  TRY_ASSIGN(const bool found, is_there(file_system, directory));
  if (!found) return {};
  TRY_ASSIGN(const bool begun, is_there(file_system, init_path(directory)));
  if (begun) return {};
  TRY_ASSIGN(const auto names, file_system.list(directory));
  for (const std::string& name : names)
    if (name != "LOCK" && name != "squall-init.new")  // .new: replace_file was cut off
      return fail(ErrorKind::kExists, "{} holds {} and is no Squall pool; use an empty directory",
                  directory, name);
  return {};
}

Result<void> put_entry(SqliteDatabase& catalog, std::string key, std::string value) {
  TRY(catalog.begin());
  if (auto done = catalog.put({kPoolPartition, {}, {{std::move(key), std::move(value)}}}); !done) {
    catalog.rollback();
    return done;
  }
  return catalog.commit();
}

Result<void> make_catalog(FileSystem& file_system, const std::string& directory, const Uuid& id) {
  const std::string path = catalog_path(directory);
  for (const char* suffix : {"", "-wal", "-journal"})
    TRY(remove_if_there(file_system, path + suffix));
  TRY_ASSIGN(const auto catalog, SqliteDatabase::open(file_system, path, /*create=*/true));
  return put_entry(*catalog, kIdentityKey, id.to_string());
}

Result<void> make_pool(FileSystem& file_system, const std::string& directory,
                       const FilePoolOptions& options) {
  TRY(check_vacant(file_system, directory));
  const PoolIdentity identity{.id = Uuid::generate(),
                              .default_codec = options.default_codec.value_or(Codec::kLz4),
                              .created_s = options.created_s};
  TRY(file_system.replace_file(init_path(directory), as_bytes("unfinished\n")));
  TRY(remove_if_there(file_system, marker_path(directory)));
  TRY(create_store_directory(file_system, identity.id, {kDefaultStore, directory}));
  TRY(make_durable_directory(file_system, logs_path(directory)));
  TRY(make_catalog(file_system, directory, identity.id));
  TRY(file_system.sync_directory(directory));
  return file_system.replace_file(identity_path(directory), encode_pool_identity(identity));
}

Result<std::vector<StoreDirectory>> read_stores(SqliteDatabase& catalog,
                                                const std::string& directory) {
  TRY(catalog.begin());
  auto entries = catalog.list(kPoolPartition, kStorePrefix);
  catalog.rollback();
  if (!entries) return std::unexpected(std::move(entries).error());
  std::vector<StoreDirectory> stores = {{kDefaultStore, directory}};
  for (MetaEntry& entry : *entries)
    stores.push_back({entry.key.substr(kStorePrefix.size()), std::move(entry.value)});
  return stores;
}

Result<std::unique_ptr<SqliteDatabase>> open_catalog(FileSystem& file_system,
                                                     const std::string& directory,
                                                     const Uuid& pool) {
  auto catalog = SqliteDatabase::open(file_system, catalog_path(directory), /*create=*/false);
  if (!catalog && catalog.error().kind() == ErrorKind::kNotFound)
    return fail(ErrorKind::kCorrupt,
                "pool {}: its catalog catalog.db is missing; put a copy of it back (the segments "
                "are untouched)",
                directory);
  if (!catalog) return catalog;
  TRY((*catalog)->begin());
  auto id = (*catalog)->get(kPoolPartition, kIdentityKey);
  (*catalog)->rollback();
  TRY(id);
  if (*id != pool.to_string())
    return fail(ErrorKind::kCorrupt, "pool {} ({}): its catalog is that of pool {}", directory,
                pool.to_string(), id->value_or("unknown"));
  return catalog;
}

Result<void> add_store(FileSystem& file_system, SqliteDatabase& catalog, const Uuid& pool,
                       const std::vector<StoreDirectory>& present, const StoreDirectory& store) {
  for (const StoreDirectory& other : present) {
    if (other.name == store.name && other.path == store.path)
      return check_store_directory(file_system, pool, store);
    if (other.name == store.name) {
      if (check_store_directory(file_system, pool, store)) break;  // its disk moved here
      return fail(ErrorKind::kExists,
                  "store {} of this pool is {}; {} does not hold it, so choose another name or "
                  "mount its disk there",
                  store.name, other.path, store.path);
    }
    if (other.path == store.path)
      return fail(ErrorKind::kExists, "{} is already store {} of this pool", store.path,
                  other.name);
  }
  TRY(make_durable_directory(file_system, store.path));
  TRY(create_store_directory(file_system, pool, store));
  return put_entry(catalog, std::string(kStorePrefix) + store.name, store.path);
}

}  // namespace

Result<PoolIdentity> init_file_pool(FileSystem& file_system, const std::string& directory,
                                    const FilePoolOptions& options) {
  TRY(check_options(directory, options));
  TRY_ASSIGN(const bool joins, is_there(file_system, identity_path(directory)));
  PoolLock lock;
  if (!joins || !options.stores.empty()) {
    if (!joins) TRY(check_vacant(file_system, directory));  // before anything is written there
    TRY(make_durable_directory(file_system, directory));
    TRY_ASSIGN(lock, PoolLock::acquire(file_system, directory, options.lock_wait_ms));
    // Anew: another process may have made it in the meantime.
    TRY_ASSIGN(const bool made, is_there(file_system, identity_path(directory)));
    if (!made) TRY(make_pool(file_system, directory, options));
    TRY(remove_if_there(file_system, init_path(directory)));
    TRY(file_system.sync_directory(directory));
  }
  TRY_ASSIGN(const PoolIdentity identity, read_identity(file_system, directory));
  if (options.default_codec && *options.default_codec != identity.default_codec)
    return fail(ErrorKind::kExists,
                "pool {} exists with another default codec; join it without naming a codec",
                directory);
  if (options.stores.empty()) return identity;
  TRY_ASSIGN(const auto catalog, open_catalog(file_system, directory, identity.id));
  TRY_ASSIGN(const auto present, read_stores(*catalog, directory));
  for (const StoreDirectory& store : options.stores)
    TRY(add_store(file_system, *catalog, identity.id, present, store));
  return identity;
}

Result<FileEngine> open_file_engine(Reactor& reactor, FileSystem& file_system,
                                    const std::string& directory,
                                    const FileEngineOptions& options) {
  FileEngine engine;
  // Before the lock, so that nothing is written into a directory that is no pool.
  TRY_ASSIGN(engine.identity, read_identity(file_system, directory));
  TRY_ASSIGN(engine.lock, PoolLock::acquire(file_system, directory, options.lock_wait_ms));
  const Uuid pool = engine.identity.id;
  TRY_ASSIGN(auto catalog, open_catalog(file_system, directory, pool));
  if (options.catalog_reserve_bytes > 0) catalog->keep_reserve(options.catalog_reserve_bytes);
  TRY_ASSIGN(const auto stores, read_stores(*catalog, directory));
  engine.executor = options.make_executor(reactor, "squall-files");
  DirectorySegmentStoreOptions segments = options.segments;
  segments.make_executor = options.make_executor;
  segments.reserve_bytes = options.store_reserve_bytes;
  TRY_ASSIGN(engine.segments, DirectorySegmentStore::open(reactor, file_system, *engine.executor,
                                                          pool, stores, segments));
  TRY_ASSIGN(engine.logs, FileLogStore::open(reactor, file_system, *engine.executor, pool,
                                             logs_path(directory)));
  engine.meta = std::make_unique<SqliteMetaStore>(reactor, std::move(catalog),
                                                  options.make_executor(reactor, "squall-catalog"));
  return engine;
}

Task<void> FileEngine::close() {
  co_await meta->close();
  logs.reset();
  segments.reset();
  lock = {};
}

}  // namespace squall
