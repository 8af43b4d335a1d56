// SegmentStore: the bulk half of a pool's engine: append-only byte objects named by number, each
// lying in one named store. It knows no records. Owned by one reactor's thread.
//
// A segment's bytes change only by writes beyond what was written before and by punch and remove.
// Nothing is durable before sync. Errors name segment, offset and store.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/task.h"
#include "format/address.h"

namespace squall {

struct SegmentInfo {
  SegmentId id = 0;
  std::string store;
  uint64_t size_bytes = 0;       // logical length
  uint64_t allocated_bytes = 0;  // what it takes on disk
};

struct StoreInfo {
  std::string name;
  std::string path;
  uint64_t total_bytes = 0;
  uint64_t available_bytes = 0;
  bool available = true;  // false: its disk is away; its segments cannot be read
  std::string problem;    // why it is not available, and what to do
};

class SegmentStore {
 public:
  virtual ~SegmentStore() = default;

  virtual Task<Result<std::vector<SegmentInfo>>> list() = 0;
  virtual Result<std::vector<StoreInfo>> stores() = 0;

  // Durable name, empty content. `store` must be one of stores().
  virtual Task<Result<void>> create(SegmentId id, const std::string& store) = 0;
  // All of `from` at `offset`; buffers stay the caller's until it returns.
  virtual Task<Result<void>> write(SegmentId id, std::span<const iovec> from, uint64_t offset) = 0;
  virtual Task<Result<void>> sync(SegmentId id) = 0;
  // Returns the bytes read, short only at the segment's end.
  virtual Task<Result<size_t>> read(SegmentId id, Bytes to, uint64_t offset) = 0;
  virtual Task<Result<void>> truncate(SegmentId id, uint64_t size_bytes) = 0;
  virtual bool can_punch() const = 0;
  virtual Task<Result<void>> punch(SegmentId id, uint64_t offset, uint64_t length) = 0;
  virtual Task<Result<void>> remove(SegmentId id) = 0;
  // Gives up what the store keeps back for footers, without which nothing in a segment can be
  // collected, if it keeps anything: for when a footer found no space. Kept back again by itself.
  virtual Task<void> release_reserve(std::string store) = 0;
  // Takes a segment out of the pool without deleting it, durably: its file goes to the directory
  // `quarantine` of its store. Returns where it is now.
  virtual Task<Result<std::string>> quarantine(SegmentId id) = 0;
};

}  // namespace squall
