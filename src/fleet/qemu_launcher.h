// QemuLauncher: a QEMU process per VM, its disk the volume's export on the daemon's NBD socket.
// QEMU runs as a daemon of its own: it survives the command line that started it, and waits for
// squalld when that is restarted. No other service is needed.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "fleet/launcher.h"
#include "fleet/qemu_arguments.h"

namespace squall {

class QemuLauncher : public Launcher {
 public:
  // `nbd_socket`: the daemon's; only start() needs it.
  QemuLauncher(std::string run_dir, std::string nbd_socket)
      : run_dir_(std::move(run_dir)), nbd_socket_(std::move(nbd_socket)) {}

  Result<void> prepare(const FleetSpec& fleet) override;
  Result<void> start(const VmDefinition& vm) override;
  bool is_running(const VmDefinition& vm) override;
  void stop(const VmDefinition& vm, StopHow how) override;
  std::string console_log(const VmDefinition& vm) const override;
  std::string console_socket(const VmDefinition& vm) const override;

  // What kAuto comes to on this host: KVM if a guest really ran on it. /dev/kvm may exist and be of
  // no use (a nested hypervisor that hangs is common), so a tiny guest is booted, once per boot of
  // the host; the answer is kept in RUNDIR.
  Result<Accelerator> choose_accelerator(Accelerator wanted);

 private:
  QemuPlaces places(const VmDefinition& vm) const;
  Result<bool> kvm_works();

  const std::string run_dir_;
  const std::string nbd_socket_;
  std::optional<bool> kvm_works_;
};

}  // namespace squall
