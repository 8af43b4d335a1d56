// Client: the control API of a running daemon, for the command line and the launchers. One
// connection over RUNDIR/control.sock; calls block until the daemon has answered. Not thread-safe:
// one Client per thread. Errors carry the kind the daemon gave.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "api/types.h"
#include "base/error.h"

namespace squall {

class Client {
 public:
  // kNotFound or kBusy with what to do when no daemon answers there.
  static Result<Client> connect(const std::string& socket_path);
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  Result<StatusInfo> status();
  Result<GcStarted> start_gc();
  Result<CollectorStatus> gc_status();
  Result<void> cancel_gc();
  Result<std::vector<NodeInfo>> list_nodes();
  Result<NodeInfo> show_node(const std::string& name);

  Result<std::vector<ImageInfo>> list_images();
  Result<ImageInfo> show_image(const std::string& name);
  Result<ImageInfo> create_image(const std::string& name, const std::string& from);
  Result<void> remove_image(const std::string& name);

  Result<std::vector<VolumeInfo>> list_volumes();
  Result<VolumeInfo> show_volume(const std::string& name);
  Result<std::vector<VolumeInfo>> create_volumes(const CreateVolume& request);
  Result<void> remove_volume(const std::string& name, bool force);
  Result<VolumeInfo> resize_volume(const std::string& name, uint64_t size_bytes);
  Result<VolumeInfo> rollback_volume(const std::string& name, const std::string& snapshot);
  Result<VolumeInfo> takeover_volume(const std::string& name, bool lose_data);
  Result<void> commit_volume(const std::string& name);

  Result<std::vector<SnapshotInfo>> list_snapshots(const std::string& volume);
  Result<SnapshotInfo> create_snapshot(const std::string& volume, const std::string& name);
  Result<void> remove_snapshot(const std::string& volume, const std::string& name);

  // A check of the pool by the daemon; it is cancelled when this Client goes.
  Result<uint64_t> start_check(const CheckRequest& request);
  Result<CheckStatus> check_status(uint64_t id);
  Result<void> cancel_check(uint64_t id);

  // An import's session lasts as long as this Client's connection: when the process dies before
  // finish_import, the daemon aborts it.
  Result<ImportSession> begin_import(const ImportRequest& request);
  Result<ImageInfo> finish_import(uint64_t session);
  Result<void> abort_import(uint64_t session);

 private:
  class Connection;
  explicit Client(std::unique_ptr<Connection> connection);

  template <class Response>
  Result<Response> call(std::string_view method, const std::string& path, std::string body = {});
  Result<void> call(std::string_view method, const std::string& path, std::string body = {});

  std::unique_ptr<Connection> connection_;
};

}  // namespace squall
