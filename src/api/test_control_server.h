// For tests: the control API over volumes in memory, on a socket of its own.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <string>
#include <thread>

#include "api/on_reactor.h"
#include "api/test_rest_host.h"
#include "io/posix_network.h"
#include "io/test_reactor.h"
#include "testing/memory_volume_manager.h"

namespace squall {

class TestControlServer : public IdleRestHost {
 public:
  explicit TestControlServer(HttpServer::Limits limits = {}) {
    CHECK(::mkdtemp(directory_.data()) != nullptr);
    const auto handle = network_.listen({.unix_path = socket_path()});
    CHECK(handle);
    const RestTarget target{*reactor_, manager_, *this};
    server_ =
        HttpServer::start(*handle, limits, [target] { return make_rest_session(target); }).value();
  }
  ~TestControlServer() override {
    server_->stop();
    reactor_->stop();
    thread_.join();
    ::unlink(socket_path().c_str());
    ::rmdir(directory_.c_str());
  }

  std::string socket_path() const { return directory_ + "/control.sock"; }
  size_t open_imports() {
    return on_reactor(*reactor_, [this] { return count_imports(); });
  }

  Task<Result<StatusInfo>> status() override {
    StatusInfo status;
    status.node.name = "here";
    status.stores.push_back(
        {.name = "default", .path = "/pool", .total_bytes = 100, .available_bytes = 50});
    co_return status;
  }
  Task<void> disconnect_clients(std::string disk) override {
    disconnected_ = std::move(disk);
    co_return;
  }
  // Of the last forced removal; read when it has been answered.
  const std::string& disconnected() const { return disconnected_; }

 private:
  Task<size_t> count_imports() { co_return manager_.open_imports(); }

  std::string directory_ = "/tmp/squall-api-XXXXXX";
  std::unique_ptr<UringReactor> reactor_ = make_test_reactor();
  PosixNetwork network_;
  testing::MemoryVolumeManager manager_{*reactor_};
  std::string disconnected_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_{[this] { reactor_->run(); }};
};

}  // namespace squall
