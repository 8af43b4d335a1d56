// Programs that are started here and may outlive us.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"

namespace squall {

struct ProgramEnd {
  int exit_status = 0;  // 128 + signal when a signal ended it
  bool timed_out = false;
};

// Runs argv[0], looked up in PATH, in a session of its own (a terminal's Ctrl-C does not reach it),
// with stdin from /dev/null and its output added to `log_path`. After `timeout_ms` its session's
// processes are killed. `package` is what to install when there is no such program.
Result<ProgramEnd> run_program_to_log(const std::vector<std::string>& argv,
                                      const std::string& log_path, uint64_t timeout_ms,
                                      const std::string& package);

// The process that holds a pid file as QEMU does: locked for as long as it lives (an open file
// description lock over the whole file), so a recycled pid is never taken for it. Empty: none.
std::optional<pid_t> pid_file_holder(const std::string& path);

// Sends a signal to the process that holds the pid file, if one does.
void signal_pid_file_holder(const std::string& path, int signal);

// The whole file; kCorrupt when it is larger than `bytes_max`.
Result<std::string> read_small_file(const std::string& path, size_t bytes_max);

// Replaces the file at once or not at all.
Result<void> write_file_atomically(const std::string& path, const std::string& content);

}  // namespace squall
