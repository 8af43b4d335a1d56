// The verb groups; each lies in a file of its own (context.h says how one is written).
#pragma once

#include "cli/context.h"

namespace CLI {
class App;
}

namespace squall {

void add_daemon_commands(CLI::App& app, Context& context);    // init, serve
void add_image_commands(CLI::App& app, Context& context);     // image ...
void add_volume_commands(CLI::App& app, Context& context);    // volume ...
void add_snapshot_commands(CLI::App& app, Context& context);  // snapshot ...
void add_status_commands(CLI::App& app, Context& context);    // status, node ...
void add_gc_command(CLI::App& app, Context& context);         // gc
void add_fleet_commands(CLI::App& app, Context& context);     // fleet ...
void add_check_command(CLI::App& app, Context& context);      // check

}  // namespace squall
