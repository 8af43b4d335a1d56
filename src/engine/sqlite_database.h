// SqliteDatabase: the catalog's table in SQLite, synchronously: what SqliteMetaStore runs on its
// executor and what pool set-up uses directly. One thread at a time.
//
// Calls come in groups: begin(), any number of get/list/compare/put, then commit() makes every put
// durable with one sync, or none. A failure of get, list or compare concerns that call alone; after
// a failed put() the group must be rolled back.
//
// After a failed commit() the next begin() first commits a marker row of its own. That overwrites
// what the failed commit may have left in the WAL, so that "it failed" stays true after a crash;
// until the marker is durable every begin() fails.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "engine/meta_store.h"
#include "engine/sqlite_vfs.h"

struct sqlite3;
struct sqlite3_stmt;

namespace squall {

constexpr size_t kMaxMetaKeyBytes = 1024;  // partition and key each
constexpr size_t kMaxMetaValueBytes = 16 * kMiB;

// kInvalid when a partition, key or value is too long to store.
Result<void> check_transaction(const MetaTransaction& transaction);

class SqliteDatabase {
 public:
  // `path` is absolute. Without `create`, a missing file is kNotFound. kCorrupt: the file is no
  // catalog or is damaged.
  static Result<std::unique_ptr<SqliteDatabase>> open(FileSystem& file_system, std::string path,
                                                      bool create);
  // Moves the WAL into the database file and closes; errors have nowhere to go and cost nothing
  // (the WAL stays and is read at the next open).
  ~SqliteDatabase();

  Result<void> begin();
  Result<std::optional<std::string>> get(std::string_view partition, std::string_view key);
  // Entries that fail their checksum are marked as damaged.
  Result<std::vector<MetaEntry>> list(std::string_view partition_prefix,
                                      std::string_view key_prefix);
  // SQLite's integrity check: its complaints, a line each.
  Result<std::vector<std::string>> check_structure();
  // kConflict when one of the transaction's compares fails.
  Result<void> compare(const MetaTransaction& transaction);
  // Writes its puts.
  Result<void> put(const MetaTransaction& transaction);
  Result<void> commit();
  void rollback();

  // Moves committed pages from the WAL into the database file once there are enough of them. Its
  // failure loses nothing: the WAL grows, and it is tried again later.
  void checkpoint_if_due();

  // Sets so many bytes of disk space apart for the WAL, and a quarter of it for the database, so
  // that transactions that write little, such as the removals that make room, go through on a full
  // disk. What cannot be had now is tried again after each checkpoint.
  void keep_reserve(uint64_t bytes);

  const std::string& path() const { return path_; }

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  using Statement = std::unique_ptr<sqlite3_stmt, Finalize>;
  class Run;

  SqliteDatabase(FileSystem& file_system, std::string path)
      : vfs_(file_system), path_(std::move(path)) {}

  Result<void> connect(bool create);
  Result<void> configure();
  Result<void> check_schema(bool create);
  Result<void> prepare_statements();
  Result<Statement> prepare(const char* sql);
  Result<void> execute(const char* sql);
  Result<int64_t> query_integer(const char* sql);
  Result<void> overwrite_failed_commit();
  Result<void> extend_reserve();
  bool checkpoint_all();
  std::unexpected<Error> failure(int code, std::string_view operation);

  SqliteVfs vfs_;
  std::string path_;
  sqlite3* connection_ = nullptr;
  Statement begin_, commit_, rollback_, get_, list_, put_, delete_, mark_;
  int wal_pages_ = 0;            // in the WAL after the last commit
  int checkpoint_at_pages_ = 0;  // when the next checkpoint is due
  bool commit_failed_ = false;
  uint64_t reserve_bytes_ = 0;
  bool reserve_is_short_ = false;  // and that was said
};

}  // namespace squall
