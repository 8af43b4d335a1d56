#include "io/posix_network.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "io/run_task.h"
#include "io/test_reactor.h"

namespace squall {
namespace {

class PosixNetworkTest : public testing::Test {
 protected:
  PosixNetworkTest() {
    std::string name = testing::TempDir() + "squall_net_XXXXXX";
    CHECK(::mkdtemp(name.data()) != nullptr);
    directory_ = name;
  }
  ~PosixNetworkTest() override { std::filesystem::remove_all(directory_); }

  Endpoint unix_endpoint(const std::string& name) const {
    return {.unix_path = directory_ + "/" + name};
  }
  int listen(const Endpoint& endpoint) {
    auto handle = network_.listen(endpoint);
    EXPECT_TRUE(handle) << handle.error().message();
    return handle.value_or(-1);
  }
  int accept_one(int listener) {
    return run_task(*reactor_, [](Reactor& r, int handle) -> Task<int> {
      co_return co_await io_accept(r, handle);
    }(*reactor_, listener));
  }
  int recv_some(int handle, Bytes to) {
    return run_task(*reactor_, [](Reactor& r, int h, Bytes b) -> Task<int> {
      co_return co_await io_recv(r, h, b);
    }(*reactor_, handle, to));
  }
  void wait_until_hung_up(int handle) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (!network_.is_hung_up(handle) && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(network_.is_hung_up(handle));
  }
  // A connected pair over TCP on the loopback: {client, server}.
  std::pair<int, int> tcp_pair() {
    const int listener = listen({.host = "127.0.0.1"});
    const uint16_t port = network_.bound_port(listener).value();
    const int client = network_.connect({.host = "127.0.0.1", .port = port}).value();
    const int server = accept_one(listener);
    network_.close(listener);
    return {client, server};
  }

  PosixNetwork network_;
  std::unique_ptr<UringReactor> reactor_ = make_test_reactor();
  std::string directory_;
};

TEST_F(PosixNetworkTest, UnixSocketConnectsAndKnowsItsPeer) {
  const Endpoint endpoint = unix_endpoint("s");
  const int listener = listen(endpoint);
  struct stat status{};
  ASSERT_EQ(::stat(endpoint.unix_path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0660U);
  const int client = network_.connect(endpoint).value();
  const int server = accept_one(listener);
  ASSERT_GE(server, 0);
  const auto peer = network_.peer(server).value();
  EXPECT_TRUE(peer.is_unix);
  EXPECT_EQ(peer.pid, ::getpid());
  EXPECT_EQ(peer.uid, ::getuid());
  network_.set_no_delay(server);  // these mean nothing here and do no harm
  network_.give_up_after(server, 30);
  EXPECT_FALSE(network_.bound_port(listener));
  for (const int handle : {client, server, listener}) network_.close(handle);
}

TEST_F(PosixNetworkTest, AStaleSocketIsReplacedALiveOneIsBusy) {
  const Endpoint endpoint = unix_endpoint("s");
  const int first = listen(endpoint);
  const auto refused = network_.listen(endpoint);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind(), ErrorKind::kBusy);
  EXPECT_NE(refused.error().message().find(endpoint.unix_path), std::string::npos);
  network_.close(first);  // leaves the name behind, as a killed daemon does
  ASSERT_TRUE(std::filesystem::exists(endpoint.unix_path));
  EXPECT_FALSE(network_.connect(endpoint));
  const int second = listen(endpoint);
  const int client = network_.connect(endpoint).value();
  network_.close(client);
  network_.close(second);
}

TEST_F(PosixNetworkTest, RefusesAFileInTheWayAndATooLongPath) {
  const Endpoint file = unix_endpoint("file");
  std::ofstream(file.unix_path) << "precious";
  const auto refused = network_.listen(file);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind(), ErrorKind::kExists);
  EXPECT_TRUE(std::filesystem::exists(file.unix_path));

  const Endpoint long_path = unix_endpoint(std::string(120, 'x'));
  for (const auto& outcome : {network_.listen(long_path), network_.connect(long_path)}) {
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().kind(), ErrorKind::kInvalid);
    EXPECT_NE(outcome.error().message().find("107"), std::string::npos);
  }
}

