// A host's configuration: SQUALL_HOME/squall.toml and the places that follow from the environment.
// Plain values, read once at start.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "check/scrub.h"
#include "io/network.h"
#include "pool/collector.h"

namespace squall {

// Where a host's state and sockets lie. SQUALL_HOME set: there, with RUNDIR $SQUALL_HOME/run;
// otherwise /var/lib/squall and /run/squall.
struct Paths {
  std::string home;
  std::string run_dir;

  static Paths from_environment();
  std::string config_file() const { return home + "/squall.toml"; }
  std::string control_socket() const { return run_dir + "/control.sock"; }
  std::string nbd_socket() const { return run_dir + "/nbd.sock"; }
};

// "file:DIR" is the one kind of pool that this build knows.
struct PoolSpec {
  std::string directory;

  // A relative directory is taken from `base`.
  static Result<PoolSpec> parse(std::string_view text, const std::string& base);
  std::string to_string() const { return "file:" + directory; }
};

// Percent used of a disk's space from which on it is worth a word, and an alarm.
struct SpaceLimits {
  uint64_t warn_percent = 80;
  uint64_t critical_percent = 90;
};

struct Config {
  PoolSpec pool;
  std::string journal_directory;
  uint64_t journal_bytes = 4 * kGiB;
  uint64_t cache_bytes = 1 * kGiB;           // decompressed records in memory
  uint64_t dedup_index_bytes = 64 * kMiB;    // 0: nothing is deduplicated
  std::string scratch_directory;             // stateless volumes, beyond what memory takes
  uint64_t scratch_memory_bytes = 1 * kGiB;  // of tmpfs, where RUNDIR is one
  std::vector<Endpoint> nbd_listen{};        // TCP; the unix socket is always there
  uint64_t nbd_dead_peer_s = 60;             // a TCP client that says nothing for so long is gone
  CollectorConfig gc;                        // in the background
  SpaceLimits space{};
  ScrubConfig scrub{};
  std::string log_level = "info";  // debug, info, warn, error

  static Config defaults(const Paths& paths);
};

// Reads and checks `file`. Errors name the file, the line and what to do; kNotFound when there is
// no such file. Unknown keys are errors: a misspelt setting must not be silently ignored.
Result<Config> load_config(const std::string& file, const Paths& paths);

// The same from text; `file` only names it in errors.
Result<Config> parse_config(std::string_view text, const std::string& file, const Paths& paths);

// A commented squall.toml that says the same.
std::string format_config(const Config& config);

}  // namespace squall
