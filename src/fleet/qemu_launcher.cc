// A VM is found by its pid file, which QEMU keeps locked as long as it lives; so a VM is never
// started twice, and a process that got its pid later is never taken for it. Sockets lie in RUNDIR
// under short names, since a socket's path has room for 107 bytes only.
#include "fleet/qemu_launcher.h"

#include <signal.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>

#include "base/hash.h"
#include "base/log.h"
#include "fleet/console.h"
#include "fleet/process.h"
#include "fleet/qmp.h"

namespace squall {

namespace {

constexpr uint64_t kStartTimeoutMs = 60'000;
constexpr uint64_t kProbeTimeoutMs = 4'000;
constexpr uint64_t kQmpTimeoutMs = 2'000;

std::string log_of(const VmDefinition& vm) {
  return vm.directory + "/qemu.log";
}

std::string boot_id() {
  const Result<std::string> id = read_small_file("/proc/sys/kernel/random/boot_id", 128);
  return id ? id->substr(0, id->find('\n')) : std::string();
}

Result<void> make_directory(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return fail_errno(error.value(), "cannot create {}", path);
  return {};
}

}  // namespace

QemuPlaces QemuLauncher::places(const VmDefinition& vm) const {
  const std::string stem =
      fmt::format("{}/vm/{:016x}", run_dir_, checksum(as_bytes(vm.directory), 0));
  return {.nbd_socket = nbd_socket_,
          .qmp_socket = stem + ".qmp",
          .console_socket = stem + ".console",
          .console_log = vm.directory + "/console.log",
          .pid_file = vm.directory + "/pid"};
}

std::string QemuLauncher::console_log(const VmDefinition& vm) const {
  return places(vm).console_log;
}

std::string QemuLauncher::console_socket(const VmDefinition& vm) const {
  return places(vm).console_socket;
}

bool QemuLauncher::is_running(const VmDefinition& vm) {
  return pid_file_holder(places(vm).pid_file).has_value();
}

Result<void> QemuLauncher::prepare(const FleetSpec& fleet) {
  TRY(choose_accelerator(fleet.accelerator));
  return {};
}

Result<void> QemuLauncher::start(const VmDefinition& vm) {
  const QemuPlaces at = places(vm);
  if (is_running(vm)) return fail(ErrorKind::kBusy, "VM {} runs already", vm.name);
  if (at.console_socket.size() >= sizeof sockaddr_un::sun_path) {
    return fail(ErrorKind::kInvalid,
                "{}: too long for a unix socket (107 bytes); use a shorter SQUALL_HOME",
                at.console_socket);
  }
  TRY_ASSIGN(const Accelerator accelerator, choose_accelerator(vm.fleet.accelerator));
  TRY(make_directory(vm.directory));
  TRY(make_directory(run_dir_ + "/vm"));
  // The old console must not be mistaken for the new one's.
  ::unlink(at.console_log.c_str());
  ::unlink(log_of(vm).c_str());
  TRY_ASSIGN(const ProgramEnd end, run_program_to_log(qemu_arguments(vm, at, accelerator),
                                                      log_of(vm), kStartTimeoutMs, kQemuPackage));
  if (end.timed_out)
    return fail(ErrorKind::kIo, "VM {}: QEMU did not start within {} s", vm.name,
                kStartTimeoutMs / 1000);
  if (end.exit_status != 0) {
    const std::string why = last_line_of_file(log_of(vm), 400);
    return fail(ErrorKind::kIo, "VM {}: QEMU ended with status {}: {}", vm.name, end.exit_status,
                why.empty() ? "it said nothing" : why);
  }
  return {};
}

void QemuLauncher::stop(const VmDefinition& vm, StopHow how) {
  const QemuPlaces at = places(vm);
  switch (how) {
    case StopHow::kPowerDown:
    case StopHow::kQuit: {
      const char* command = how == StopHow::kQuit ? "quit" : "system_powerdown";
      if (!is_running(vm)) break;
      if (auto done = qmp_execute(at.qmp_socket, command, kQmpTimeoutMs); !done)
        LOG_DEBUG("fleet: {}: {}", vm.name, done.error().message());
      break;
    }
    case StopHow::kTerminate:
    case StopHow::kKill:
      signal_pid_file_holder(at.pid_file, how == StopHow::kKill ? SIGKILL : SIGTERM);
      break;
  }
  if (!is_running(vm)) {
    ::unlink(at.qmp_socket.c_str());
    ::unlink(at.console_socket.c_str());
  }
}

Result<Accelerator> QemuLauncher::choose_accelerator(Accelerator wanted) {
  if (wanted != Accelerator::kAuto) return wanted;
  TRY_ASSIGN(const bool works, kvm_works());
  return works ? Accelerator::kKvm : Accelerator::kTcg;
}

Result<bool> QemuLauncher::kvm_works() {
  if (kvm_works_) return *kvm_works_;
  if (::access("/dev/kvm", R_OK | W_OK) != 0) return kvm_works_.emplace(false);
  TRY(make_directory(run_dir_ + "/vm"));
  const std::string answer_file = run_dir_ + "/vm/kvm-probe";
  const std::string id = boot_id();
  if (const auto answer = read_small_file(answer_file, 256); answer && !id.empty()) {
    if (*answer == id + " works\n") return kvm_works_.emplace(true);
    if (*answer == id + " does not work\n") return kvm_works_.emplace(false);
  }
  const std::string disk = fmt::format("{}/vm/kvm-probe.{}.raw", run_dir_, ::getpid());
  const std::string log = run_dir_ + "/vm/kvm-probe.log";
  TRY(write_file_atomically(disk, probe_boot_sector()));
  ::unlink(log.c_str());
  const Result<ProgramEnd> end = run_program_to_log(probe_arguments(Accelerator::kKvm, disk), log,
                                                    kProbeTimeoutMs, kQemuPackage);
  ::unlink(disk.c_str());
  if (!end) return std::unexpected(end.error());
  const bool works = !end->timed_out && end->exit_status == kProbeExitStatus;
  TRY(write_file_atomically(answer_file, id + (works ? " works\n" : " does not work\n")));
  return kvm_works_.emplace(works);
}

}  // namespace squall
