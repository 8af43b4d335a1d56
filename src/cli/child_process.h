// A helper program (qemu-nbd, nbdkit, qemu-img) as a child that cannot outlive us: killed when the
// object goes, and by the kernel when this process dies. One thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/error.h"

namespace squall {

class ChildProcess {
 public:
  struct Options {
    int listen_fd = -1;   // handed over as systemd's socket activation does (LISTEN_FDS)
    int stdout_fd = -1;   // -1: /dev/null
    std::string secret;   // readable on kSecretFd, so that it is in no argument list
    std::string package;  // what to install when the program is missing
  };
  static constexpr int kSecretFd = 4;

  // Starts argv[0], looked up in PATH. Its stdin is /dev/null, its stderr is kept for error_text().
  static Result<ChildProcess> start(std::vector<std::string> argv, const Options& options);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();

  // Waits for its end; an error with its own words unless the exit status is 0.
  Result<void> wait();
  // The last line it wrote to stderr.
  std::string error_text() const;

 private:
  ChildProcess(std::string name, pid_t pid, int stderr_fd)
      : name_(std::move(name)), pid_(pid), stderr_fd_(stderr_fd) {}

  std::string name_;
  pid_t pid_;  // -1 once waited for
  int stderr_fd_;
};

// Runs a program to its end and returns what it wrote to stdout.
Result<std::string> run_program(std::vector<std::string> argv, const std::string& package);

}  // namespace squall
