#include "export/nbd/nbd_server.h"

#include <cerrno>

#include "export/nbd/test_support.h"

namespace squall::nbd {
namespace {

using NbdServerTest = ServerTest;

bool is_read_only(std::optional<uint16_t> flags) {
  EXPECT_TRUE(flags);
  return flags && (*flags & kFlagReadOnly) != 0;
}

TEST_P(NbdServerTest, OneWritingClientOthersReadOnly) {
  auto a = connect_as(process(1)), b = connect_as(process(2)), c = connect_as(process(1));
  EXPECT_FALSE(is_read_only(a->go("disk")));
  EXPECT_TRUE(is_read_only(b->go("disk")));
  EXPECT_FALSE(is_read_only(c->go("disk")));
  EXPECT_EQ(a->write(0, pattern(512, 1)), WireError::kOk);
  EXPECT_EQ(b->write(0, pattern(512, 2)), WireError::kPerm);
  EXPECT_EQ(b->read(0, 512)->data, pattern(512, 1));
  EXPECT_EQ(c->read(0, 512)->data, pattern(512, 1));
  auto clients = server_->clients("disk");
  ASSERT_EQ(clients.size(), 3U);
  EXPECT_TRUE(clients[0].writer);
  EXPECT_EQ(clients[0].identity, process(1));
  EXPECT_EQ(clients[0].requests, 1U);
  EXPECT_EQ(clients[0].bytes_written, 512U);
  EXPECT_FALSE(clients[1].writer);
  EXPECT_TRUE(server_->clients("image").empty());
  a->close(), c->close();
  auto d = connect_as(process(3));
  EXPECT_FALSE(is_read_only(d->go("disk"))) << "the writer has left";
}

TEST_P(NbdServerTest, SharedDisksHaveManyWriters) {
  auto a = connect_as(process(1)), b = connect_as(host("10.0.0.1"));
  EXPECT_FALSE(is_read_only(a->go("shared")));
  EXPECT_FALSE(is_read_only(b->go("shared")));
  EXPECT_EQ(b->write(0, pattern(512, 1)), WireError::kOk);
}

// A client dies with one request in flight and another unread. The first may land, but before its
// successor is answered; the second may not land at all any more.
TEST_P(NbdServerTest, ADeadClientsRequestsNeverLandAfterItsSuccessors) {
  restart({.requests_per_connection = 1});
  for (const PeerIdentity& successor : {process(1), process(2)}) {
    auto dead = connect_as(process(1));
    ASSERT_FALSE(is_read_only(dead->go("disk")));
    disk_->hold();
    ASSERT_TRUE(dead->send_request(Command::kWrite, 0, 512, 0, pattern(512, 1)));
    ASSERT_TRUE(dead->send_request(Command::kWrite, 4096, 512, 0, pattern(512, 2)));
    ASSERT_TRUE(eventually([&] { return disk_->in_flight() == 1; }));
    dead->close();

    auto next = connect_as(successor);
    next->greet();
    next->send_option(Option::kGo, TestClient::info_data("disk"));
    for (int i = 0; i < 50; ++i) run_task(*reactor_, pause());
    EXPECT_EQ(admission_->clients("disk").size(), 1U) << "not answered yet";
    disk_->release();
    const auto info = next->answer();
    ASSERT_TRUE(info);
    EXPECT_FALSE(is_read_only(load_be<uint16_t>(info->data.data() + 10)));
    ASSERT_TRUE(next->answer());
    EXPECT_EQ(disk_->content(0, 512), pattern(512, 1));
    ASSERT_EQ(next->write(0, pattern(512, 3)), WireError::kOk);
    for (int i = 0; i < 50; ++i) run_task(*reactor_, pause());
    EXPECT_EQ(disk_->content(0, 512), pattern(512, 3));
    EXPECT_EQ(disk_->content(4096, 512), std::vector<std::byte>(512));
    next->send_request(Command::kDisconnect, 0, 0);
    EXPECT_TRUE(next->is_closed());
  }
}

TEST_P(NbdServerTest, OnTcpANewConnectionReplacesTheOldOneOfItsClient) {
  restart({.requests_per_connection = 1});
  auto old = connect_as(host("10.0.0.1"));
  const auto flags = old->go("disk");
  ASSERT_TRUE(flags);
  EXPECT_EQ(*flags & (kFlagReadOnly | kFlagCanMultiConn), 0);
  disk_->hold();
  ASSERT_TRUE(old->send_request(Command::kWrite, 0, 512, 0, pattern(512, 1)));
  ASSERT_TRUE(old->send_request(Command::kWrite, 4096, 512, 0, pattern(512, 2)));
  ASSERT_TRUE(eventually([&] { return disk_->in_flight() == 1; }));
  auto other = connect_as(host("10.0.0.2"));
  EXPECT_TRUE(is_read_only(other->go("disk")));

  auto fresh = connect_as(host("10.0.0.1"));
  fresh->greet();
  fresh->send_option(Option::kGo, TestClient::info_data("disk"));
  EXPECT_TRUE(old->is_closed());
  EXPECT_EQ(disk_->in_flight(), 1U);
  disk_->release();
  ASSERT_TRUE(fresh->answer());
  ASSERT_TRUE(fresh->answer());
  EXPECT_EQ(fresh->write(0, pattern(512, 3)), WireError::kOk);
  EXPECT_EQ(disk_->content(0, 512), pattern(512, 3));
  EXPECT_EQ(disk_->content(4096, 512), std::vector<std::byte>(512)) << "unread, so discarded";
  EXPECT_TRUE(other->read(0, 512));
}

TEST_P(NbdServerTest, DisconnectExportEndsItsClientsAndNoOthers) {
  auto a = connect(), b = connect(), image = connect();
  ASSERT_TRUE(a->go("disk") && b->go("disk") && image->go("image"));
  disk_->hold();
  ASSERT_TRUE(a->send_request(Command::kWrite, 0, 512, 0, pattern(512, 1)));
  ASSERT_TRUE(eventually([&] { return disk_->in_flight() == 1; }));
  disks_.remove("disk");
  bool done = false;
  spawn(server_->disconnect_export("disk"), [&] { done = true; });
  EXPECT_TRUE(b->is_closed());
  EXPECT_FALSE(done) << "a request is in flight";
  disk_->release();
  EXPECT_TRUE(eventually([&] { return done; }));
  EXPECT_TRUE(a->is_closed());
  EXPECT_TRUE(image->read(0, 512));
  EXPECT_FALSE(connect()->go("disk"));
}

TEST_P(NbdServerTest, StopFinishesAndAnswersWhatIsInFlight) {
  auto c = connect();
  auto shaking = connect();
  ASSERT_TRUE(c->go("disk"));
  disk_->hold();
  ASSERT_TRUE(c->send_request(Command::kWrite, 0, 512, 0, pattern(512, 1)));
  ASSERT_TRUE(eventually([&] { return disk_->in_flight() == 1; }));
  bool stopped = false;
  spawn(server_->stop(), [&] { stopped = true; });
  for (int i = 0; i < 20; ++i) run_task(*reactor_, pause());
  EXPECT_FALSE(stopped);
  disk_->release();
  EXPECT_EQ(c->reply(), WireError::kOk);
  EXPECT_TRUE(c->is_closed());
  EXPECT_TRUE(eventually([&] { return stopped; }));
}

// The stream of a whole session, cut at every byte: the client vanishes there.
TEST_P(NbdServerTest, AClientMayVanishAtAnyByte) {
  disk_->set_suspend_chance(0.5);
  std::vector<std::byte> stream{{}, {}, {}, std::byte{3}};
  const auto add = [&](const std::vector<std::byte>& bytes) {
    stream.insert(stream.end(), bytes.begin(), bytes.end());
  };
  const auto option = [](Option o, ConstBytes data) {
    return TestClient::option_bytes(static_cast<uint32_t>(o), data);
  };
  add(option(Option::kStructuredReply, {}));
  add(option(Option::kSetMetaContext, TestClient::context_data("disk", {kBaseAllocation})));
  add(option(Option::kInfo, TestClient::info_data("disk", {0, 1, 2, 3})));
  add(option(Option::kList, {}));
  add(option(Option::kGo, TestClient::info_data("disk")));
  const auto request = [](Command command, uint32_t length, ConstBytes payload = {}) {
    return TestClient::request_bytes({0, static_cast<uint16_t>(command), 1, 0, length}, payload);
  };
  add(request(Command::kWrite, 100, pattern(100, 1)));
  add(request(Command::kRead, 4096));
  add(request(Command::kBlockStatus, 65536));
  add(request(Command::kFlush, 0));
  add(request(Command::kTrim, 8192));
  add(request(Command::kWriteZeroes, 8192));
  add(request(Command::kDisconnect, 0));
  for (size_t cut = 0; cut <= stream.size(); ++cut) {
    auto c = connect();
    ASSERT_TRUE(c->send(ConstBytes(stream).first(cut)));
    if (cut % 2 == 0) run_task(*reactor_, pause());
    c->close();
  }
  EXPECT_TRUE(eventually([&] { return server_->stats().connections_open == 0; }));
  EXPECT_TRUE(admission_->clients("disk").empty());
  EXPECT_EQ(disk_->in_flight(), 0U);
  auto c = connect();
  ASSERT_FALSE(is_read_only(c->go("disk")));
  EXPECT_TRUE(c->read(0, 512));
}

// Random bytes instead of a handshake, and instead of requests.
TEST_P(NbdServerTest, NoiseClosesOnlyTheConnectionItCameFrom) {
  auto good = connect();
  ASSERT_TRUE(good->go("disk"));
  for (uint64_t seed = 0; seed < 200; ++seed) {
    auto c = connect();
    if (seed % 2 == 0) c->go("image", true);
    c->send(pattern(1 + seed * 37 % 3000, seed));
    c->close();
  }
  EXPECT_TRUE(eventually([&] { return server_->stats().connections_open == 1; }));
  EXPECT_TRUE(good->read(0, 512));
}

TEST_P(NbdServerTest, FiveHundredConnections) {
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 500; ++i) {
    disks_.add("vm" + std::to_string(i), disk_);
    clients.push_back(connect());
    ASSERT_TRUE(clients.back()->go("vm" + std::to_string(i)));
  }
  for (int i = 0; i < 500; ++i)
    ASSERT_TRUE(clients[i]->send_request(Command::kWrite, i * 4096, 4096, 0, pattern(4096, i)));
  for (const auto& client : clients) ASSERT_EQ(client->reply(), WireError::kOk);
  for (int i = 0; i < 500; ++i) ASSERT_EQ(disk_->content(i * 4096, 4096), pattern(4096, i));
  EXPECT_EQ(server_->stats().connections_open, 500U);
}

TEST_P(NbdServerTest, ConnectionsBeyondTheLimitAreClosed) {
  restart({.connections_max = 2});
  auto a = connect(), b = connect();
  ASSERT_TRUE(a->go("disk") && b->go("image"));
  EXPECT_TRUE(connect()->is_closed());
  a->close();
  EXPECT_TRUE(eventually([&] { return server_->stats().connections_open == 1; }));
  EXPECT_TRUE(connect()->go("disk"));
}

// A client that asks and never takes the answers holds up only itself; when it holds the memory
// that others need, it is closed.
TEST_P(NbdServerTest, AClientThatDoesNotTakeItsReplies) {
  restart({.bytes_total = 8 * kMiB, .stall_ns_max = 100'000'000});
  auto stuck = connect();
  ASSERT_TRUE(stuck->go("disk"));
  for (int i = 0; i < 7; ++i) ASSERT_TRUE(stuck->send_request(Command::kRead, 0, kMiB));
  ASSERT_TRUE(eventually([&] { return server_->stats().bytes_read == 7 * kMiB; }));
  auto other = connect();
  ASSERT_TRUE(other->go("disk"));
  EXPECT_TRUE(other->read(0, 512 * kKiB)) << "there is room";
  EXPECT_EQ(server_->stats().connections_open, 2U);
  EXPECT_TRUE(other->read(0, 4 * kMiB)) << "room is made";
  EXPECT_TRUE(eventually([&] { return server_->stats().connections_open == 1; }));
}

TEST_P(NbdServerTest, AClientThatAnnouncesAPayloadAndDoesNotSendIt) {
  restart({.bytes_total = 8 * kMiB, .stall_ns_max = 100'000'000});
  auto stuck = connect();
  ASSERT_TRUE(stuck->go("disk"));
  ASSERT_TRUE(stuck->send_request(Command::kWrite, 0, 7 * kMiB, 0, pattern(1000, 1)));
  for (int i = 0; i < 20; ++i) run_task(*reactor_, pause());
  auto other = connect();
  ASSERT_TRUE(other->go("image"));
  EXPECT_TRUE(other->read(0, 4 * kMiB));
  EXPECT_TRUE(stuck->is_closed());
}

TEST_P(NbdServerTest, TcpListensWhereConfigured) {
  NbdServer server(*reactor_, *network_, disks_, *admission_,
                   NbdConfig{{Endpoint{.host = "127.0.0.1", .port = 0}}, {}});
  ASSERT_TRUE(server.start());
  const auto port = server.bound_port(0);
  ASSERT_TRUE(port);
  {
    TestClient client(*reactor_, *network_, Endpoint{.host = "127.0.0.1", .port = *port});
    const auto flags = client.go("disk");
    ASSERT_FALSE(is_read_only(flags));
    EXPECT_EQ(*flags & kFlagCanMultiConn, 0) << "a second one would take the first one's place";
    EXPECT_EQ(client.write(0, pattern(100'000, 1)), WireError::kOk);
    EXPECT_EQ(client.read(0, 100'000)->data, pattern(100'000, 1));
  }
  run_task(*reactor_, server.stop());
}

// A reactor whose next accepts fail as if descriptors had run out.
class ShortOfDescriptors final : public Reactor {
 public:
  ShortOfDescriptors(Reactor& inner, int failures) : inner_(inner), failures_(failures) {}
  int failures() const { return failures_; }
  void submit(Operation& op) override {
    if (op.code != Operation::Code::kAccept || failures_ == 0) return inner_.submit(op);
    --failures_;
    inner_.post([&op] {
      op.result = -EMFILE;
      op.on_complete(op);
    });
  }
  void cancel(Operation& op) override { inner_.cancel(op); }
  void arm(Timer& timer, uint64_t deadline_ns) override { inner_.arm(timer, deadline_ns); }
  void disarm(Timer& timer) override { inner_.disarm(timer); }
  void post(std::move_only_function<void()> work) override { inner_.post(std::move(work)); }
  uint64_t now_ns() const override { return inner_.now_ns(); }
  int64_t wall_clock_s() const override { return inner_.wall_clock_s(); }
  void run() override { inner_.run(); }
  bool run_once() override { return inner_.run_once(); }
  void stop() override { inner_.stop(); }

 private:
  Reactor& inner_;
  int failures_;
};

TEST_P(NbdServerTest, AcceptingGoesOnWhenDescriptorsRunOut) {
  ShortOfDescriptors reactor(*reactor_, 2);
  const Endpoint endpoint{.unix_path = directory_path_ + "/other.sock"};
  NbdServer server(reactor, *network_, disks_, *admission_, NbdConfig{{endpoint}, {}});
  ASSERT_TRUE(server.start());
  {
    TestClient client(*reactor_, *network_, endpoint);
    EXPECT_TRUE(client.go("disk"));
    EXPECT_EQ(reactor.failures(), 0);
  }
  run_task(*reactor_, server.stop());
}

TEST_P(NbdServerTest, ASocketInUseIsRefused) {
  NbdServer server(*reactor_, *network_, disks_, *admission_, NbdConfig{{endpoint_}, {}});
  const auto started = server.start();
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().kind(), ErrorKind::kBusy);
}

INSTANTIATE_IN_ALL_WORLDS(NbdServerTest);

}  // namespace
}  // namespace squall::nbd
