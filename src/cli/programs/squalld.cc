// squalld: the daemon; the same as `squall serve`.
#include <CLI/CLI.hpp>

#include "cli/serve.h"

int main(int argc, char** argv) {
  squall::Context context;
  CLI::App app("Squall's daemon; the same as 'squall serve'", "squalld");
  app.add_option("--config", context.options.config, "The configuration file");
  squall::DaemonOptions options;
  squall::add_serve_options(app, options);
  app.set_version_flag("--version", "squalld " + std::string(squall::kVersion));
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    fmt::print(stderr, "squalld: {}; see --help\n", e.what());
    return 2;
  }
  context.run([&] { return squall::serve(context, options); });
  return context.exit_status();
}
