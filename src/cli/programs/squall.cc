// squall: the command line.
#include <CLI/CLI.hpp>

#include "cli/commands.h"

namespace {

void add_global_options(CLI::App& app, squall::Context::Options& options) {
  app.add_option("--socket", options.socket, "The daemon's control socket (or SQUALL_SOCKET)");
  app.add_option("--config", options.config, "The configuration file");
  app.add_flag("--json", options.json, "Print JSON");
  app.add_flag("--quiet,-q", options.quiet, "Print no progress and no messages of success");
  app.add_flag("--bytes", options.bytes, "Print sizes in bytes");
  app.set_version_flag("--version", "squall " + std::string(squall::kVersion));
}

// Global options may stand anywhere on the line.
void let_options_fall_through(CLI::App& app) {
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) {
    command->fallthrough();
    let_options_fall_through(*command);
  }
}

}  // namespace

int main(int argc, char** argv) {
  squall::Context context;
  CLI::App app("Squall: block storage for boot storms", "squall");
  app.require_subcommand(1);
  add_global_options(app, context.options);
  squall::add_daemon_commands(app, context);
  squall::add_image_commands(app, context);
  squall::add_volume_commands(app, context);
  squall::add_snapshot_commands(app, context);
  squall::add_status_commands(app, context);
  squall::add_gc_command(app, context);
  squall::add_fleet_commands(app, context);
  squall::add_check_command(app, context);
  let_options_fall_through(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& e) {
    return app.exit(e);
  } catch (const CLI::CallForAllHelp& e) {
    return app.exit(e);
  } catch (const CLI::CallForVersion& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    fmt::print(stderr, "squall: {}; see --help\n", e.what());
    return 2;
  }
  return context.exit_status();
}
