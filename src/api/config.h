// A host's configuration: SQUALL_HOME/squall.toml and the places that follow from the environment.
// Plain values, read once at start.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "io/network.h"

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

enum class PoolCodec : uint8_t { kNone, kLz4, kZstd };
Result<PoolCodec> parse_pool_codec(std::string_view text);
std::string_view to_string(PoolCodec codec);

// "file:DIR" is the one kind of pool that this build knows.
struct PoolSpec {
  std::string directory;

  static Result<PoolSpec> parse(std::string_view text);
  std::string to_string() const { return "file:" + directory; }
};

struct Config {
  PoolSpec pool;
  PoolCodec compression = PoolCodec::kLz4;      // for what is written from now on
  std::map<std::string, std::string> stores{};  // name -> directory, beside the pool's own
  std::string journal_directory;
  uint64_t journal_bytes = 4 * kGiB;
  uint64_t cache_bytes = 1 * kGiB;
  std::vector<Endpoint> nbd_listen{};  // TCP; the unix socket is always there
  std::string log_level = "info";      // debug, info, warn, error

  static Config defaults(const Paths& paths);
};

// Reads and checks `file`. Errors name the file, the line and what to do; kNotFound when there is
// no such file. Unknown keys are errors: a misspelt setting must not be silently ignored.
Result<Config> load_config(const std::string& file, const Paths& paths);

// The same from text; `file` only names it in errors.
Result<Config> parse_config(std::string_view text, const std::string& file, const Paths& paths);

// A commented squall.toml that says the same.
std::string format_config(const Config& config);

// A store's or an object's name: 1 to 64 of [A-Za-z0-9._-], not starting with '.' or '-'.
bool is_valid_name(std::string_view name);

}  // namespace squall
