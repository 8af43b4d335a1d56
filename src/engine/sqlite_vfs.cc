// Device characteristics: "power-safe overwrite", as SQLite's own unix VFS reports it: a write that
// is cut off does not change bytes outside its range. The alternative, padding each commit in the
// WAL to a whole sector, costs a page a commit and is worse after a failed sync: SQLite leaves the
// padding's end unsynced, so that an earlier commit's last frame may be lost together with the
// failed one, while readers still use it.
#include "engine/sqlite_vfs.h"

#include <sqlite3.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <random>

#include "base/check.h"

namespace squall {
namespace {

constexpr int kSectorSizeBytes = 4096;
constexpr int kMaxPathBytes = 4096;

// What SQLite allocates for each open file; `base` must come first.
struct VfsFile {
  sqlite3_file base;
  SqliteVfs* vfs;
  int handle;
  // The file was created by open: its name becomes durable with the first sync.
  bool name_unsynced;
  bool is_database;  // not its WAL
  std::string* path;
};

VfsFile* file_of(sqlite3_file* file) {
  return reinterpret_cast<VfsFile*>(file);
}
SqliteVfs& vfs_of(sqlite3_vfs* vfs) {
  return *static_cast<SqliteVfs*>(vfs->pAppData);
}

// Keeps the cause for messages and gives SQLite its code.
int failed(SqliteVfs& vfs, const Error& error, int code) {
  vfs.note_error(error);
  return error.kind() == ErrorKind::kNoSpace ? SQLITE_FULL : code;
}

int file_close(sqlite3_file* file) {
  VfsFile* self = file_of(file);
  self->vfs->file_system().close(self->handle);
  delete self->path;
  return SQLITE_OK;
}

int file_read(sqlite3_file* file, void* to, int length, sqlite3_int64 offset) {
  VfsFile* self = file_of(file);
  const Bytes buffer(static_cast<std::byte*>(to), static_cast<size_t>(length));
  auto got = self->vfs->file_system().read(self->handle, buffer, static_cast<uint64_t>(offset));
  if (!got) return failed(*self->vfs, got.error(), SQLITE_IOERR_READ);
  if (*got == buffer.size()) return SQLITE_OK;
  // SQLite requires the rest to be zeros.
  std::memset(buffer.data() + *got, 0, buffer.size() - *got);
  return SQLITE_IOERR_SHORT_READ;
}

int file_write(sqlite3_file* file, const void* from, int length, sqlite3_int64 offset) {
  VfsFile* self = file_of(file);
  const ConstBytes buffer(static_cast<const std::byte*>(from), static_cast<size_t>(length));
  auto done = self->vfs->file_system().write(self->handle, buffer, static_cast<uint64_t>(offset));
  return done ? SQLITE_OK : failed(*self->vfs, done.error(), SQLITE_IOERR_WRITE);
}

// A checkpoint cuts the database to the pages it has; what lies behind them is the reserve, which
// stays. SQLite goes by the page count in the header, as with its own SQLITE_FCNTL_CHUNK_SIZE.
int file_truncate(sqlite3_file* file, sqlite3_int64 size) {
  VfsFile* self = file_of(file);
  if (const uint64_t reserve = self->vfs->database_reserve_bytes();
      self->is_database && reserve > 0) {
    auto info = self->vfs->file_system().info(self->handle);
    if (!info) return failed(*self->vfs, info.error(), SQLITE_IOERR_TRUNCATE);
    const auto end = std::min(info->size, static_cast<uint64_t>(size) + reserve);
    size = static_cast<sqlite3_int64>(std::max(end, static_cast<uint64_t>(size)));
    if (info->size == static_cast<uint64_t>(size)) return SQLITE_OK;
  }
  auto done = self->vfs->file_system().truncate(self->handle, static_cast<uint64_t>(size));
  return done ? SQLITE_OK : failed(*self->vfs, done.error(), SQLITE_IOERR_TRUNCATE);
}

int file_sync(sqlite3_file* file, int) {
  VfsFile* self = file_of(file);
  FileSystem& files = self->vfs->file_system();
  if (auto done = files.sync(self->handle); !done)
    return failed(*self->vfs, done.error(), SQLITE_IOERR_FSYNC);
  if (!self->name_unsynced) return SQLITE_OK;
  if (auto done = files.sync_directory(parent_directory(*self->path)); !done)
    return failed(*self->vfs, done.error(), SQLITE_IOERR_DIR_FSYNC);
  self->name_unsynced = false;
  return SQLITE_OK;
}

int file_size(sqlite3_file* file, sqlite3_int64* size) {
  VfsFile* self = file_of(file);
  auto info = self->vfs->file_system().info(self->handle);
  if (!info) return failed(*self->vfs, info.error(), SQLITE_IOERR_FSTAT);
  *size = static_cast<sqlite3_int64>(info->size);
  return SQLITE_OK;
}

int file_lock(sqlite3_file*, int) {
  return SQLITE_OK;
}
int file_unlock(sqlite3_file*, int) {
  return SQLITE_OK;
}
int file_check_reserved(sqlite3_file*, int* reserved) {
  *reserved = 0;
  return SQLITE_OK;
}
// The WAL stays when the database is closed: its space may not be there to be had again.
int file_control(sqlite3_file* file, int operation, void* argument) {
  if (operation != SQLITE_FCNTL_PERSIST_WAL) return SQLITE_NOTFOUND;
  *static_cast<int*>(argument) = file_of(file)->vfs->database_reserve_bytes() > 0 ? 1 : 0;
  return SQLITE_OK;
}
int file_sector_size(sqlite3_file*) {
  return kSectorSizeBytes;
}
int file_characteristics(sqlite3_file*) {
  return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

const sqlite3_io_methods kFileMethods = {
    .iVersion = 1,  // no shared memory, no mapping
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_check_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_sector_size,
    .xDeviceCharacteristics = file_characteristics,
};

int vfs_open(sqlite3_vfs* vfs, const char* path, sqlite3_file* file, int flags, int* out_flags) {
  SqliteVfs& self = vfs_of(vfs);
  file->pMethods = nullptr;  // tells SQLite not to call xClose when this fails
  if (path == nullptr) {
    self.note_error(Error(ErrorKind::kInternal, "SQLite asked for a temporary file"));
    return SQLITE_CANTOPEN;  // temp_store=MEMORY: never asked for
  }
  const bool existed = self.file_system().exists(path);
  auto handle =
      self.file_system().open(path, OpenOptions{.write = (flags & SQLITE_OPEN_READWRITE) != 0,
                                                .create = (flags & SQLITE_OPEN_CREATE) != 0,
                                                .exclusive = (flags & SQLITE_OPEN_EXCLUSIVE) != 0});
  if (!handle) return failed(self, handle.error(), SQLITE_CANTOPEN);
  *file_of(file) = VfsFile{.base = {.pMethods = &kFileMethods},
                           .vfs = &self,
                           .handle = *handle,
                           .name_unsynced = !existed,
                           .is_database = (flags & SQLITE_OPEN_MAIN_DB) != 0,
                           .path = new std::string(path)};
  if (out_flags != nullptr) *out_flags = flags;
  return SQLITE_OK;
}

int vfs_delete(sqlite3_vfs* vfs, const char* path, int sync_directory) {
  SqliteVfs& self = vfs_of(vfs);
  if (auto done = self.file_system().remove(path); !done) {
    if (done.error().kind() == ErrorKind::kNotFound) return SQLITE_IOERR_DELETE_NOENT;
    return failed(self, done.error(), SQLITE_IOERR_DELETE);
  }
  if (sync_directory == 0) return SQLITE_OK;
  auto done = self.file_system().sync_directory(parent_directory(path));
  return done ? SQLITE_OK : failed(self, done.error(), SQLITE_IOERR_DIR_FSYNC);
}

int vfs_access(sqlite3_vfs* vfs, const char* path, int flags, int* result) {
  auto info = vfs_of(vfs).file_system().stat(path);
  // "Cannot be told" must not pass for "no journal": SQLite would skip the recovery.
  if (!info && info.error().kind() != ErrorKind::kNotFound)
    return failed(vfs_of(vfs), info.error(), SQLITE_IOERR_ACCESS);
  // An empty journal counts as none, as in SQLite's own unix VFS.
  *result = info.has_value() && (flags != SQLITE_ACCESS_EXISTS || info->size > 0);
  return SQLITE_OK;
}

int vfs_full_path(sqlite3_vfs*, const char* path, int size, char* out) {
  sqlite3_snprintf(size, out, "%s", path);
  return SQLITE_OK;
}

int vfs_randomness(sqlite3_vfs*, int length, char* out) {
  std::random_device source;
  for (int i = 0; i < length; ++i) out[i] = static_cast<char>(source());
  return length;
}

int vfs_sleep(sqlite3_vfs*, int microseconds) {
  return microseconds;
}  // nobody to wait for

int vfs_current_time_ms(sqlite3_vfs*, sqlite3_int64* out) {
  constexpr sqlite3_int64 kUnixEpochJulianMs = 210866760000000;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  *out = kUnixEpochJulianMs + std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  return SQLITE_OK;
}
int vfs_current_time(sqlite3_vfs* vfs, double* out) {
  sqlite3_int64 now_ms = 0;
  vfs_current_time_ms(vfs, &now_ms);
  *out = static_cast<double>(now_ms) / 86400000.0;
  return SQLITE_OK;
}
int vfs_last_error(sqlite3_vfs*, int, char*) {
  return 0;
}

std::string unique_name() {
  static std::atomic<uint64_t> counter = 0;
  return "squall-" + std::to_string(++counter);
}

}  // namespace

SqliteVfs::SqliteVfs(FileSystem& file_system)
    : file_system_(file_system), name_(unique_name()), vfs_(std::make_unique<sqlite3_vfs>()) {
  *vfs_ = sqlite3_vfs{
      .iVersion = 2,
      .szOsFile = sizeof(VfsFile),
      .mxPathname = kMaxPathBytes,
      .zName = name_.c_str(),
      .pAppData = this,
      .xOpen = vfs_open,
      .xDelete = vfs_delete,
      .xAccess = vfs_access,
      .xFullPathname = vfs_full_path,
      .xRandomness = vfs_randomness,
      .xSleep = vfs_sleep,
      .xCurrentTime = vfs_current_time,
      .xGetLastError = vfs_last_error,
      .xCurrentTimeInt64 = vfs_current_time_ms,
  };
  CHECK(sqlite3_vfs_register(vfs_.get(), 0) == SQLITE_OK);
}

SqliteVfs::~SqliteVfs() {
  sqlite3_vfs_unregister(vfs_.get());
}

}  // namespace squall
