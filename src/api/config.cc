#include "api/config.h"

#define TOML_EXCEPTIONS 0
// Version 3.3 asserts, on input like "[~", what its parser then handles as an error.
#define TOML_ASSERT(expression) static_assert(true)
#include <toml++/toml.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "api/units.h"

namespace squall {

namespace {

constexpr uint64_t kJournalBytesMin = 64 * kMiB;
constexpr uint64_t kCacheBytesMin = 16 * kMiB;

std::string absolute(const std::string& path, const std::string& base) {
  return path.starts_with('/') ? path : base + "/" + path;
}

// A TOML string.
std::string toml_string(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      result += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      result += c;
    }
  }
  return result + '"';
}

// One table of the file: hands out its values by key and remembers which keys exist, so that
// finish() can reject the rest. The first error stays.
class Section {
 public:
  Section(const toml::table& table, std::string name, const std::string& file)
      : table_(table), name_(std::move(name)), file_(file) {}

  std::unexpected<Error> error(const toml::node& node, std::string_view key,
                               std::string_view problem) const {
    return fail(ErrorKind::kInvalid, "{}:{}: {}{}: {}", file_, node.source().begin.line,
                name_.empty() ? "" : name_ + ".", key, problem);
  }

  // Calls `use` with the value's text, or with its node when the key is there at all.
  template <class Use>
  Result<void> text(std::string_view key, Use use) {
    known_.insert(key);
    const toml::node* node = table_.get(key);
    if (node == nullptr) return {};
    const auto* value = node->as_string();
    if (value == nullptr) return error(*node, key, "must be a string in quotes");
    if (Result<void> used = use(value->get()); !used) {
      return error(*node, key, used.error().message());
    }
    return {};
  }

  Result<void> size(std::string_view key, uint64_t minimum, uint64_t& to) {
    return text(key, [&](const std::string& value) -> Result<void> {
      TRY_ASSIGN(const uint64_t bytes, parse_size(value));
      if (bytes < minimum) {
        return fail(ErrorKind::kInvalid, "{} is too small; at least {}", value,
                    format_size(minimum));
      }
      to = bytes;
      return {};
    });
  }

  Result<void> number(std::string_view key, int64_t minimum, int64_t maximum, uint64_t& to) {
    known_.insert(key);
    const toml::node* node = table_.get(key);
    if (node == nullptr) return {};
    const auto* value = node->as_integer();
    if (value == nullptr || value->get() < minimum || value->get() > maximum) {
      return error(*node, key,
                   fmt::format("must be a whole number from {} to {}", minimum, maximum));
    }
    to = static_cast<uint64_t>(value->get());
    return {};
  }

  Result<void> directory(std::string_view key, const Paths& paths, std::string& to) {
    return text(key, [&](const std::string& value) -> Result<void> {
      if (value.empty()) return fail(ErrorKind::kInvalid, "must name a directory");
      to = absolute(value, paths.home);
      return {};
    });
  }

  Result<const toml::table*> table(std::string_view key) {
    known_.insert(key);
    const toml::node* node = table_.get(key);
    if (node == nullptr) return nullptr;
    if (!node->is_table()) return error(*node, key, fmt::format("write it as [{}]", key));
    return node->as_table();
  }

  const toml::array* array(std::string_view key, Result<void>& result) {
    known_.insert(key);
    const toml::node* node = table_.get(key);
    if (node != nullptr && !node->is_array()) {
      result = error(*node, key, "must be a list, such as [\"127.0.0.1:10809\"]");
      return nullptr;
    }
    return node == nullptr ? nullptr : node->as_array();
  }

  Result<void> finish() const {
    for (const auto& [key, node] : table_) {
      if (known_.contains(key.str())) continue;
      std::string names;
      for (const auto name : known_) names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
      return error(node, key.str(), fmt::format("no such setting; there are: {}", names));
    }
    return {};
  }

 private:
  const toml::table& table_;
  std::string name_;
  const std::string& file_;
  std::set<std::string_view> known_;
};

