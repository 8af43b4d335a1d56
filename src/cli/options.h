// Options that several verbs share. Each adds one to a CLI11 command; a value that makes no sense
// is wrong usage (exit status 2).
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <utility>

#include "base/error.h"

namespace squall {

// A size such as 10G.
CLI::Option* add_size(CLI::App& command, const std::string& name, uint64_t& to,
                      const std::string& description);

// Any value that `parse` understands, a Result.
template <class T, class Parse>
CLI::Option* add_parsed(CLI::App& command, const std::string& name, T& to, Parse parse,
                        const std::string& description) {
  return command.add_option_function<std::string>(
      name,
      [&to, parse, name](const std::string& text) {
        auto value = parse(text);
        if (!value) throw CLI::ValidationError(name, value.error().message());
        to = std::move(*value);
      },
      description);
}

// A VOLUME@SNAPSHOT argument.
struct SnapshotName {
  std::string volume;
  std::string snapshot;
};
CLI::Option* add_snapshot_name(CLI::App& command, SnapshotName& to);

}  // namespace squall
