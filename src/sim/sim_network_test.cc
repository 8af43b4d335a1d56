#include "sim/sim_network.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "io/run_task.h"
#include "sim/sim_reactor.h"

namespace squall::sim {
namespace {

Task<int> accept_one(Reactor& reactor, int listener) {
  co_return co_await io_accept(reactor, listener);
}

// What one recv gives; "" at the end of the stream, "!" and the errno on an error.
Task<std::string> recv_some(Reactor& reactor, int handle, size_t size) {
  std::string text(size, '?');
  const int count = co_await io_recv(reactor, handle, std::as_writable_bytes(std::span(text)));
  if (count < 0) co_return "!" + std::to_string(-count);
  text.resize(static_cast<size_t>(count));
  co_return text;
}

// Everything up to the end of the stream or an error.
Task<std::string> recv_all(Reactor& reactor, int handle) {
  std::string all;
  while (true) {
    const std::string some = co_await recv_some(reactor, handle, 1000);
    if (some.empty() || some.starts_with("!")) co_return all + some;
    all += some;
  }
}

// 0 when everything was sent, or the error.
Task<int> send_all(Reactor& reactor, int handle, std::string text) {
  for (size_t done = 0; done < text.size();) {
    const iovec iov{text.data() + done, text.size() - done};
    const int count = co_await io_send(reactor, handle, std::span(&iov, 1));
    if (count < 0) co_return count;
    done += static_cast<size_t>(count);
  }
  co_return 0;
}

std::string numbers(size_t size) {
  std::string text;
  for (int i = 0; text.size() < size; ++i) text += std::to_string(i) + ",";
  return text;
}

class SimNetworkTest : public testing::Test {
 protected:
  explicit SimNetworkTest(uint64_t seed = 1) : disk(seed), reactor(seed, disk) {}

  struct Pair {
    int client;
    int server;
  };
  Pair connect(const Endpoint& endpoint) {
    const int listener = net.listen(endpoint).value();
    Endpoint target = endpoint;
    if (!endpoint.is_unix()) target.port = net.bound_port(listener).value();
    const int client = net.connect(target).value();
    const int server = run_task(reactor, accept_one(reactor, listener));
    net.close(listener);
    return {client, server};
  }
  Pair unix_pair() { return connect({.unix_path = "/run/s"}); }
  Pair tcp_pair() { return connect({.host = "server"}); }
  void settle() {
    while (reactor.run_once()) {
    }
  }

