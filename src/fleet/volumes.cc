#include "fleet/volumes.h"

namespace squall {

template <class Call>
auto DaemonVolumes::with_client(Call call) -> decltype(call(std::declval<Client&>())) {
  if (!client_) {
    auto client = connect_();
    if (!client) return std::unexpected(client.error());
    client_.emplace(std::move(*client));
  }
  auto result = call(*client_);
  // Whether the connection is still good is not worth telling apart: a new one costs nothing.
  if (!result) client_.reset();
  return result;
}

Result<std::vector<VolumeInfo>> DaemonVolumes::create(const CreateVolume& request) {
  return with_client([&](Client& client) { return client.create_volumes(request); });
}

Result<std::vector<VolumeInfo>> DaemonVolumes::list() {
  return with_client([](Client& client) { return client.list_volumes(); });
}

Result<void> DaemonVolumes::remove(const std::string& name) {
  return with_client([&](Client& client) { return client.remove_volume(name, false); });
}

}  // namespace squall
