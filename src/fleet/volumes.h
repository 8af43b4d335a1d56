// The volumes under a fleet's VMs, as the fleet needs them: an interface, so that a fleet's steps
// are tested without a daemon, and the implementation on the daemon's control API.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "api/client.h"

namespace squall {

class FleetVolumes {
 public:
  virtual ~FleetVolumes() = default;
  virtual Result<std::vector<VolumeInfo>> create(const CreateVolume& request) = 0;
  virtual Result<std::vector<VolumeInfo>> list() = 0;
  // kBusy while somebody has it open for writing.
  virtual Result<void> remove(const std::string& name) = 0;
};

// Connects when first used and again after the connection was lost: the daemon may be restarted
// while a fleet boots. A request that was cut off is not repeated: it may have been carried out.
class DaemonVolumes : public FleetVolumes {
 public:
  using Connect = std::function<Result<Client>()>;
  explicit DaemonVolumes(Connect connect) : connect_(std::move(connect)) {}

  Result<std::vector<VolumeInfo>> create(const CreateVolume& request) override;
  Result<std::vector<VolumeInfo>> list() override;
  Result<void> remove(const std::string& name) override;

 private:
  template <class Call>
  auto with_client(Call call) -> decltype(call(std::declval<Client&>()));

  const Connect connect_;
  std::optional<Client> client_;
};

}  // namespace squall
