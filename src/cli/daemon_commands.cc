#include <filesystem>
#include <fstream>
#include <memory>

#include "api/daemon.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/serve.h"

namespace squall {

namespace {

struct InitArguments {
  std::string pool;
  std::vector<std::string> stores;  // NAME=DIR
  std::string compression;
};

std::string absolute_path(const std::string& path) {
  return std::filesystem::absolute(path).lexically_normal().string();
}

Result<void> write_config(const std::string& file, const Config& config) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(file).parent_path(), error);
  if (error) return fail_errno(error.value(), "cannot make the directory of {}", file);
  std::ofstream out(file);
  out << format_config(config);
  out.close();
  if (!out) return fail_errno(errno, "cannot write {}", file);
  return {};
}

// What the host is to be: its configuration if it has one, else a new one.
Result<Config> init_config(const Context& context, const InitArguments& arguments, bool& is_new) {
  const std::string file = context.config_file();
  std::optional<PoolSpec> pool;
  if (!arguments.pool.empty()) {
    TRY_ASSIGN(pool, PoolSpec::parse(arguments.pool, std::filesystem::current_path().string()));
  }
  is_new = !std::filesystem::exists(file);
  if (is_new) {
    Config config = Config::defaults(context.paths());
    if (pool) config.pool = *pool;
    return config;
  }
  TRY_ASSIGN(Config config, load_config(file, context.paths()));
  if (pool && pool->directory != config.pool.directory) {
    return fail(ErrorKind::kExists, "{} says the pool is {}; change it there, or leave --pool away",
                file, config.pool.to_string());
  }
  return config;
}

Result<void> init(Context& context, const InitArguments& arguments) {
  bool is_new = false;
  TRY_ASSIGN(const Config config, init_config(context, arguments, is_new));
  InitOptions options;
  options.compression = arguments.compression;
  for (const std::string& store : arguments.stores) {
    const size_t equals = store.find('=');
    options.stores.emplace_back(store.substr(0, equals), absolute_path(store.substr(equals + 1)));
  }
  TRY(init_host(config, options));
  if (is_new) TRY(write_config(context.config_file(), config));
  if (!context.options.quiet) {
    context.print(fmt::format("pool {} is ready; configuration: {}", config.pool.to_string(),
                              context.config_file()));
  }
  return {};
}

}  // namespace

void add_serve_options(CLI::App& command, DaemonOptions& options) {
  command.add_flag("--accept-journal-loss", options.accept_journal_loss,
                   "Start with a damaged journal: volumes that may have lost writes answer EIO "
                   "until rolled back");
}

Result<void> serve(Context& context, const DaemonOptions& options) {
  TRY_ASSIGN(const Config config, load_config(context.config_file(), context.paths()));
  return run_daemon(config, context.paths(), options);
}

void add_daemon_commands(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<InitArguments>();
  auto* init_command = app.add_subcommand("init", "Make a pool, or join one");
  init_command->add_option("--pool", arguments->pool, "file:DIR; by default in SQUALL_HOME");
  init_command->add_option("--store", arguments->stores, "A further directory of the pool")
      ->type_name("NAME=DIR")
      ->check([](const std::string& text) {
        const size_t equals = text.find('=');
        const bool good = equals != std::string::npos && equals > 0 && equals + 1 < text.size();
        return good ? "" : "'" + text + "' is not NAME=DIR";
      });
  init_command->add_option("--compression", arguments->compression, "lz4 (default), zstd or none")
      ->check(CLI::IsMember({"lz4", "zstd", "none"}));
  init_command->callback(
      [&context, arguments] { context.run([&] { return init(context, *arguments); }); });

  auto options = std::make_shared<DaemonOptions>();
  auto* serve_command = app.add_subcommand("serve", "Run the daemon in the foreground");
  add_serve_options(*serve_command, *options);
  serve_command->callback(
      [&context, options] { context.run([&] { return serve(context, *options); }); });
}

}  // namespace squall