Result<Endpoint> parse_tcp_endpoint(const std::string& text) {
  const size_t colon = text.rfind(':');
  Endpoint endpoint;
  if (colon != std::string::npos && colon > 0) {
    endpoint.host = text.substr(0, colon);
    if (endpoint.host.starts_with('[') && endpoint.host.ends_with(']')) {
      endpoint.host = endpoint.host.substr(1, endpoint.host.size() - 2);
    }
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, endpoint.port);
    if (error == std::errc() && stop == end && !endpoint.host.empty()) return endpoint;
  }
  return fail(ErrorKind::kInvalid, "'{}' is not an address; write HOST:PORT", text);
}

Result<void> read_nbd(const toml::table& table, const std::string& file, Config& config) {
  Section section(table, "nbd", file);
  Result<void> result;
  const toml::array* listen = section.array("listen", result);
  TRY(std::move(result));
  for (size_t i = 0; listen != nullptr && i < listen->size(); ++i) {
    const auto* value = (*listen)[i].as_string();
    if (value == nullptr) return section.error((*listen)[i], "listen", "must hold strings");
    auto endpoint = parse_tcp_endpoint(value->get());
    if (!endpoint) return section.error(*value, "listen", endpoint.error().message());
    config.nbd_listen.push_back(std::move(*endpoint));
  }
  TRY(section.number("dead_peer_s", 2, 86'400, config.nbd_dead_peer_s));
  return section.finish();
}

Result<void> read_space(const toml::table& table, const std::string& file, Config& config) {
  Section section(table, "space", file);
  TRY(section.number("warn", 1, 100, config.space.warn_percent));
  TRY(section.number("critical", 1, 100, config.space.critical_percent));
  if (config.space.critical_percent < config.space.warn_percent) {
    return section.error(table, "critical",
                         fmt::format("{} is below space.warn, {}", config.space.critical_percent,
                                     config.space.warn_percent));
  }
  return section.finish();
}

Result<void> read_top(const toml::table& table, const std::string& file, const Paths& paths,
                      Config& config) {
  Section top(table, "", file);
  TRY(top.text("pool", [&](const std::string& text) -> Result<void> {
    TRY_ASSIGN(config.pool, PoolSpec::parse(text, paths.home));
    return {};
  }));
  TRY(top.text("log_level", [&](const std::string& text) -> Result<void> {
    for (const char* level : {"debug", "info", "warn", "error"}) {
      if (text == level) {
        config.log_level = text;
        return {};
      }
    }
    return fail(ErrorKind::kInvalid, "'{}' is none of debug, info, warn, error", text);
  }));

  TRY_ASSIGN(const auto* nbd, top.table("nbd"));
  if (nbd != nullptr) TRY(read_nbd(*nbd, file, config));
  TRY_ASSIGN(const auto* journal, top.table("journal"));
  if (journal != nullptr) {
    Section section(*journal, "journal", file);
    TRY(section.size("size", kJournalBytesMin, config.journal_bytes));
    TRY(section.directory("directory", paths, config.journal_directory));
    TRY(section.finish());
  }
  TRY_ASSIGN(const auto* cache, top.table("cache"));
  if (cache != nullptr) {
    Section section(*cache, "cache", file);
    TRY(section.size("size", kCacheBytesMin, config.cache_bytes));
    TRY(section.finish());
  }
  TRY_ASSIGN(const auto* deduplication, top.table("deduplication"));
  if (deduplication != nullptr) {
    Section section(*deduplication, "deduplication", file);
    TRY(section.size("index", 0, config.dedup_index_bytes));
    TRY(section.finish());
  }
  TRY_ASSIGN(const auto* gc, top.table("gc"));
  if (gc != nullptr) {
    Section section(*gc, "gc", file);
    TRY(section.size("rate", 0, config.gc.rate_bytes_per_s));
    TRY(section.finish());
  }
  TRY_ASSIGN(const auto* scratch, top.table("scratch"));
  if (scratch != nullptr) {
    Section section(*scratch, "scratch", file);
    TRY(section.size("memory", 0, config.scratch_memory_bytes));
    TRY(section.directory("directory", paths, config.scratch_directory));
    TRY(section.finish());
  }
  TRY_ASSIGN(const auto* space, top.table("space"));
  if (space != nullptr) TRY(read_space(*space, file, config));
  TRY_ASSIGN(const auto* scrub, top.table("scrub"));
  if (scrub != nullptr) {
    Section section(*scrub, "scrub", file);
    TRY(section.size("rate", 0, config.scrub.rate_bytes_per_s));
    TRY(section.number("interval_days", 0, 3650, config.scrub.interval_days));
    TRY(section.finish());
  }
  return top.finish();
}

}  // namespace

Paths Paths::from_environment() {
  const char* home = std::getenv("SQUALL_HOME");
  if (home == nullptr || *home == '\0') return {"/var/lib/squall", "/run/squall"};
  std::string path(home);
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return {path, path + "/run"};
}

Result<PoolSpec> PoolSpec::parse(std::string_view text, const std::string& base) {
  constexpr std::string_view kFile = "file:";
  if (!text.starts_with(kFile) || text.size() == kFile.size()) {
    return fail(ErrorKind::kInvalid, "'{}' is not a pool that this build can use; write file:DIR",
                text);
  }
  return PoolSpec{absolute(std::string(text.substr(kFile.size())), base)};
}

Config Config::defaults(const Paths& paths) {
  return {.pool = {paths.home + "/pool"},
          .journal_directory = paths.home + "/journal",
          .scratch_directory = paths.home + "/scratch"};
}

Result<Config> parse_config(std::string_view text, const std::string& file, const Paths& paths) {
  const toml::parse_result parsed = toml::parse(text, file);
  if (!parsed) {
    return fail(ErrorKind::kInvalid, "{}:{}: not valid TOML: {}", file,
                parsed.error().source().begin.line, parsed.error().description());
  }
  Config config = Config::defaults(paths);
  TRY(read_top(parsed.table(), file, paths, config));
  return config;
}

Result<Config> load_config(const std::string& file, const Paths& paths) {
  std::ifstream in(file);
  if (!in) {
    return fail_errno(errno,
                      "cannot read the configuration {}; run 'squall init' first, or name "
                      "another file with --config",
                      file);
  }
  std::error_code unknown;
  if (std::filesystem::is_directory(file, unknown)) {
    return fail(ErrorKind::kInvalid,
                "the configuration {} is a directory; remove it, then run "
                "'squall init'",
                file);
  }
  std::ostringstream text;
  text << in.rdbuf();
  // An empty configuration is a good one; one that cannot be read is not.
  if (in.bad()) return fail(ErrorKind::kIo, "cannot read the configuration {}", file);
  return parse_config(text.str(), file, paths);
}

std::string format_config(const Config& config) {
  std::string listen;
  for (const Endpoint& endpoint : config.nbd_listen) {
    listen += fmt::format("{}{}", listen.empty() ? "" : ", ", toml_string(endpoint.to_string()));
  }
  return fmt::format(
      R"(# Squall's configuration of this host; read when squalld starts.
pool = {}
log_level = {}  # debug, info, warn or error

[journal]
directory = {}
size = {}

[cache]
size = {}  # memory for decompressed records

[deduplication]
index = {}  # memory for its index, "0" for none: nothing is deduplicated
# What garbage collection in the background reads and writes per second; "0": no limit.
[gc]
rate = {}

# Stateless volumes: in memory first (where RUNDIR is a tmpfs), then in the directory.
[scratch]
memory = {}
directory = {}

# TCP addresses to serve NBD on, for example ["127.0.0.1:10809"]; the unix socket is always there.
# Plain TCP has no authentication: only on a network you trust. A TCP client that gives no sign of
# life for dead_peer_s seconds is taken for dead.
[nbd]
listen = [{}]
dead_peer_s = {}

# Percent of a disk (stores of the pool, journal, scratch) from which on squalld warns.
[space]
warn = {}
critical = {}

# Verifies the whole pool in the background: how much it reads a second ("0": off), and how many days
# lie between the beginnings of two passes.
[scrub]
rate = {}
interval_days = {}
)",
      toml_string(config.pool.to_string()), toml_string(config.log_level),
      toml_string(config.journal_directory), toml_string(format_size_exact(config.journal_bytes)),
      toml_string(format_size_exact(config.cache_bytes)),
      toml_string(format_size_exact(config.dedup_index_bytes)),
      toml_string(format_size_exact(config.gc.rate_bytes_per_s)),
      toml_string(format_size_exact(config.scratch_memory_bytes)),
      toml_string(config.scratch_directory), listen, config.nbd_dead_peer_s,
      config.space.warn_percent, config.space.critical_percent,
      toml_string(format_size_exact(config.scrub.rate_bytes_per_s)), config.scrub.interval_days);
}

}  // namespace squall
