#include "fleet/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>

extern char** environ;

namespace squall {

namespace {

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }

 private:
  const int fd_;
};

int open_pidfd(pid_t pid) {
  return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
}

Result<pid_t> spawn_in_session(const std::vector<std::string>& argv, const std::string& log_path,
                               const std::string& package) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log_path.c_str(),
                                     O_WRONLY | O_CREAT | O_APPEND, 0600);
  ::posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  sigset_t none;
  sigset_t defaults;
  ::sigemptyset(&none);
  ::sigemptyset(&defaults);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::sigaddset(&defaults, signal);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &defaults);
  ::posix_spawnattr_setflags(
      &attributes,
      static_cast<short>(POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF));
  std::vector<char*> pointers;
  pointers.reserve(argv.size() + 1);
  for (const std::string& argument : argv) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  pid_t pid = -1;
  const int error =
      ::posix_spawnp(&pid, pointers[0], &actions, &attributes, pointers.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error == ENOENT) {
    return fail(ErrorKind::kNotFound,
                "cannot start {}: install the package {}, and see that {} can be written", argv[0],
                package, log_path);
  }
  if (error != 0) return fail_errno(error, "cannot start {}", argv[0]);
  return pid;
}

}  // namespace

Result<ProgramEnd> run_program_to_log(const std::vector<std::string>& argv,
                                      const std::string& log_path, uint64_t timeout_ms,
                                      const std::string& package) {
  TRY_ASSIGN(const pid_t pid, spawn_in_session(argv, log_path, package));
  ProgramEnd end;
  const Fd pidfd(open_pidfd(pid));
  pollfd poll{pidfd.get(), POLLIN, 0};
  // An interrupting signal is looked at by our caller afterwards; it only shortens this wait once.
  int ready = ::poll(&poll, 1, static_cast<int>(timeout_ms));
  if (ready < 0 && errno == EINTR) ready = ::poll(&poll, 1, static_cast<int>(timeout_ms));
  if (ready <= 0) {
    end.timed_out = true;
    ::kill(-pid, SIGKILL);
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return fail_errno(errno, "waiting for {}", argv[0]);
  }
  end.exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return end;
}

std::optional<pid_t> pid_file_holder(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.is_open()) return std::nullopt;
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(file.get(), F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) return std::nullopt;
  char text[32];
  const ssize_t n = ::pread(file.get(), text, sizeof text, 0);
  pid_t pid = 0;
  if (n > 0) std::from_chars(text, text + n, pid);
  // Locked but not written yet: it is being started. Nothing to signal, so nobody.
  if (pid <= 1) return std::nullopt;
  return pid;
}

void signal_pid_file_holder(const std::string& path, int signal) {
  const std::optional<pid_t> pid = pid_file_holder(path);
  if (!pid) return;
  const Fd pidfd(open_pidfd(*pid));
  // The handle is on whoever has the pid now; only if the lock is still held is it the right one.
  if (!pidfd.is_open() || pid_file_holder(path) != pid) return;
  ::syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0);
}

Result<std::string> read_small_file(const std::string& path, size_t bytes_max) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return fail_errno(errno, "cannot open {}", path);
  std::string content(bytes_max + 1, '\0');
  size_t size = 0;
  while (size < content.size()) {
    const ssize_t n = ::read(file.get(), content.data() + size, content.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, "cannot read {}", path);
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  if (size > bytes_max)
    return fail(ErrorKind::kCorrupt, "{} is larger than {} bytes", path, bytes_max);
  content.resize(size);
  return content;
}

Result<void> write_file_atomically(const std::string& path, const std::string& content) {
  const std::string temporary = path + ".new";
  const Fd file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.is_open()) return fail_errno(errno, "cannot create {}", temporary);
  for (size_t at = 0; at < content.size();) {
    const ssize_t n = ::write(file.get(), content.data() + at, content.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, "cannot write {}", temporary);
    at += static_cast<size_t>(n);
  }
  if (::fdatasync(file.get()) != 0) return fail_errno(errno, "cannot sync {}", temporary);
  if (::rename(temporary.c_str(), path.c_str()) != 0)
    return fail_errno(errno, "cannot replace {}", path);
  return {};
}

}  // namespace squall
