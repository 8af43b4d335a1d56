// One table, entry(partition, key, value, checksum) WITHOUT ROWID: the primary key's B-tree holds
// the rows, so that a prefix list is one range scan. All columns are blobs: bytes compare as
// memcmp, whatever they are. SQLite does not checksum its pages, so each row carries a checksum of
// its own, seeded by partition and key; a flipped bit in a volume's head is an error, not a root
// somewhere else.
//
// WAL with synchronous=FULL: a commit is one append to the WAL and one sync. Exclusive locking
// keeps the WAL's index in this process's memory. The checkpoint runs after a group's calls were
// answered, not inside COMMIT, so that nobody waits for it.
#include "engine/sqlite_database.h"

#include <sqlite3.h>

#include <array>

#include "base/hash.h"
#include "base/log.h"

namespace squall {
namespace {

constexpr int kApplicationId = 0x53714361;  // "SqCa", in the database's header
constexpr int kSchemaVersion = 1;
constexpr int kCheckpointPages = 1000;
constexpr uint64_t kRowSeed = 0x73716c2d726f7731;

constexpr const char* kSchema[] = {
    ("CREATE TABLE entry (partition BLOB NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,"
     " checksum INTEGER NOT NULL, PRIMARY KEY (partition, key)) WITHOUT ROWID"),
    "CREATE TABLE mark (id INTEGER PRIMARY KEY, count INTEGER NOT NULL)",
    "PRAGMA application_id = 1399931745",
    "PRAGMA user_version = 1",
};
static_assert(kApplicationId == 1399931745 && kSchemaVersion == 1);

int64_t row_checksum(std::string_view partition, std::string_view key, std::string_view value) {
  const uint64_t seed = checksum(as_bytes(key), checksum(as_bytes(partition), kRowSeed));
  return static_cast<int64_t>(checksum(as_bytes(value), seed));
}

// A 64-bit checksum tells more than that something is wrong: when a single byte has changed, there
// is one way back, and trying them all takes milliseconds.
std::optional<std::string> restore_value(std::string_view partition, std::string_view key,
                                         std::string_view value, int64_t stated) {
  constexpr size_t kLengthMax = 4096;
  if (value.size() > kLengthMax) return std::nullopt;
  std::string tried(value);
  for (char& byte : tried) {
    const char found = byte;
    for (int change = 1; change < 256; ++change) {
      byte = static_cast<char>(found ^ change);
      if (row_checksum(partition, key, tried) == stated) return tried;
    }
    byte = found;
  }
  return std::nullopt;
}

std::string_view column_bytes(sqlite3_stmt* statement, int column) {
  const void* data = sqlite3_column_blob(statement, column);
  const auto size = static_cast<size_t>(sqlite3_column_bytes(statement, column));
  return {static_cast<const char*>(data), size};
}

ErrorKind kind_of(int code) {
  switch (code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return ErrorKind::kCorrupt;
    case SQLITE_FULL:
      return ErrorKind::kNoSpace;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
      return ErrorKind::kIo;
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return ErrorKind::kPermission;
    default:
      return ErrorKind::kInternal;
  }
}

Result<void> check_size(std::string_view what, std::string_view bytes, size_t bytes_max) {
  if (bytes.size() <= bytes_max) return {};
  return fail(ErrorKind::kInvalid, "catalog {} of {} bytes: at most {} are allowed", what,
              bytes.size(), bytes_max);
}

}  // namespace

void SqliteDatabase::Finalize::operator()(sqlite3_stmt* statement) const {
  sqlite3_finalize(statement);
}

// One use of a prepared statement: bind, step, reset when it goes.
class SqliteDatabase::Run {
 public:
  explicit Run(const Statement& statement) : statement_(statement.get()) {}
  ~Run() { sqlite3_reset(statement_); }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  // The bytes must stay until this Run ends.
  void bind(int index, std::string_view bytes) {
    // A null pointer would bind NULL instead of an empty blob.
    const char* data = bytes.empty() ? "" : bytes.data();
    CHECK(sqlite3_bind_blob64(statement_, index, data, bytes.size(), SQLITE_STATIC) == SQLITE_OK);
  }
  void bind(int index, int64_t value) {
    CHECK(sqlite3_bind_int64(statement_, index, value) == SQLITE_OK);
  }
  int step() { return sqlite3_step(statement_); }
  std::string_view bytes(int column) const { return column_bytes(statement_, column); }
  int64_t integer(int column) const { return sqlite3_column_int64(statement_, column); }

