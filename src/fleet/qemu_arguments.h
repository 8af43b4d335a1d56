// QEMU's command line for a VM on a volume. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "fleet/launcher.h"

namespace squall {

inline constexpr const char* kQemuProgram = "qemu-system-x86_64";
inline constexpr const char* kQemuPackage = "qemu-system-x86";

// How long a guest's requests wait for the daemon to come back before they fail. A guest that waits
// is better off than one whose file system has gone read-only.
constexpr uint32_t kReconnectDelayS = 3600;

// Everything that a VM has on the host besides its volume.
struct QemuPlaces {
  std::string nbd_socket;
  std::string qmp_socket;
  std::string console_socket;
  std::string console_log;
  std::string pid_file;
};

// `accelerator` is kKvm or kTcg.
std::vector<std::string> qemu_arguments(const VmDefinition& vm, const QemuPlaces& places,
                                        Accelerator accelerator);

// A boot sector's worth of guest that ends QEMU with exit status kProbeExitStatus: the machine code
// writes a byte to the debug exit port. It goes through the BIOS, so that real mode, protected mode
// and interrupts have been seen to work.
constexpr int kProbeExitStatus = 0x2a << 1 | 1;  // what isa-debug-exit makes of the byte
std::string probe_boot_sector();
std::vector<std::string> probe_arguments(Accelerator accelerator, const std::string& disk);

}  // namespace squall
