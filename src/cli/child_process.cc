// The child's stderr is a memory file rather than a pipe, so that it never blocks on a reader.
// Between fork and exec only async-signal-safe calls are made.
#include "cli/child_process.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "cli/interrupt.h"

extern char** environ;

namespace squall {

namespace {

constexpr int kListenFd = 3;  // where socket activation expects the first socket
constexpr int kExecFailed = 127;

Result<std::string> find_program(const std::string& name, const std::string& package) {
  const char* path = std::getenv("PATH");
  std::string_view left = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
  while (!left.empty()) {
    const std::string_view directory = left.substr(0, left.find(':'));
    left.remove_prefix(std::min(left.size(), directory.size() + 1));
    std::string file = std::string(directory.empty() ? "." : directory) + "/" + name;
    if (::access(file.c_str(), X_OK) == 0) return file;
  }
  return fail(ErrorKind::kNotFound, "{} is not installed; install the package {}", name, package);
}

// A file in memory; its number is above those that a child's descriptors are placed at.
Result<int> make_memory_file(std::string_view content) {
  const int low = ::memfd_create("squall-helper", MFD_CLOEXEC);
  if (low < 0) return fail_errno(errno, "cannot make a file in memory");
  const int fd = ::fcntl(low, F_DUPFD_CLOEXEC, 10);
  ::close(low);
  if (fd < 0 ||
      ::pwrite(fd, content.data(), content.size(), 0) != static_cast<ssize_t>(content.size())) {
    const int write_errno = errno;
    if (fd >= 0) ::close(fd);
    return fail_errno(write_errno, "cannot write a file in memory");
  }
  return fd;
}

std::string read_all(int fd) {
  std::string text;
  std::array<char, 4096> buffer{};
  for (off_t at = 0;;) {
    const ssize_t n = ::pread(fd, buffer.data(), buffer.size(), at);
    if (n <= 0) return text;
    text.append(buffer.data(), static_cast<size_t>(n));
    at += n;
  }
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (std::string& s : strings) result.push_back(s.data());
  result.push_back(nullptr);
  return result;
}

// LISTEN_PID must hold the child's own id, known only after the fork: room for its digits is in
// the environment beforehand.
constexpr std::string_view kListenPid = "LISTEN_PID=";

void write_pid(char* digits, pid_t pid) {
  std::array<char, 16> reversed{};
  size_t n = 0;
  for (; pid > 0; pid /= 10) reversed[n++] = static_cast<char>('0' + pid % 10);
  while (n > 0) *digits++ = reversed[--n];
  *digits = '\0';
}

// Puts `fd` at `target`, open across exec.
void place_fd(int fd, int target) {
  if (fd == target) {
    ::fcntl(fd, F_SETFD, 0);
  } else {
    ::dup2(fd, target);
  }
}

struct ChildFds {
  int stdout_fd;
  int stderr_fd;
  int listen_fd;
  int secret_fd;
};

[[noreturn]] void run_child(const char* program, char** argv, char** environment, char* pid_digits,
                            pid_t parent, ChildFds fds) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(kExecFailed);
  // A terminal's Ctrl-C goes to the whole group; the parent ends its helpers itself, in order.
  ::setpgid(0, 0);
  const int null_fd = ::open("/dev/null", O_RDWR);
  ::dup2(null_fd, STDIN_FILENO);
  ::dup2(fds.stdout_fd >= 0 ? fds.stdout_fd : null_fd, STDOUT_FILENO);
  ::dup2(fds.stderr_fd, STDERR_FILENO);
  if (fds.listen_fd >= 0) {
    place_fd(fds.listen_fd, kListenFd);
    write_pid(pid_digits, ::getpid());
  }
  if (fds.secret_fd >= 0) place_fd(fds.secret_fd, ChildProcess::kSecretFd);
  ::execve(program, argv, environment);
  ::_exit(kExecFailed);
}

}  // namespace

Result<ChildProcess> ChildProcess::start(std::vector<std::string> argv, const Options& options) {
  TRY_ASSIGN(const std::string program, find_program(argv[0], options.package));
  const std::string name = argv[0];
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (std::strncmp(*entry, "LISTEN_", 7) != 0) environment.emplace_back(*entry);
  }
  char* pid_digits = nullptr;
  if (options.listen_fd >= 0) {
    environment.emplace_back("LISTEN_FDS=1");
    pid_digits = environment.emplace_back(std::string(kListenPid) + std::string(16, '0')).data() +
                 kListenPid.size();
  }
  const auto argv_pointers = pointers(argv);
  const auto environment_pointers = pointers(environment);

  TRY_ASSIGN(const int stderr_fd, make_memory_file(""));
  Result<int> secret_fd =
      options.secret.empty() ? Result<int>(-1) : make_memory_file(options.secret);
  const pid_t parent = ::getpid();
  const pid_t pid = secret_fd ? ::fork() : -1;
  if (pid == 0) {
    run_child(program.c_str(), const_cast<char**>(argv_pointers.data()),
              const_cast<char**>(environment_pointers.data()), pid_digits, parent,
              {options.stdout_fd, stderr_fd, options.listen_fd, *secret_fd});
  }
  const int fork_errno = errno;
  if (secret_fd && *secret_fd >= 0) ::close(*secret_fd);
  if (pid < 0) {
    ::close(stderr_fd);
    return fail_errno(fork_errno, "cannot start {}", name);
  }
  return ChildProcess(name, pid, stderr_fd);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : name_(std::move(other.name_)),
      pid_(std::exchange(other.pid_, -1)),
      stderr_fd_(std::exchange(other.stderr_fd_, -1)) {}

ChildProcess::~ChildProcess() {
  if (pid_ > 0) {
    // They serve reads only (or write to a file that is thrown away), so nothing is lost.
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  if (stderr_fd_ >= 0) ::close(stderr_fd_);
}

Result<void> ChildProcess::wait() {
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0) {
    if (errno != EINTR) return fail_errno(errno, "waiting for {}", name_);
    TRY(check_interrupt());
  }
  pid_ = -1;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  const std::string text = error_text();
  return fail(ErrorKind::kIo, "{}", text.empty() ? name_ + " failed" : text);
}

std::string ChildProcess::error_text() const {
  std::string text = read_all(stderr_fd_);
  text.erase(text.find_last_not_of("\n ") + 1);
  const size_t line = text.rfind('\n');
  return line == std::string::npos ? text : text.substr(line + 1);
}

Result<std::string> run_program(std::vector<std::string> argv, const std::string& package) {
  TRY_ASSIGN(const int stdout_fd, make_memory_file(""));
  auto child = ChildProcess::start(std::move(argv), {.stdout_fd = stdout_fd, .package = package});
  Result<void> ended = child ? child->wait() : std::unexpected(child.error());
  std::string output = read_all(stdout_fd);
  ::close(stdout_fd);
  TRY(std::move(ended));
  return output;
}

}  // namespace squall