 private:
  sqlite3_stmt* statement_;
};

Result<std::unique_ptr<SqliteDatabase>> SqliteDatabase::open(FileSystem& file_system,
                                                             std::string path, bool create) {
  std::unique_ptr<SqliteDatabase> database(new SqliteDatabase(file_system, std::move(path)));
  TRY(database->connect(create));
  TRY(database->configure());
  TRY(database->check_schema(create));
  TRY(database->prepare_statements());
  return database;
}

SqliteDatabase::~SqliteDatabase() {
  for (Statement* statement :
       {&begin_, &commit_, &rollback_, &get_, &list_, &put_, &delete_, &mark_})
    statement->reset();
  const bool wal_is_done = reserve_bytes_ > 0 && checkpoint_all();
  CHECK(sqlite3_close(connection_) == SQLITE_OK);
  // The WAL stays for its space. Without a header it means nothing any more: somebody may put a
  // copy of the database back.
  if (!wal_is_done) return;
  FileSystem& files = vfs_.file_system();
  if (const auto handle = files.open(path_ + "-wal", {.write = true})) {
    const std::array<std::byte, 32> no_header{};
    (void)files.write(*handle, ConstBytes(no_header), 0);
    files.close(*handle);
  }
}

// Whether everything in the WAL is in the database, durably.
bool SqliteDatabase::checkpoint_all() {
  int pages = -1, moved = -1;
  const int code =
      sqlite3_wal_checkpoint_v2(connection_, nullptr, SQLITE_CHECKPOINT_PASSIVE, &pages, &moved);
  return code == SQLITE_OK && pages == moved;
}

void SqliteDatabase::keep_reserve(uint64_t bytes) {
  reserve_bytes_ = bytes;
  vfs_.set_database_reserve_bytes(bytes / 4);
  auto extended = extend_reserve();
  if (!extended && !reserve_is_short_)
    LOG_WARN("catalog: its reserve cannot be set apart: {}", extended.error().message());
  reserve_is_short_ = !extended;
}

Result<void> SqliteDatabase::extend_reserve() {
  TRY_ASSIGN(const int64_t pages, query_integer("PRAGMA page_count"));
  TRY_ASSIGN(const int64_t page_bytes, query_integer("PRAGMA page_size"));
  const uint64_t database_bytes = static_cast<uint64_t>(pages * page_bytes) + reserve_bytes_ / 4;
  FileSystem& files = vfs_.file_system();
  for (const auto& [path, bytes] :
       {std::pair(path_ + "-wal", reserve_bytes_), std::pair(path_, database_bytes)}) {
    TRY_ASSIGN(const int handle, files.open(path, {.write = true}));
    auto info = files.info(handle);
    Result<void> allocated;
    if (info && info->size < bytes) allocated = files.allocate(handle, bytes);
    files.close(handle);
    TRY(info);
    TRY(allocated);
  }
  return {};
}

Result<void> SqliteDatabase::connect(bool create) {
  if (auto found = vfs_.file_system().stat(path_); !create && !found)
    return std::unexpected(found.error().wrap(fmt::format("catalog {}", path_)));
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
                    (create ? SQLITE_OPEN_CREATE : 0);
  const int code = sqlite3_open_v2(path_.c_str(), &connection_, flags, vfs_.name());
  if (code != SQLITE_OK) return failure(code, "open");
  // Hands the WAL's size after each commit to checkpoint_if_due.
  sqlite3_wal_hook(
      connection_,
      [](void* self, sqlite3*, const char*, int pages) {
        static_cast<SqliteDatabase*>(self)->wal_pages_ = pages;
        return SQLITE_OK;
      },
      this);
  checkpoint_at_pages_ = kCheckpointPages;
  return {};
}

Result<void> SqliteDatabase::configure() {
  // Exclusive locking must be on before the WAL is first touched: the VFS has no shared memory.
  for (const char* sql : {"PRAGMA locking_mode = EXCLUSIVE", "PRAGMA temp_store = MEMORY",
                          "PRAGMA cache_size = -1024" /* KiB */, "PRAGMA journal_mode = WAL",
                          "PRAGMA synchronous = FULL"})
    TRY(execute(sql));
  return {};
}

Result<void> SqliteDatabase::check_schema(bool create) {
  TRY_ASSIGN(const int64_t id, query_integer("PRAGMA application_id"));
  TRY_ASSIGN(const int64_t version, query_integer("PRAGMA user_version"));
  TRY_ASSIGN(const int64_t tables, query_integer("SELECT count(*) FROM sqlite_schema"));
  if (create && id == 0 && version == 0 && tables == 0) {
    TRY(execute("BEGIN IMMEDIATE"));
    for (const char* sql : kSchema) TRY(execute(sql));
    return execute("COMMIT");
  }
  if (id != kApplicationId)
    return fail(ErrorKind::kCorrupt,
                "catalog {}: not a Squall catalog; put the pool's own file back", path_);
  if (version != kSchemaVersion)
    return fail(ErrorKind::kUnsupported,
                "catalog {}: schema version {}, this build reads {}; use a matching squalld", path_,
                version, kSchemaVersion);
  return {};
}

Result<void> SqliteDatabase::prepare_statements() {
  TRY_ASSIGN(begin_, prepare("BEGIN"));
  TRY_ASSIGN(commit_, prepare("COMMIT"));
  TRY_ASSIGN(rollback_, prepare("ROLLBACK"));
  TRY_ASSIGN(get_, prepare("SELECT value, checksum FROM entry WHERE partition = ? AND key = ?"));
  TRY_ASSIGN(list_, prepare("SELECT partition, key, value, checksum FROM entry"
                            " WHERE partition >= ? ORDER BY partition, key"));
  TRY_ASSIGN(put_, prepare("REPLACE INTO entry (partition, key, value, checksum)"
                           " VALUES (?, ?, ?, ?)"));
  TRY_ASSIGN(delete_, prepare("DELETE FROM entry WHERE partition = ? AND key = ?"));
  TRY_ASSIGN(mark_, prepare("INSERT INTO mark (id, count) VALUES (1, 1)"
                            " ON CONFLICT (id) DO UPDATE SET count = count + 1"));
  return {};
}

Result<SqliteDatabase::Statement> SqliteDatabase::prepare(const char* sql) {
  sqlite3_stmt* statement = nullptr;
  const int code =
      sqlite3_prepare_v3(connection_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  if (code != SQLITE_OK) return failure(code, sql);
  return Statement(statement);
}

Result<void> SqliteDatabase::execute(const char* sql) {
  const int code = sqlite3_exec(connection_, sql, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) return failure(code, sql);
  return {};
}

Result<int64_t> SqliteDatabase::query_integer(const char* sql) {
  TRY_ASSIGN(const Statement statement, prepare(sql));
  Run run(statement);
  if (const int code = run.step(); code != SQLITE_ROW) return failure(code, sql);
  return run.integer(0);
}

std::unexpected<Error> SqliteDatabase::failure(int code, std::string_view operation) {
  ErrorKind kind = kind_of(code);
  std::string detail = connection_ != nullptr ? sqlite3_errmsg(connection_) : sqlite3_errstr(code);
  int os_errno = 0;
  auto cause = vfs_.take_error();
  if (cause && (kind == ErrorKind::kIo || kind == ErrorKind::kNoSpace)) {
    detail += ": " + cause->message();
    os_errno = cause->os_errno();
    kind = cause->kind();
  }
  if (kind == ErrorKind::kCorrupt)
    detail += "; stop squalld and put a copy of the catalog back (the segments are untouched)";
  return std::unexpected(
      Error(kind, fmt::format("catalog {}: {}: {}", path_, operation, detail), os_errno));
}

Result<void> SqliteDatabase::begin() {
  if (commit_failed_) TRY(overwrite_failed_commit());
  Run run(begin_);
  if (const int code = run.step(); code != SQLITE_DONE) return failure(code, "begin");
  return {};
}

Result<void> SqliteDatabase::overwrite_failed_commit() {
  TRY(execute("BEGIN"));
  if (const int code = Run(mark_).step(); code != SQLITE_DONE) {
    auto error = failure(code, "recover from a failed commit");
    rollback();
    return error;
  }
  TRY(commit());
  LOG_WARN("catalog: {} works again after a failed commit", path_);
  commit_failed_ = false;
  return {};
}

Result<std::optional<std::string>> SqliteDatabase::get(std::string_view partition,
                                                       std::string_view key) {
  Run run(get_);
  run.bind(1, partition);
  run.bind(2, key);
  const int code = run.step();
  if (code == SQLITE_DONE) return std::nullopt;
  if (code != SQLITE_ROW) return failure(code, "get");
  const std::string_view value = run.bytes(0);
  if (run.integer(1) != row_checksum(partition, key, value))
    return fail(ErrorKind::kCorrupt,
                "catalog {}: entry {} {} fails its checksum; stop squalld and put a copy of the "
                "catalog back",
                path_, partition, key);
  return std::string(value);
}

Result<std::vector<MetaEntry>> SqliteDatabase::list(std::string_view partition_prefix,
                                                    std::string_view key_prefix) {
  std::vector<MetaEntry> entries;
  Run run(list_);
  run.bind(1, partition_prefix);
  int code = SQLITE_ROW;
  while ((code = run.step()) == SQLITE_ROW) {
    const std::string_view partition = run.bytes(0), key = run.bytes(1);
    if (!partition.starts_with(partition_prefix)) return entries;
    if (!key.starts_with(key_prefix)) continue;
    const std::string_view value = run.bytes(2);
    const int64_t stated = run.integer(3);
    MetaEntry entry{.partition = std::string(partition),
                    .key = std::string(key),
                    .value = std::string(value),
                    .damaged = stated != row_checksum(partition, key, value)};
    if (entry.damaged) entry.restored = restore_value(partition, key, value, stated);
    entries.push_back(std::move(entry));
  }
  if (code != SQLITE_DONE) return failure(code, "list");
  return entries;
}

Result<std::vector<std::string>> SqliteDatabase::check_structure() {
  constexpr std::string_view kNothingFound = "ok";
  TRY_ASSIGN(const Statement statement, prepare("PRAGMA integrity_check"));
  Run run(statement);
  std::vector<std::string> problems;
  int code = SQLITE_ROW;
  while ((code = run.step()) == SQLITE_ROW)
    if (run.bytes(0) != kNothingFound) problems.emplace_back(run.bytes(0));
  if (code != SQLITE_DONE) return failure(code, "integrity check");
  return problems;
}

Result<void> SqliteDatabase::compare(const MetaTransaction& transaction) {
  for (const auto& compare : transaction.compares) {
    TRY_ASSIGN(const auto found, get(transaction.partition, compare.key));
    if (found != compare.expected)
      return fail(ErrorKind::kConflict, "catalog entry {} {} is not what it was",
                  transaction.partition, compare.key);
  }
  return {};
}

Result<void> SqliteDatabase::put(const MetaTransaction& transaction) {
  for (const auto& put : transaction.puts) {
    Run run(put.value ? put_ : delete_);
    run.bind(1, transaction.partition);
    run.bind(2, put.key);
    if (put.value) {
      run.bind(3, *put.value);
      run.bind(4, row_checksum(transaction.partition, put.key, *put.value));
    }
    if (const int code = run.step(); code != SQLITE_DONE) return failure(code, "put");
  }
  return {};
}

Result<void> SqliteDatabase::commit() {
  Run run(commit_);
  const int code = run.step();
  if (code == SQLITE_DONE) return {};
  commit_failed_ = true;
  auto error = failure(code, "commit");
  rollback();
  return error;
}

void SqliteDatabase::rollback() {
  if (sqlite3_get_autocommit(connection_) != 0) return;  // SQLite has rolled back itself
  Run run(rollback_);
  run.step();  // even where it reports an error the transaction is over
}

void SqliteDatabase::checkpoint_if_due() {
  if (wal_pages_ < checkpoint_at_pages_) return;
  const int code =
      sqlite3_wal_checkpoint_v2(connection_, nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  if (code == SQLITE_OK) {
    // The next commit starts the WAL from its beginning.
    wal_pages_ = 0;
    checkpoint_at_pages_ = kCheckpointPages;
    if (reserve_bytes_ > 0) keep_reserve(reserve_bytes_);
    return;
  }
  checkpoint_at_pages_ = wal_pages_ + kCheckpointPages;
  LOG_WARN("{}", failure(code, "checkpoint").error().message());
}

Result<void> check_transaction(const MetaTransaction& transaction) {
  TRY(check_size("partition", transaction.partition, kMaxMetaKeyBytes));
  for (const auto& put : transaction.puts) {
    TRY(check_size("key", put.key, kMaxMetaKeyBytes));
    if (put.value) TRY(check_size("value", *put.value, kMaxMetaValueBytes));
  }
  return {};
}

}  // namespace squall
