#include "sim/sim_file_system.h"

#include <gtest/gtest.h>

#include "io/file_system_contract.h"
#include "sim/sim_reactor.h"

namespace squall::sim {
namespace {

class SimEnvironment {
 public:
  SimEnvironment() { CHECK(reactor_.files().make_directory("/test")); }
  FileSystem& file_system() { return reactor_.files(); }
  Reactor& reactor() { return reactor_; }
  std::string directory() const { return "/test"; }

 private:
  SimDisk disk_{1};
  SimReactor reactor_{1, disk_};
};

}  // namespace
}  // namespace squall::sim

namespace squall {
INSTANTIATE_TYPED_TEST_SUITE_P(Sim, FileSystemContract, sim::SimEnvironment);
}  // namespace squall
