// The daemon: reads a configuration, puts every layer together, serves until it is told to stop.
// All wiring is here.
#pragma once

#include "api/config.h"
#include "base/error.h"

namespace squall {

struct DaemonOptions {
  // Start although the journal is damaged: the volumes that may have lost acknowledged writes
  // answer EIO until they are rolled back.
  bool accept_journal_loss = false;
};

// Runs until SIGTERM or SIGINT, then stops in order. Prints one line on stdout when everything
// answers and tells a service manager (NOTIFY_SOCKET). Blocks those signals for the whole process;
// called from the main thread before any other thread exists.
Result<void> run_daemon(const Config& config, const Paths& paths, const DaemonOptions& options);

// Makes this host's directories and its pool, or joins the pool that is there. Safe to repeat; no
// daemon may be using the pool.
struct InitOptions {
  std::vector<std::pair<std::string, std::string>> stores;  // name, directory
  std::string compression;                                  // empty: lz4, or what the pool has
};
Result<void> init_host(const Config& config, const InitOptions& options);

}  // namespace squall
