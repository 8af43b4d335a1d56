// What the tests here share: a server over disks in memory, on real sockets or on the simulated
// network, and clients that speak the protocol byte by byte. Included by tests only.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "export/nbd/nbd_server.h"
#include "format/nbd.h"
#include "io/posix_network.h"
#include "io/run_task.h"
#include "io/uring_reactor.h"
#include "sim/sim_disk.h"
#include "sim/sim_reactor.h"
#include "testing/disk/memory_disk.h"

namespace squall::nbd {

// A network whose accepted connections are said to belong to whom the test wants: one process
// cannot be several clients.
class NamedNetwork final : public Network {
 public:
  explicit NamedNetwork(Network& inner) : inner_(inner) {}
  void set_next_peer(PeerIdentity identity) { next_.push_back(std::move(identity)); }
  // The next accepted connections cannot be taken: as with a client that is gone again.
  Result<int> listen(const Endpoint& endpoint) override { return inner_.listen(endpoint); }
  Result<uint16_t> bound_port(int handle) override { return inner_.bound_port(handle); }
  Result<int> connect(const Endpoint& endpoint) override { return inner_.connect(endpoint); }
  Result<PeerIdentity> peer(int handle) override {
    if (next_.empty()) return inner_.peer(handle);
    const PeerIdentity identity = next_.front();
    next_.pop_front();
    return identity;
  }
  bool is_hung_up(int handle) override { return inner_.is_hung_up(handle); }
  void set_no_delay(int) override {}
  void give_up_after(int, uint64_t) override {}
  void shutdown(int handle) override { inner_.shutdown(handle); }
  void close(int handle) override { inner_.close(handle); }

 private:
  Network& inner_;
  std::deque<PeerIdentity> next_;
};

inline PeerIdentity process(int64_t pid) {
  return {.is_unix = true, .pid = pid};
}
inline PeerIdentity host(std::string address) {
  return {.address = std::move(address)};
}

// A reply of the transmission phase, structured chunks joined.
struct ReadReply {
  WireError error = WireError::kOk;
  std::vector<std::byte> data;
  std::vector<DiskExtent> chunks;  // hole or data, in the order sent
  std::string message;
};

// One connection from the client's side. Calls drive the reactor until they are done.
class TestClient {
 public:
  TestClient(Reactor& reactor, Network& network, const Endpoint& endpoint)
      : reactor_(reactor), network_(network), handle_(*network.connect(endpoint)) {}
  ~TestClient() { close(); }
  TestClient(const TestClient&) = delete;
  TestClient& operator=(const TestClient&) = delete;
  void close() {
    if (handle_ >= 0) network_.close(std::exchange(handle_, -1));
  }

  bool send(ConstBytes bytes) { return run_task(reactor_, send_all(bytes)); }
  // Exactly `count` bytes, or empty when the server closed first.
  std::optional<std::vector<std::byte>> receive(size_t count) {
    return run_task(reactor_, receive_all(count));
  }
  bool is_closed() { return !receive(1); }

  // The greeting and the client's flags.
  void greet(uint32_t flags = kFlagFixedNewstyle | kFlagNoZeroes) {
    const auto greeting = receive(kGreetingBytes);
    ASSERT_TRUE(greeting);
    EXPECT_EQ(load_be<uint64_t>(greeting->data()), kServerMagic);
    EXPECT_EQ(load_be<uint64_t>(greeting->data() + 8), kOptionMagic);
    EXPECT_EQ(load_be<uint16_t>(greeting->data() + 16), kFlagFixedNewstyle | kFlagNoZeroes);
    std::byte bytes[4];
    store_be<uint32_t>(bytes, flags);
    ASSERT_TRUE(send(bytes));
  }

