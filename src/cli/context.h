// Context: what every verb of the command line shares: global options, the connection to the
// daemon, output and the exit status. A verb group is one function
//
//   void add_volume_commands(CLI::App& app, Context& context);
//
// in a file of its own, called from main.cc; each verb's callback hands its work to run():
//
//   auto* list = volume->add_subcommand("list", "List volumes");
//   list->callback([&context] { context.run([&] { return list_volumes(context); }); });
//
// Single-threaded.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "api/client.h"
#include "api/config.h"

namespace squall {

class Context {
 public:
  struct Options {
    std::string socket;  // --socket, SQUALL_SOCKET; empty: RUNDIR/control.sock
    std::string config;  // --config; empty: SQUALL_HOME/squall.toml
    bool json = false;   // --json
    bool quiet = false;  // --quiet: no tables after changes, no progress
    bool bytes = false;  // --bytes: sizes as plain numbers
  };
  Options options;

  const Paths& paths() const { return paths_; }
  std::string config_file() const;
  std::string control_socket() const;

  // The connection to the daemon, opened at the first use.
  Result<Client*> client();
  // A further connection (an import's session is bound to one).
  Result<Client> connect() const;

  // Runs a verb; on an error prints "squall: what, where and what to do" on stderr and sets the
  // exit status 1.
  void run(const std::function<Result<void>()>& verb);
  int exit_status() const { return exit_status_; }

  // Output to people.
  std::string size(uint64_t bytes) const;     // "10G", or all digits with --bytes
  void print(const std::string& text) const;  // a line on stdout
  void note(const std::string& text) const;   // a line on stderr unless --quiet

 private:
  Paths paths_ = Paths::from_environment();
  std::optional<Client> client_;
  int exit_status_ = 0;
};

}  // namespace squall
