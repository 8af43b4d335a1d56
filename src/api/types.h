// What the control API speaks of beyond volume/manager.h: a node, the pool's state, and the bodies
// of requests. Plain values. Their JSON is described in api/wire.cc; the field names are the same.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "check/check_job.h"
#include "check/scrub.h"
#include "pool/collector.h"
#include "volume/manager.h"

namespace squall {

inline constexpr std::string_view kVersion = "0.1.0";

struct NodeInfo {
  std::string name;   // the host's name
  std::string state;  // "up"
  std::string version;
  int64_t pid = 0;
  int64_t started_s = 0;
  std::string home;
  std::string control_socket;
  std::string nbd_socket;
  std::vector<std::string> nbd_listen;  // HOST:PORT of each TCP address
};

// A disk that Squall writes to.
struct SpaceStatus {
  std::string name;  // a store's name; "journal", "scratch"
  std::string path;
  uint64_t total_bytes = 0;
  uint64_t used_bytes = 0;  // and what the file system keeps back
  uint64_t available_bytes = 0;
  uint64_t used_percent = 0;
  std::string level;   // "ok", "warn", "critical", "full" (takes no writes), "away"
  std::string advice;  // what to do; empty when all is well
};

struct GcStarted {
  uint64_t ticket = 0;  // CollectorStatus.ticket reaches it when the collection has ended
};

struct StatusInfo {
  NodeInfo node;
  std::string pool;  // its spec, "file:DIR"
  std::string pool_id;
  std::vector<SpaceStatus> stores;
  std::vector<SpaceStatus> host_disks;  // journal and scratch
  uint64_t pool_segments = 0;
  uint64_t pool_bytes = 0;            // logical bytes of all segments
  uint64_t pool_allocated_bytes = 0;  // what they take on disk
  uint64_t images = 0;
  uint64_t volumes = 0;
  uint64_t open_volumes = 0;
  uint64_t lost_volumes = 0;           // acknowledged data is gone: EIO until rolled back
  uint64_t damaged_journal_reads = 0;  // since the daemon started
  uint64_t dirty_bytes = 0;            // in the journal, not yet in the pool
  uint64_t bytes_read = 0;             // by clients of volumes since the daemon started
  uint64_t bytes_written = 0;
  uint64_t memory_bytes = 0;  // resident memory of the daemon
  uint64_t cache_bytes = 0;   // records in the host's cache, decompressed, each once
  uint64_t cache_hits = 0;    // since the daemon started; a miss reads a record from the pool
  uint64_t cache_misses = 0;
  uint64_t cache_evictions = 0;
  // Volumes, snapshots and images that the catalog has a damaged entry of, a line each.
  std::vector<std::string> damaged;
  ScrubStatus scrub;
  CollectorStatus gc;  // garbage collection
  // Deduplication since the daemon started; blocks of 4 KiB.
  uint64_t dedup_blocks_seen = 0;
  uint64_t dedup_blocks_shared = 0;
  uint64_t dedup_bytes_saved = 0;  // before compression
  uint64_t dedup_misses = 0;       // runs that looked alike and were not used
  uint64_t dedup_index_entries = 0;
  uint64_t dedup_index_bytes = 0;
  uint64_t dedup_index_rate = 0;      // one block of so many is in the index; 0: off
  bool dedup_index_complete = false;  // false: still being read from the pool
};

struct CheckRequest {
  uint64_t rate_bytes_per_s = 128 * kMiB;  // 0: as fast as it goes
};
struct CheckStarted {
  uint64_t id = 0;
};

// Request bodies; POST /v1/volumes takes a CreateVolume.
struct CreateImageRequest {
  std::string name;
  std::string from;  // VOLUME or VOLUME@SNAPSHOT
};
struct ResizeRequest {
  uint64_t size_bytes = 0;
};
struct RollbackRequest {
  std::string snapshot;
};
struct TakeoverRequest {
  bool lose_data = false;
};
struct CreateSnapshotRequest {
  std::string name;
};
struct EmptyRequest {};

struct ErrorBody {
  std::string kind;
  std::string message;
};

}  // namespace squall
