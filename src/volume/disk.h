// A disk as the protocol servers see it. Offsets and lengths are bytes, any alignment, already
// checked against size_bytes by the server (CHECKed here). Calls may overlap in time; each runs on
// the disk's reactor. Buffers stay the caller's until the task ends. Requests that overlap in time
// and place have no order among themselves; one that starts after another was acknowledged sees it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/task.h"

namespace squall {

// A run of a disk for block status and sparse reads.
struct DiskExtent {
  uint64_t length = 0;
  bool hole = false;  // unallocated: reads as zeros and takes no space
  bool zero = false;  // known to read as zeros
  bool operator==(const DiskExtent&) const = default;
};

class ReadableDisk {
 public:
  virtual ~ReadableDisk() = default;
  virtual uint64_t size_bytes() const = 0;
  virtual Task<Result<void>> read(uint64_t offset, Bytes to) = 0;
  // As read, and describes what was read: `extents` cover [offset, offset + to.size()) in order,
  // consistent with the bytes returned. Bytes of zero extents are left unwritten in `to`.
  virtual Task<Result<void>> read_sparse(uint64_t offset, Bytes to,
                                         std::vector<DiskExtent>& extents) = 0;
  // Extents from `offset` on, at most `max_extents` of them, at most `length` bytes together, at
  // least one.
  virtual Task<Result<void>> status(uint64_t offset, uint64_t length, size_t max_extents,
                                    std::vector<DiskExtent>& extents) = 0;
  // Brings the range into the host's cache; best effort.
  virtual Task<Result<void>> prefetch(uint64_t offset, uint64_t length) = 0;
};

class WritableDisk : public ReadableDisk {
 public:
  // Acknowledged as the disk's cache mode promises; `fua`: durable, as after a flush, when it
  // returns.
  virtual Task<Result<void>> write(uint64_t offset, ConstBytes from, bool fua) = 0;
  // The range reads as zeros afterwards. Both deallocate where they can; trim may leave unaligned
  // edges alone, zero may not. Both are fast (no data is written) at any size.
  virtual Task<Result<void>> zero(uint64_t offset, uint64_t length, bool fua) = 0;
  virtual Task<Result<void>> trim(uint64_t offset, uint64_t length, bool fua) = 0;
  // Every write acknowledged before the call, through any connection, is durable when it returns.
  virtual Task<Result<void>> flush() = 0;
  // False for writethrough and directsync: every acknowledged write is durable already.
  virtual bool has_write_cache() const = 0;
};

struct DiskSummary {
  std::string name;
  std::string description;  // "volume", "image" or "snapshot"
  uint64_t size_bytes = 0;
  bool read_only = false;
};

// An opened disk; dropping it lets the owner close the disk when nobody else holds it.
struct OpenDisk {
  std::shared_ptr<ReadableDisk> disk;
  std::shared_ptr<WritableDisk> writer;  // the same disk; null for images and snapshots
  bool shared = false;                   // several clients may write at once (--shared)
  std::string description;               // as in DiskSummary
};

// Resolves export names: VOLUME, IMAGE, VOLUME@SNAPSHOT and, during an import, its session's name.
class DiskDirectory {
 public:
  virtual ~DiskDirectory() = default;
  virtual Task<Result<std::vector<DiskSummary>>> list_disks() = 0;
  virtual Task<Result<OpenDisk>> open_disk(std::string name) = 0;  // kNotFound
};

}  // namespace squall
