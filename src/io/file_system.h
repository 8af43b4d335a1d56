// Files as an interface: the part of POSIX that Squall stands on, so that the same code runs on the
// host's file systems (PosixFileSystem) and on sim::SimFileSystem, which loses unsynced writes and
// directory entries at a power cut, tears sectors, fills up, slows down and rots.
//
// Calls here are synchronous and meant for start-up, for rare name operations and for writes into
// the page cache; data-path reads, writes and syncs go through Reactor::submit with the handles
// that open() returns. Handles are plain ints valid for the Reactor the file system belongs to.
// Thread safety: PosixFileSystem is safe from any thread; SimFileSystem is single-threaded.
// Durability: a created, renamed or removed name is durable only after sync_directory of its
// parent; file data only after sync.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"

namespace squall {

struct OpenOptions {
  bool write = false;
  bool create = false;
  bool exclusive = false;  // with create: fail with kExists when the name is there
  bool direct = false;     // bypass the page cache; buffers, offsets and sizes in 4 KiB units.
                           // Falls back to buffered where the file system cannot (tmpfs).
};

struct FileInfo {
  uint64_t size = 0;
  uint64_t allocated_bytes = 0;
  bool is_directory = false;
};

struct SpaceInfo {
  uint64_t total_bytes = 0;
  uint64_t available_bytes = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  virtual Result<int> open(const std::string& path, OpenOptions options) = 0;
  virtual void close(int handle) = 0;

  // Whole-buffer positioned I/O; read returns the bytes read, short only at end of file.
  virtual Result<size_t> read(int handle, Bytes to, uint64_t offset) = 0;
  virtual Result<void> write(int handle, std::span<const iovec> from, uint64_t offset) = 0;
  virtual Result<void> sync(int handle) = 0;  // fdatasync
  virtual Result<void> truncate(int handle, uint64_t size) = 0;
  virtual Result<void> allocate(int handle, uint64_t size) = 0;  // reserve space for [0, size)
  virtual Result<void> punch(int handle, uint64_t offset, uint64_t length) = 0;
  virtual Result<FileInfo> info(int handle) = 0;

  // An exclusive advisory lock that lives until the handle is closed and, for a killed process, at
  // least until its last I/O on this handle has finished (flock). kBusy when somebody holds it,
  // after having waited `wait_ms`.
  virtual Result<void> lock(int handle, uint64_t wait_ms) = 0;

  // Maps [0, size) of the file shared and writable; what is stored there outlives a killed process
  // like the page cache does. unmap before close.
  virtual Result<Bytes> map(int handle, uint64_t size) = 0;
  virtual void unmap(Bytes mapping) = 0;

  virtual Result<FileInfo> stat(const std::string& path) = 0;  // kNotFound
  virtual Result<void> make_directory(
      const std::string& path) = 0;  // existing is fine; parents too
  virtual Result<std::vector<std::string>> list(const std::string& directory) = 0;  // sorted names
  virtual Result<void> remove(const std::string& path) = 0;                         // a file
  virtual Result<void> rename(const std::string& from, const std::string& to) = 0;
  virtual Result<void> sync_directory(const std::string& path) = 0;
  virtual Result<SpaceInfo> space(const std::string& path) = 0;

  // Conveniences.
  Result<void> write(int handle, ConstBytes from, uint64_t offset) {
    const iovec iov{const_cast<std::byte*>(from.data()), from.size()};
    return write(handle, std::span(&iov, 1), offset);
  }
  Result<std::vector<std::byte>> read_file(const std::string& path, uint64_t max_bytes);
  // Writes a whole file so that after a power cut either the old or the new content is there.
  Result<void> replace_file(const std::string& path, ConstBytes content);
  // make_directory, with every name on the way durable.
  Result<void> make_directory_durably(const std::string& path);
  bool exists(const std::string& path) { return stat(path).has_value(); }
};

std::string parent_directory(const std::string& path);

}  // namespace squall