  struct OptionAnswer {
    OptionReply type;
    std::vector<std::byte> data;
  };
  static std::vector<std::byte> option_bytes(uint32_t option, ConstBytes data) {
    std::vector<std::byte> bytes(kOptionHeaderBytes);
    encode_option_header({option, static_cast<uint32_t>(data.size())}, bytes);
    bytes.insert(bytes.end(), data.begin(), data.end());
    return bytes;
  }
  void send_option(Option option, ConstBytes data) {
    ASSERT_TRUE(send(option_bytes(static_cast<uint32_t>(option), data)));
  }
  std::optional<OptionAnswer> answer() {
    const auto header = receive(20);
    if (!header) return {};
    EXPECT_EQ(load_be<uint64_t>(header->data()), kOptionReplyMagic);
    auto data = receive(load_be<uint32_t>(header->data() + 16));
    if (!data) return {};
    return OptionAnswer{static_cast<OptionReply>(load_be<uint32_t>(header->data() + 12)), *data};
  }
  // Sends an option; every answer to it, the last one final.
  std::vector<OptionAnswer> ask(Option option, ConstBytes data = {}) {
    send_option(option, data);
    std::vector<OptionAnswer> answers;
    while (auto next = answer()) {
      answers.push_back(std::move(*next));
      const auto type = static_cast<uint32_t>(answers.back().type);
      if (answers.back().type == OptionReply::kAck || (type & 0x80000000) != 0) break;
    }
    return answers;
  }
  OptionReply last(Option option, ConstBytes data = {}) {
    const auto answers = ask(option, data);
    return answers.empty() ? OptionReply{} : answers.back().type;
  }

  static std::vector<std::byte> info_data(std::string_view name, std::vector<uint16_t> items = {}) {
    std::vector<std::byte> data(4);
    store_be<uint32_t>(data.data(), static_cast<uint32_t>(name.size()));
    append(data, name);
    append_be(data, static_cast<uint16_t>(items.size()));
    for (const uint16_t item : items) append_be(data, item);
    return data;
  }
  static std::vector<std::byte> context_data(std::string_view name,
                                             std::vector<std::string_view> queries) {
    std::vector<std::byte> data;
    append_be(data, static_cast<uint32_t>(name.size()));
    append(data, name);
    append_be(data, static_cast<uint32_t>(queries.size()));
    for (const auto query : queries) {
      append_be(data, static_cast<uint32_t>(query.size()));
      append(data, query);
    }
    return data;
  }

  // From connecting to the transmission phase by GO; the transmission flags, or empty.
  std::optional<uint16_t> go(std::string_view name, bool structured = false) {
    greet();
    structured_ = structured;
    if (structured) {
      EXPECT_EQ(last(Option::kStructuredReply), OptionReply::kAck);
      EXPECT_EQ(last(Option::kSetMetaContext, context_data(name, {kBaseAllocation})),
                OptionReply::kAck);
    }
    const auto answers = ask(Option::kGo, info_data(name));
    if (answers.empty() || answers.back().type != OptionReply::kAck) return {};
    return load_be<uint16_t>(answers[0].data.data() + 10);
  }

  static std::vector<std::byte> request_bytes(const Request& request, ConstBytes payload = {}) {
    std::vector<std::byte> bytes(kRequestBytes);
    encode_request(request, bytes);
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    return bytes;
  }
  bool send_request(Command command, uint64_t offset, uint32_t length, uint16_t flags = 0,
                    ConstBytes payload = {}) {
    return send(
        request_bytes({flags, static_cast<uint16_t>(command), ++cookie_, offset, length}, payload));
  }
  // A reply without data.
  std::optional<WireError> reply() {
    const auto magic = receive(4);
    if (!magic) return {};
    if (load_be<uint32_t>(magic->data()) == kSimpleReplyMagic) {
      const auto rest = receive(12);
      if (!rest) return {};
      return static_cast<WireError>(load_be<uint32_t>(rest->data()));
    }
    ReadReply chunk;
    if (!receive_chunk(chunk)) return {};
    return chunk.error;
  }
  std::optional<WireError> command(Command command, uint64_t offset = 0, uint32_t length = 0,
                                   uint16_t flags = 0, ConstBytes payload = {}) {
    if (!send_request(command, offset, length, flags, payload)) return {};
    return reply();
  }
  std::optional<WireError> write(uint64_t offset, ConstBytes data, uint16_t flags = 0) {
    return command(Command::kWrite, offset, static_cast<uint32_t>(data.size()), flags, data);
  }
  std::optional<ReadReply> read(uint64_t offset, uint32_t length, uint16_t flags = 0) {
    if (!send_request(Command::kRead, offset, length, flags)) return {};
    ReadReply reply;
    if (structured_) {
      do {
        const auto magic = receive(4);
        if (!magic || load_be<uint32_t>(magic->data()) != kStructuredReplyMagic) return {};
        const auto done = receive_chunk(reply);
        if (!done) return {};
        if (*done) return reply;
      } while (true);
    }
    const auto header = receive(16);
    if (!header || load_be<uint32_t>(header->data()) != kSimpleReplyMagic) return {};
    reply.error = static_cast<WireError>(load_be<uint32_t>(header->data() + 4));
    if (reply.error != WireError::kOk) return reply;
    auto data = receive(length);
    if (!data) return {};
    reply.data = std::move(*data);
    return reply;
  }
  // Extents of a BLOCK_STATUS, in `chunks`.
  std::optional<ReadReply> status(uint64_t offset, uint32_t length, uint16_t flags = 0) {
    if (!send_request(Command::kBlockStatus, offset, length, flags)) return {};
    const auto magic = receive(4);
    ReadReply reply;
    if (!magic || !receive_chunk(reply)) return {};
    return reply;
  }

