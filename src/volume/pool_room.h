// PoolRoom: whether a store of the pool has room for what guests write. Guests may not use up what
// commits, catalog and file system need to go on, so a write is acknowledged only when its store
// has room for it beside everything that waits in the journal for that store, plus a reserve.
// An estimate: the file system is asked twice a second, what is admitted in between is counted.
// One reactor's thread; owned by the host, outlives its volumes.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "engine/segment_store.h"
#include "io/reactor.h"

namespace squall {

class PoolRoom {
 public:
  struct Store {
    uint64_t dirty_bytes = 0;  // in the journal, to be committed to this store
    uint64_t room_bytes = 0;   // what may still be admitted until the file system is asked again
    std::string problem;       // why the store is not available; empty when it is
  };

  PoolRoom(Reactor& reactor, SegmentStore& segments, uint64_t reserve_bytes)
      : reactor_(reactor), segments_(segments), reserve_bytes_(reserve_bytes) {}

  // The store's account, to keep; "" is the pool's first store. Stays where it is.
  Store& store(const std::string& name);
  // Sets room aside for `bytes` of a guest's data. ENOSPC when there is none, EIO when the store is
  // away.
  Result<void> take(Store& store, uint64_t bytes);
  uint64_t dirty_bytes() const;

 private:
  void refresh();

  Reactor& reactor_;
  SegmentStore& segments_;
  const uint64_t reserve_bytes_;
  std::map<std::string, Store> stores_;
  std::string first_store_;
  std::optional<uint64_t> refreshed_ns_;
};

}  // namespace squall
