// One export, several clients that come, write and die at any moment, in simulation. Every session
// that may write takes the next number and writes it into the blocks. The promise of admission:
// once a newer session was let in, no older number appears anywhere any more; and never do two
// clients write at once.
#include <cstdlib>
#include <map>

#include "export/nbd/test_support.h"

namespace squall::nbd {
namespace {

constexpr uint64_t kBlocks = 8;
constexpr uint64_t kBlockLength = 4096;

struct Scene {
  explicit Scene(uint64_t seed)
      : files(seed), reactor(seed, files), admission(reactor), random(seed) {}
  sim::SimDisk files;
  sim::SimReactor reactor;
  Admission admission;
  testing::MemoryDirectory disks;
  std::shared_ptr<testing::MemoryDisk> disk;
  Random random;
  uint64_t sessions = 0;               // writing sessions so far: the newest one's number
  std::map<std::string, int> writers;  // client -> its open writing connections, dead ones excepted
  uint64_t writing_sessions = 0;
  int running = 0;
};

Task<bool> send_all(Reactor& reactor, int handle, std::vector<std::byte> bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const iovec iov{&bytes[at], bytes.size() - at};
    const int sent = co_await io_send(reactor, handle, std::span(&iov, 1));
    if (sent <= 0) co_return false;
    at += static_cast<size_t>(sent);
  }
  co_return true;
}

Task<bool> receive_all(Reactor& reactor, int handle, Bytes to) {
  while (!to.empty()) {
    const int got = co_await io_recv(reactor, handle, to);
    if (got <= 0) co_return false;
    to = to.subspan(static_cast<size_t>(got));
  }
  co_return true;
}

// The transmission flags, or nothing when the connection ended first.
Task<std::optional<uint16_t>> open_export(Reactor& reactor, int handle) {
  std::vector<std::byte> hello{{}, {}, {}, std::byte{3}};
  const auto go =
      TestClient::option_bytes(static_cast<uint32_t>(Option::kGo), TestClient::info_data("disk"));
  hello.insert(hello.end(), go.begin(), go.end());
  std::array<std::byte, kGreetingBytes + 20 + 12 + 20> answer;
  if (!co_await send_all(reactor, handle, std::move(hello))) co_return std::nullopt;
  if (!co_await receive_all(reactor, handle, answer)) co_return std::nullopt;
  co_return load_be<uint16_t>(answer.data() + kGreetingBytes + 20 + 10);
}

// Writes the session's number into a few blocks, as many at once as it likes, and looks after each
// acknowledgement that the disk shows no number it should not.
Task<void> write_session(Scene& scene, int handle, uint64_t number) {
  const uint64_t requests = scene.random.between(1, 20);
  for (uint64_t i = 0; i < requests; ++i) {
    std::vector<std::byte> payload(kBlockLength);
    store_le<uint64_t>(payload.data(), number);
    auto bytes =
        TestClient::request_bytes({0, static_cast<uint16_t>(Command::kWrite), i,
                                   scene.random.below(kBlocks) * kBlockLength, kBlockLength},
                                  payload);
    if (!co_await send_all(scene.reactor, handle, std::move(bytes))) co_return;
    if (scene.random.chance(0.5)) co_return;  // dies with requests under way
    std::array<std::byte, kSimpleReplyBytes> reply;
    if (!co_await receive_all(scene.reactor, handle, reply)) co_return;
    EXPECT_EQ(load_be<uint32_t>(reply.data() + 4), 0U);
  }
}

// Looks at the disk from the moment a session is let in: numbers of older sessions may be there,
// but none may come.
Task<void> watch(Scene& scene, uint64_t number) {
  std::array<uint64_t, kBlocks> seen{};
  const auto look = [&](uint64_t i) {
    return load_le<uint64_t>(scene.disk->content(i * kBlockLength, 8).data());
  };
  for (uint64_t i = 0; i < kBlocks; ++i) seen[i] = look(i);
  for (int round = 0; round < 200 && scene.sessions == number; ++round) {
    co_await sleep_ns(scene.reactor, 50'000);
    for (uint64_t i = 0; i < kBlocks; ++i) {
      const uint64_t now = look(i);
      if (now != seen[i]) EXPECT_GE(now, number) << "a dead session's write landed late";
      seen[i] = now;
    }
  }
}

Task<void> client(Scene& scene, sim::SimIdentity identity, Endpoint endpoint) {
  const std::string name = endpoint.is_unix() ? std::to_string(identity.pid) : identity.host;
  for (int session = 0; session < 15; ++session) {
    // On a unix socket the kernel shows the server at once that a client has closed; in simulation
    // it takes up to 20 us, within which a client's own next connection would pass as a second one.
    co_await sleep_ns(scene.reactor, scene.random.between(25'000, 2'000'000));
    scene.reactor.network().set_identity(identity);
    const auto handle = scene.reactor.network().connect(endpoint);
    if (!handle) continue;
    const auto flags = co_await open_export(scene.reactor, *handle);
    if (flags && (*flags & kFlagReadOnly) == 0) {
      const uint64_t number = ++scene.sessions;
      ++scene.writing_sessions;
      spawn(watch(scene, number), [&scene] { --scene.running; });
      ++scene.running;
      for (const auto& [other, count] : scene.writers)
        EXPECT_TRUE(other == name || count == 0) << other << " and " << name << " write at once";
      ++scene.writers[name];
      co_await write_session(scene, *handle, number);
      --scene.writers[name];
    }
    if (scene.random.chance(0.5)) {
      scene.reactor.network().reset(*handle);
    }
    scene.reactor.network().close(*handle);
  }
}

void run_scene(uint64_t seed, bool tcp) {
  Scene scene(seed);
  scene.disk = std::make_shared<testing::MemoryDisk>(scene.reactor, kBlocks * kBlockLength, seed);
  scene.disk->set_suspend_chance(0.3);
  scene.disk->set_latency_ns(300'000);
  scene.disks.add("disk", scene.disk);
  Endpoint endpoint{.unix_path = "/nbd.sock"};
  if (tcp) endpoint = Endpoint{.host = "server", .port = 10809};
  NbdServer server(scene.reactor, scene.reactor.network(), scene.disks, scene.admission,
                   NbdConfig{{endpoint}, {.requests_per_connection = 3}});
  scene.reactor.network().set_identity({.pid = 1, .host = "server"});
  ASSERT_TRUE(server.start());
  for (int64_t id = 0; id < 4; ++id) {
    ++scene.running;
    spawn(client(scene, {.pid = 100 + id, .host = "host" + std::to_string(id)}, endpoint),
          [&scene] { --scene.running; });
  }
  while (scene.running > 0) ASSERT_TRUE(scene.reactor.run_once());
  run_task(scene.reactor, server.stop());
  EXPECT_EQ(server.stats().connections_open, 0U);
  EXPECT_GT(scene.writing_sessions, 5U);
}

// SQUALL_SEEDS: how many seeds to run.
uint64_t seeds() {
  const char* text = std::getenv("SQUALL_SEEDS");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 50;
}

TEST(TakeoverSim, OnAUnixSocket) {
  for (uint64_t seed = 1; seed <= seeds() && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    run_scene(seed, false);
  }
}

TEST(TakeoverSim, OnTcp) {
  for (uint64_t seed = 1; seed <= seeds() && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    run_scene(seed, true);
  }
}

}  // namespace
}  // namespace squall::nbd
