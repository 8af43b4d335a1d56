// The verb `serve`, which the program squalld runs too.
#pragma once

#include <CLI/CLI.hpp>

#include "api/daemon.h"
#include "cli/context.h"

namespace squall {

Result<void> serve(Context& context, const DaemonOptions& options);
void add_serve_options(CLI::App& command, DaemonOptions& options);

}  // namespace squall