 private:
  template <class T>
  static void append_be(std::vector<std::byte>& out, T value) {
    std::byte bytes[sizeof(T)];
    store_be<T>(bytes, value);
    out.insert(out.end(), bytes, bytes + sizeof(T));
  }
  static void append(std::vector<std::byte>& out, std::string_view text) {
    const auto bytes = as_bytes(text);
    out.insert(out.end(), bytes.begin(), bytes.end());
  }
  // The rest of a chunk after its magic; true when it was the last.
  std::optional<bool> receive_chunk(ReadReply& reply) {
    const auto header = receive(kChunkHeaderBytes - 4);
    if (!header) return {};
    const auto payload = receive(load_be<uint32_t>(header->data() + 12));
    if (!payload) return {};
    switch (static_cast<Chunk>(load_be<uint16_t>(header->data() + 2))) {
      case Chunk::kOffsetData:
        reply.data.insert(reply.data.end(), payload->begin() + 8, payload->end());
        reply.chunks.push_back({payload->size() - 8, false, false});
        break;
      case Chunk::kOffsetHole:
        reply.chunks.push_back({load_be<uint32_t>(payload->data() + 8), true, true});
        reply.data.resize(reply.data.size() + reply.chunks.back().length);
        break;
      case Chunk::kBlockStatus:
        for (size_t at = 4; at < payload->size(); at += kStatusDescriptorBytes) {
          const auto state = load_be<uint32_t>(payload->data() + at + 4);
          reply.chunks.push_back({load_be<uint32_t>(payload->data() + at),
                                  (state & kStateHole) != 0, (state & kStateZero) != 0});
        }
        break;
      case Chunk::kError:
        reply.error = static_cast<WireError>(load_be<uint32_t>(payload->data()));
        reply.message = as_text(ConstBytes(*payload).subspan(6));
        break;
      case Chunk::kNone:
        break;
    }
    return (load_be<uint16_t>(header->data()) & kChunkFlagDone) != 0;
  }
  Task<bool> send_all(ConstBytes bytes) {
    while (!bytes.empty()) {
      const iovec iov{const_cast<std::byte*>(bytes.data()), bytes.size()};
      const int sent = co_await io_send(reactor_, handle_, std::span(&iov, 1));
      if (sent <= 0) co_return false;
      bytes = bytes.subspan(static_cast<size_t>(sent));
    }
    co_return true;
  }
  Task<std::optional<std::vector<std::byte>>> receive_all(size_t count) {
    std::vector<std::byte> bytes(count);
    for (size_t at = 0; at < count;) {
      const int got = co_await io_recv(reactor_, handle_, Bytes(bytes).subspan(at));
      if (got <= 0) co_return std::nullopt;
      at += static_cast<size_t>(got);
    }
    co_return bytes;
  }

  Reactor& reactor_;
  Network& network_;
  int handle_;
  bool structured_ = false;
  uint64_t cookie_ = 0;
};

// Where a test runs.
class World {
 public:
  virtual ~World() = default;
  virtual Reactor& reactor() = 0;
  virtual Network& network() = 0;
};

class RealWorld final : public World {
 public:
  RealWorld() {
    auto created = UringReactor::create();
    CHECK(created);
    reactor_ = std::move(*created);
  }
  Reactor& reactor() override { return *reactor_; }
  Network& network() override { return network_; }

