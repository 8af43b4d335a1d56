#include "api/config.h"

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include <charconv>
#include <cstdlib>
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

Result<void> read_stores(const toml::table& table, const std::string& file, const Paths& paths,
                         Config& config) {
  Section section(table, "stores", file);
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    if (!is_valid_name(name)) {
      return section.error(node, name, "not a store's name; use letters, digits, '.', '_', '-'");
    }
    TRY(section.text(key.str(), [&](const std::string& directory) -> Result<void> {
      config.stores[name] = absolute(directory, paths.home);
      return {};
    }));
  }
  return {};
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
  return section.finish();
}

Result<void> read_top(const toml::table& table, const std::string& file, const Paths& paths,
                      Config& config) {
  Section top(table, "", file);
  TRY(top.text("pool", [&](const std::string& text) -> Result<void> {
    TRY_ASSIGN(config.pool, PoolSpec::parse(text));
    config.pool.directory = absolute(config.pool.directory, paths.home);
    return {};
  }));
  TRY(top.text("compression", [&](const std::string& text) -> Result<void> {
    TRY_ASSIGN(config.compression, parse_pool_codec(text));
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

  TRY_ASSIGN(const auto* stores, top.table("stores"));
  if (stores != nullptr) TRY(read_stores(*stores, file, paths, config));
  TRY_ASSIGN(const auto* nbd, top.table("nbd"));
  if (nbd != nullptr) TRY(read_nbd(*nbd, file, config));
  TRY_ASSIGN(const auto* journal, top.table("journal"));
  if (journal != nullptr) {
    Section section(*journal, "journal", file);
    TRY(section.size("size", kJournalBytesMin, config.journal_bytes));
    TRY(section.text("directory", [&](const std::string& directory) -> Result<void> {
      config.journal_directory = absolute(directory, paths.home);
      return {};
    }));
    TRY(section.finish());
  }
  TRY_ASSIGN(const auto* cache, top.table("cache"));
  if (cache != nullptr) {
    Section section(*cache, "cache", file);
    TRY(section.size("size", kCacheBytesMin, config.cache_bytes));
    TRY(section.finish());
  }
  return top.finish();
}

}  // namespace

bool is_valid_name(std::string_view name) {
  constexpr std::string_view kAllowed =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  return !name.empty() && name.size() <= 64 && name[0] != '.' && name[0] != '-' &&
         name.find_first_not_of(kAllowed) == std::string_view::npos;
}

Paths Paths::from_environment() {
  const char* home = std::getenv("SQUALL_HOME");
  if (home == nullptr || *home == '\0') return {"/var/lib/squall", "/run/squall"};
  std::string path(home);
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return {path, path + "/run"};
}

Result<PoolCodec> parse_pool_codec(std::string_view text) {
  for (const auto codec : {PoolCodec::kNone, PoolCodec::kLz4, PoolCodec::kZstd}) {
    if (text == to_string(codec)) return codec;
  }
  return fail(ErrorKind::kInvalid, "'{}' is none of lz4, zstd, none", text);
}

std::string_view to_string(PoolCodec codec) {
  switch (codec) {
    case PoolCodec::kNone:
      return "none";
    case PoolCodec::kLz4:
      return "lz4";
    case PoolCodec::kZstd:
      return "zstd";
  }
  return "unknown";
}

Result<PoolSpec> PoolSpec::parse(std::string_view text) {
  constexpr std::string_view kFile = "file:";
  if (!text.starts_with(kFile) || text.size() == kFile.size()) {
    return fail(ErrorKind::kInvalid, "'{}' is not a pool that this build can use; write file:DIR",
                text);
  }
  return PoolSpec{std::string(text.substr(kFile.size()))};
}

Config Config::defaults(const Paths& paths) {
  return {.pool = {paths.home + "/pool"}, .journal_directory = paths.home + "/journal"};
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
  std::ostringstream text;
  text << in.rdbuf();
  return parse_config(text.str(), file, paths);
}

std::string format_config(const Config& config) {
  std::string text = fmt::format(
      "# Squall's configuration of this host; read when squalld starts.\n"
      "pool = \"{}\"\n"
      "compression = \"{}\"  # lz4, zstd or none; for what is written from now on\n"
      "log_level = \"{}\"\n",
      config.pool.to_string(), to_string(config.compression), config.log_level);
  if (!config.stores.empty())
    text += "\n# Further directories of the pool, on other disks.\n[stores]\n";
  for (const auto& [name, directory] : config.stores) {
    text += fmt::format("\"{}\" = \"{}\"\n", name, directory);
  }
  text += fmt::format(
      "\n[journal]\ndirectory = \"{}\"\nsize = \"{}\"\n"
      "\n[cache]\nsize = \"{}\"  # memory for decompressed records\n"
      "\n# TCP addresses to serve NBD on, for example [\"127.0.0.1:10809\"]; the unix socket is\n"
      "# always there. Plain TCP has no authentication: only on a network you trust.\n"
      "[nbd]\nlisten = [",
      config.journal_directory, format_size(config.journal_bytes), format_size(config.cache_bytes));
  for (size_t i = 0; i < config.nbd_listen.size(); ++i) {
    text += fmt::format("{}\"{}\"", i == 0 ? "" : ", ", config.nbd_listen[i].to_string());
  }
  return text + "]\n";
}

}  // namespace squall
