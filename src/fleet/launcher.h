// Launcher: starts and stops VMs. A VM lives on when the program that started it ends; who calls
// later finds it again by its directory. Calls block; one thread per Launcher.
#pragma once

#include <string>

#include "fleet/spec.h"

namespace squall {

struct VmDefinition {
  std::string name;
  std::string directory;  // of its own; the launcher keeps what it needs there
  std::string volume;     // its disk: the volume's export
  FleetSpec fleet;        // what it shares with the other VMs
};

enum class StopHow {
  kPowerDown,  // presses the power button; the guest may take its time, or ignore it
  kQuit,       // ends the VM in an orderly way, the guest unasked
  kTerminate,  // the same by signal, should it not listen
  kKill,
};

class Launcher {
 public:
  virtual ~Launcher() = default;
  // What is found out once and not at the expense of the first VM's boot time. start() does
  // without.
  virtual Result<void> prepare(const FleetSpec& fleet) = 0;
  // Returns when the VM runs (its guest has hardly begun to boot). kBusy when it runs already.
  virtual Result<void> start(const VmDefinition& vm) = 0;
  virtual bool is_running(const VmDefinition& vm) = 0;
  // Asks and does not wait. A VM that does not run is left alone.
  virtual void stop(const VmDefinition& vm, StopHow how) = 0;
  // The file that the guest's serial console is written to; new with every start.
  virtual std::string console_log(const VmDefinition& vm) const = 0;
  // The unix socket on which somebody can talk to that console while the VM runs.
  virtual std::string console_socket(const VmDefinition& vm) const = 0;
};

}  // namespace squall