 private:
  std::unique_ptr<UringReactor> reactor_;
  PosixNetwork network_;
};

class SimulatedWorld final : public World {
 public:
  explicit SimulatedWorld(uint64_t seed) : disk_(seed), reactor_(seed, disk_) {}
  Reactor& reactor() override { return reactor_; }
  Network& network() override { return reactor_.network(); }

 private:
  sim::SimDisk disk_;
  sim::SimReactor reactor_;
};

// A server of the disks `disk`, `image` (read-only) and `shared`, on a unix socket. The parameter:
// 0 for real sockets, else the seed of a simulation.
class ServerTest : public ::testing::TestWithParam<uint64_t> {
 public:
  static constexpr uint64_t kDiskBytes = 64 * kMiB;

 protected:
  void SetUp() override {
    if (GetParam() == 0) {
      world_ = std::make_unique<RealWorld>();
    } else {
      world_ = std::make_unique<SimulatedWorld>(GetParam());
    }
    reactor_ = &world_->reactor();
    network_.emplace(world_->network());
    std::string pattern = std::filesystem::temp_directory_path() / "squall-nbd-XXXXXX";
    directory_path_ = mkdtemp(pattern.data());
    endpoint_.unix_path = directory_path_ + "/nbd.sock";
    disk_ = std::make_shared<testing::MemoryDisk>(*reactor_, kDiskBytes);
    disks_.add("disk", disk_);
    disks_.add("image", std::make_shared<testing::MemoryDisk>(*reactor_, kDiskBytes), false);
    disks_.add("shared", std::make_shared<testing::MemoryDisk>(*reactor_, kDiskBytes), true, true);
    admission_ = std::make_unique<Admission>(*reactor_);
    start({});
  }
  void TearDown() override {
    stop();
    admission_.reset();
    std::filesystem::remove_all(directory_path_);
  }
  void start(NbdLimits limits) {
    server_ = std::make_unique<NbdServer>(*reactor_, *network_, disks_, *admission_,
                                          NbdConfig{{endpoint_}, limits});
    const auto started = server_->start();
    ASSERT_TRUE(started) << started.error().message();
  }
  void restart(NbdLimits limits) {
    stop();
    start(limits);
  }
  void stop() {
    if (server_ == nullptr) return;
    run_task(*reactor_, server_->stop());
    EXPECT_EQ(server_->stats().connections_open, 0U);
    server_.reset();
  }
  std::unique_ptr<TestClient> connect() {
    return std::make_unique<TestClient>(*reactor_, *network_, endpoint_);
  }
  std::unique_ptr<TestClient> connect_as(PeerIdentity identity) {
    network_->set_next_peer(std::move(identity));
    return connect();
  }
  // Runs the reactor until `condition` holds; false when it does not within ten seconds.
  template <class Condition>
  bool eventually(Condition condition) {
    const uint64_t end_ns = reactor_->now_ns() + 10'000'000'000;
    while (!condition()) {
      if (reactor_->now_ns() > end_ns) return false;
      run_task(*reactor_, pause());
    }
    return true;
  }
  Task<void> pause() { co_await sleep_ns(*reactor_, 100'000); }

  std::unique_ptr<World> world_;
  Reactor* reactor_ = nullptr;
  std::optional<NamedNetwork> network_;
  testing::MemoryDirectory disks_;
  std::shared_ptr<testing::MemoryDisk> disk_;
  std::unique_ptr<Admission> admission_;
  std::unique_ptr<NbdServer> server_;
  Endpoint endpoint_;
  std::string directory_path_;
};

inline std::string world_name(const ::testing::TestParamInfo<uint64_t>& info) {
  return info.param == 0 ? "Real" : "Simulated" + std::to_string(info.param);
}
// For each suite of ServerTest's kind.
#define INSTANTIATE_IN_ALL_WORLDS(suite) \
  INSTANTIATE_TEST_SUITE_P(World, suite, ::testing::Values(0, 1, 2, 3), world_name)

// Bytes that differ by position and seed.
inline std::vector<std::byte> pattern(size_t bytes, uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> data(bytes);
  for (auto& byte : data) byte = static_cast<std::byte>(random());
  return data;
}

}  // namespace squall::nbd
