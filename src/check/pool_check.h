// check_pool: everything that a pool holds, verified: the catalog, every page of every root, every
// segment with all its records, the logs of durability scope `pool`, and the host's journal.
// Changes nothing.
//
// It runs on a pool in use as well as on one that nobody has open. What changes while it looks is
// no fault: whatever seems wrong is looked at again in the catalog as it is then, and counts only
// when a root of that moment leads to it.
//
// Memory: 8 bytes per record that is in use, so 128 MiB per TiB of data.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/task.h"
#include "base/uuid.h"
#include "check/fault.h"
#include "engine/executor.h"
#include "engine/log_store.h"
#include "engine/meta_store.h"
#include "engine/segment_store.h"
#include "io/file_system.h"
#include "pool/pacer.h"

namespace squall {

// What is checked, and what it runs on. All of it outlives the check.
struct CheckTarget {
  Reactor& reactor;
  Executor& executor;  // where checksums are computed
  SegmentStore& segments;
  MetaStore& catalog;
  LogStore& logs;
  Uuid pool;
  // The host's journal; empty: it is not checked.
  FileSystem* files = nullptr;
  std::string journal_directory;
};

struct CheckProgress {
  std::string phase;  // "catalog", "volumes", "segments", "logs", "journal", "damage"
  uint64_t percent = 0;
  uint64_t read_bytes = 0;
  uint64_t faults = 0;  // suspected so far
};

struct CheckOptions {
  uint64_t rate_bytes_per_s = 0;  // 0: as fast as it goes
  std::function<bool()> cancelled;
  std::function<void(const CheckProgress&)> on_progress;
};

struct CheckReport {
  std::vector<Fault> faults;
  uint64_t faults_left_out = 0;  // beyond what is listed
  uint64_t roots = 0;
  uint64_t pages = 0;
  uint64_t segments = 0;
  uint64_t unsealed_segments = 0;  // of which only what is in use is verified
  uint64_t records = 0;
  uint64_t read_bytes = 0;
  std::vector<std::string> actions;  // what a repair has done, a line each
};

// Errors: kCancelled, and those of a catalog or an engine that does not answer.
Task<Result<CheckReport>> check_pool(CheckTarget target, CheckOptions options = {});

}  // namespace squall
