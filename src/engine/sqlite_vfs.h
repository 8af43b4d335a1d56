// SqliteVfs: SQLite's operating system layer ("VFS", sqlite.org/vfs.html) over squall::FileSystem,
// so that the catalog runs on the host's file systems and on the simulated one alike.
//
// Without shared memory: WAL mode needs locking_mode=EXCLUSIVE, which the catalog uses. File locks
// are not taken either: the pool's LOCK file keeps every other process out. One instance per
// database; registered with SQLite under a unique name for its lifetime. Must outlive every
// connection opened through it. Used by one thread at a time.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "io/file_system.h"

struct sqlite3_vfs;

namespace squall {

class SqliteVfs {
 public:
  explicit SqliteVfs(FileSystem& file_system);
  ~SqliteVfs();
  SqliteVfs(const SqliteVfs&) = delete;
  SqliteVfs& operator=(const SqliteVfs&) = delete;

  const char* name() const { return name_.c_str(); }
  FileSystem& file_system() { return file_system_; }

  // The file system's error behind SQLite's last failure, for messages; cleared by taking it.
  std::optional<Error> take_error() { return std::exchange(error_, std::nullopt); }
  void note_error(const Error& error) { error_ = error; }

  // So much behind the database's last page is not given back by a checkpoint; 0: nothing is, and
  // the WAL goes when the database is closed.
  void set_database_reserve_bytes(uint64_t bytes) { database_reserve_bytes_ = bytes; }
  uint64_t database_reserve_bytes() const { return database_reserve_bytes_; }

 private:
  FileSystem& file_system_;
  std::string name_;
  std::unique_ptr<sqlite3_vfs> vfs_;
  std::optional<Error> error_;
  uint64_t database_reserve_bytes_ = 0;
};

}  // namespace squall