  SimDisk disk;
  SimReactor reactor;
  SimNetwork& net = reactor.network();
};

TEST_F(SimNetworkTest, BytesArriveInOrderOverBothKinds) {
  const std::string text = numbers(300'000);
  for (const auto& [client, server] : {unix_pair(), tcp_pair()}) {
    int sent = -1;
    spawn(send_all(reactor, client, text), [&, client = client](int result) {
      sent = result;
      net.shutdown_send(client);
    });
    EXPECT_EQ(run_task(reactor, recv_all(reactor, server)), text);
    EXPECT_EQ(sent, 0);
    EXPECT_EQ(run_task(reactor, send_all(reactor, server, "reply")), 0) << "half-closed";
    net.close(server);
    EXPECT_EQ(run_task(reactor, recv_all(reactor, client)), "reply");
    net.close(client);
  }
}

TEST_F(SimNetworkTest, TransfersAreSometimesShort) {
  const auto [client, server] = tcp_pair();
  std::set<size_t> sizes;
  for (int i = 0; i < 100; ++i) {
    spawn(send_all(reactor, client, std::string(100, 'x')), [](int) {});
    for (size_t got = 0; got < 100;) {
      const std::string some = run_task(reactor, recv_some(reactor, server, 100 - got));
      sizes.insert(some.size());
      got += some.size();
    }
  }
  EXPECT_TRUE(sizes.contains(100));
  EXPECT_GT(sizes.size(), 5U);
}

TEST_F(SimNetworkTest, BuffersAreBounded) {
  net.set_buffer_bytes(1000);
  const auto [client, server] = tcp_pair();
  int sent = -1;
  spawn(send_all(reactor, client, numbers(5000)), [&](int result) { sent = result; });
  settle();
  EXPECT_EQ(sent, -1) << "nobody reads, so the sender waits";
  std::string got;
  while (got.size() < 5000) got += run_task(reactor, recv_some(reactor, server, 700));
  settle();
  EXPECT_EQ(sent, 0);
}

TEST_F(SimNetworkTest, PeersAreKnown) {
  const int unix_listener = net.listen({.unix_path = "/run/s"}).value();
  const int tcp_listener = net.listen({.host = "", .port = 10809}).value();
  net.set_identity({.pid = 42, .uid = 7, .host = "node-2"});
  const int unix_client = net.connect({.unix_path = "/run/s"}).value();
  const int tcp_client = net.connect({.host = "node-1", .port = 10809}).value();
  const int unix_server = run_task(reactor, accept_one(reactor, unix_listener));
  const int tcp_server = run_task(reactor, accept_one(reactor, tcp_listener));
  EXPECT_EQ(net.peer(unix_server).value(), (PeerIdentity{.is_unix = true, .pid = 42, .uid = 7}));
  EXPECT_EQ(net.peer(tcp_server).value(), PeerIdentity{.address = "node-2"});
  EXPECT_EQ(net.peer(unix_client)->pid, 1000);
  EXPECT_EQ(net.peer(tcp_client)->address, "node-1");
  EXPECT_EQ(net.bound_port(tcp_listener).value(), 10809);
  EXPECT_FALSE(net.bound_port(unix_listener));
}

TEST_F(SimNetworkTest, AListenerIsBusyUntilItIsClosed) {
  const Endpoint endpoint{.unix_path = "/run/s"};
  EXPECT_EQ(net.connect(endpoint).error().kind(), ErrorKind::kNotFound);
  const int listener = net.listen(endpoint).value();
  EXPECT_EQ(net.listen(endpoint).error().kind(), ErrorKind::kBusy);
  net.close(listener);
  EXPECT_EQ(net.connect(endpoint).error().os_errno(), ECONNREFUSED);
  EXPECT_TRUE(net.listen(endpoint));
  const auto too_long = net.listen({.unix_path = "/" + std::string(107, 'x')});
  EXPECT_EQ(too_long.error().kind(), ErrorKind::kInvalid);
}

TEST_F(SimNetworkTest, ClosingTheListenerResetsWhoWaits) {
  const int listener = net.listen({.host = "a", .port = 1}).value();
  const int client = net.connect({.host = "a", .port = 1}).value();
  net.close(listener);
  EXPECT_EQ(run_task(reactor, recv_all(reactor, client)), "!" + std::to_string(ECONNRESET));
}

TEST_F(SimNetworkTest, HangUpIsSeenWithoutReading) {
  const auto [client, server] = tcp_pair();
  EXPECT_EQ(run_task(reactor, send_all(reactor, client, "abc")), 0);
  EXPECT_FALSE(net.is_hung_up(server));
  net.close(client);
  settle();
  EXPECT_TRUE(net.is_hung_up(server));
  EXPECT_EQ(run_task(reactor, recv_all(reactor, server)), "abc");
  EXPECT_EQ(run_task(reactor, send_all(reactor, server, "lost")), 0) << "the first is taken";
  settle();
  EXPECT_EQ(run_task(reactor, send_all(reactor, server, "lost")), -ECONNRESET);
}

TEST_F(SimNetworkTest, ShutdownDiscardsWhatWasNotReadAndWhatComesLater) {
  for (const auto& [client, server] : {unix_pair(), tcp_pair()}) {
    EXPECT_EQ(run_task(reactor, send_all(reactor, client, "unread")), 0);
    settle();
    net.shutdown(server);
    EXPECT_EQ(run_task(reactor, recv_all(reactor, server)), "");
    (void)run_task(reactor, send_all(reactor, client, "late"));
    settle();
    EXPECT_EQ(run_task(reactor, recv_all(reactor, server)), "");
    EXPECT_TRUE(net.is_hung_up(client));
    EXPECT_EQ(run_task(reactor, send_all(reactor, server, "x")), -EPIPE);
  }
}

TEST_F(SimNetworkTest, ShutdownEndsPendingOperations) {
  net.set_buffer_bytes(10);
  const auto [client, server] = tcp_pair();
  const int listener = net.listen({.unix_path = "/run/l"}).value();
  std::string received = "?";
  int sent = 1;
  int accepted = 1;
  spawn(recv_all(reactor, server), [&](std::string result) { received = result; });
  spawn(send_all(reactor, server, numbers(1000)), [&](int result) { sent = result; });
  spawn(accept_one(reactor, listener), [&](int result) { accepted = result; });
  settle();
  net.shutdown(server);
  net.shutdown(listener);
  EXPECT_EQ(received, "?") << "never from inside the call";
  settle();
  EXPECT_EQ(received, "");
  EXPECT_EQ(sent, -EPIPE);
  EXPECT_EQ(accepted, -EINVAL);
}

TEST_F(SimNetworkTest, AClosedSocketLivesOnUnderItsPendingOperation) {
  const auto [client, server] = tcp_pair();
  std::string received = "?";
  spawn(recv_some(reactor, server, 10), [&](std::string result) { received = result; });
  net.close(server);
  settle();
  EXPECT_FALSE(net.is_hung_up(client));
  EXPECT_EQ(run_task(reactor, send_all(reactor, client, "x")), 0);
  settle();
  EXPECT_EQ(received, "x");
  EXPECT_TRUE(net.is_hung_up(client)) << "and closes after it";
  EXPECT_EQ(run_task(reactor, recv_some(reactor, server, 1)), "!" + std::to_string(EBADF));
}

TEST_F(SimNetworkTest, CancelEndsWhatWaits) {
  const auto [client, server] = tcp_pair();
  std::byte byte;
  iovec iov{&byte, 1};
  Operation op;
  op.code = Operation::Code::kRecv;
  op.handle = server;
  op.iov = &iov;
  op.iov_count = 1;
  int completions = 0;
  op.context = &completions;
  op.on_complete = [](Operation& self) { ++*static_cast<int*>(self.context); };
  reactor.submit(op);
  settle();
  reactor.cancel(op);
  reactor.cancel(op);
  settle();
  EXPECT_EQ(completions, 1);
  EXPECT_EQ(op.result, -ECANCELED);
  EXPECT_EQ(run_task(reactor, send_all(reactor, client, "x")), 0);
  EXPECT_EQ(run_task(reactor, recv_some(reactor, server, 1)), "x");
}

TEST_F(SimNetworkTest, AResetIsAnError) {
  const auto [client, server] = tcp_pair();
  EXPECT_EQ(run_task(reactor, send_all(reactor, client, "abc")), 0);
  net.reset(client);
  settle();
  EXPECT_TRUE(net.is_hung_up(server));
  EXPECT_EQ(run_task(reactor, recv_all(reactor, server)), "!" + std::to_string(ECONNRESET));
}

TEST_F(SimNetworkTest, APartitionStallsConnectionsAndRefusesNewOnes) {
  net.set_identity({.host = "client"});
  const int other = net.listen({.host = "server", .port = 5}).value();
  const auto [client, server] = tcp_pair();
  net.partition("server", "client");
  EXPECT_EQ(run_task(reactor, send_all(reactor, client, "abc")), 0);
  net.close(client);
  settle();
  EXPECT_FALSE(net.is_hung_up(server));
  EXPECT_EQ(net.connect({.host = "server", .port = 5}).error().os_errno(), ETIMEDOUT);
  net.set_identity({.host = "neighbour"});
  EXPECT_TRUE(net.connect({.host = "server", .port = 5}));
  net.heal("client", "server");
  EXPECT_EQ(run_task(reactor, recv_all(reactor, server)), "abc");
  net.close(other);
}

TEST_F(SimNetworkTest, LinksHaveTheirDelays) {
  net.set_identity({.host = "far"});
  net.set_link("far", "server", {.delay_ns_min = 1'000'000'000, .delay_ns_max = 2'000'000'000});
  const auto [client, server] = tcp_pair();
  const uint64_t before = reactor.now_ns();
  EXPECT_EQ(run_task(reactor, send_all(reactor, client, "x")), 0);
  EXPECT_EQ(run_task(reactor, recv_some(reactor, server, 1)), "x");
  EXPECT_GE(reactor.now_ns() - before, 1'000'000'000U);
}

TEST(SimNetworkRuns, TheSeedDecidesTheRun) {
  const auto run = [](uint64_t seed) {
    SimDisk disk(seed);
    SimReactor reactor(seed, disk);
    SimNetwork& net = reactor.network();
    const int listener = net.listen({.host = "s", .port = 1}).value();
    for (int i = 0; i < 5; ++i) {
      const int client = net.connect({.host = "s", .port = 1}).value();
      const int server = run_task(reactor, accept_one(reactor, listener));
      spawn(send_all(reactor, client, numbers(20'000)),
            [&net, client](int) { net.shutdown_send(client); });
      spawn(recv_all(reactor, server), [](std::string) {});
    }
    while (reactor.run_once()) {
    }
    return reactor.trace_hash();
  };
  std::set<uint64_t> traces;
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const uint64_t trace = run(seed);
    EXPECT_EQ(run(seed), trace);
    traces.insert(trace);
  }
  EXPECT_EQ(traces.size(), 5U);
}

}  // namespace
}  // namespace squall::sim