TEST_F(PosixNetworkTest, TcpListensOnAFreePortAndNamesThePeer) {
  for (const std::string host : {"127.0.0.1", "::1", ""}) {
    auto listening = network_.listen({.host = host});
    if (!listening && host == "::1") continue;  // a machine without IPv6
    ASSERT_TRUE(listening) << listening.error().message();
    const uint16_t port = network_.bound_port(*listening).value();
    EXPECT_GT(port, 0);
    const std::string target = host.empty() ? "127.0.0.1" : host;
    const int client = network_.connect({.host = target, .port = port}).value();
    const int server = accept_one(*listening);
    const auto peer = network_.peer(server).value();
    EXPECT_FALSE(peer.is_unix);
    EXPECT_EQ(peer.address, target);
    network_.set_no_delay(server);
    network_.give_up_after(server, 30);
    int on = 0;
    socklen_t length = sizeof on;
    ASSERT_EQ(::getsockopt(server, SOL_SOCKET, SO_KEEPALIVE, &on, &length), 0);
    EXPECT_EQ(on, 1);
    const auto taken = network_.listen({.host = host, .port = port});
    ASSERT_FALSE(taken);
    EXPECT_EQ(taken.error().kind(), ErrorKind::kBusy);
    for (const int handle : {client, server, *listening}) network_.close(handle);
  }
  EXPECT_FALSE(network_.connect({.host = "no such host.invalid", .port = 1}));
}

TEST_F(PosixNetworkTest, HangUpIsSeenWithoutReading) {
  const auto [client, server] = tcp_pair();
  ASSERT_EQ(::send(client, "abc", 3, 0), 3);
  EXPECT_FALSE(network_.is_hung_up(server));
  network_.close(client);
  wait_until_hung_up(server);
  std::array<std::byte, 8> buffer;
  EXPECT_EQ(recv_some(server, buffer), 3) << "unread bytes are still there";
  network_.close(server);
}

TEST_F(PosixNetworkTest, ShutdownDiscardsWhatWasNotRead) {
  int unix_pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, unix_pair), 0);
  for (const auto& [client, server] : {tcp_pair(), std::pair(unix_pair[0], unix_pair[1])}) {
    const std::string late(100'000, 'x');
    ASSERT_GT(::send(client, late.data(), late.size(), MSG_DONTWAIT), 0);
    network_.shutdown(server);
    std::array<std::byte, 8> buffer;
    EXPECT_LE(recv_some(server, buffer), 0);
    (void)::send(client, late.data(), late.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_LE(recv_some(server, buffer), 0) << "nor does anything sent later arrive";
    wait_until_hung_up(client);
    network_.close(client);
    network_.close(server);
  }
}

TEST_F(PosixNetworkTest, ShutdownEndsPendingOperations) {
  const auto [client, server] = tcp_pair();
  const int unix_listener = listen(unix_endpoint("s"));
  const int tcp_listener = listen({.host = "127.0.0.1"});
  int ended = 0;
  auto receive = [](Reactor& r, int handle, int& count) -> Task<void> {
    std::array<std::byte, 8> buffer;
    EXPECT_LE(co_await io_recv(r, handle, buffer), 0);
    ++count;
  };
  auto accept = [](Reactor& r, int handle, int& count) -> Task<void> {
    EXPECT_LT(co_await io_accept(r, handle), 0);
    ++count;
  };
  spawn(receive(*reactor_, server, ended));
  spawn(accept(*reactor_, unix_listener, ended));
  spawn(accept(*reactor_, tcp_listener, ended));
  reactor_->post([] {});
  reactor_->run_once();
  EXPECT_EQ(ended, 0);
  for (const int handle : {server, unix_listener, tcp_listener}) network_.shutdown(handle);
  run_until(*reactor_, [&] { return ended == 3; });
  for (const int handle : {client, server, unix_listener, tcp_listener}) network_.close(handle);
}

}  // namespace
}  // namespace squall
