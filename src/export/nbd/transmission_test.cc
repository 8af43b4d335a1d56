#include "export/nbd/transmission.h"

#include <cerrno>

#include "export/nbd/test_support.h"

namespace squall::nbd {
namespace {

class TransmissionTest : public ServerTest {
 protected:
  std::unique_ptr<TestClient> client(std::string_view name = "disk", bool structured = false) {
    auto client = connect();
    EXPECT_TRUE(client->go(name, structured));
    return client;
  }
};

TEST_P(TransmissionTest, WhatIsWrittenIsRead) {
  for (const bool structured : {false, true}) {
    auto c = client("disk", structured);
    for (const uint32_t bytes : {1U, 512U, 4097U, 70'000U, 5'000'000U, kMaxPayloadBytes}) {
      const auto data = pattern(bytes, bytes);
      ASSERT_EQ(c->write(1000, data), WireError::kOk);
      EXPECT_EQ(disk_->content(1000, bytes), data);
      const auto reply = c->read(1000, bytes);
      ASSERT_TRUE(reply);
      EXPECT_EQ(reply->error, WireError::kOk);
      EXPECT_TRUE(reply->data == data) << bytes;
    }
  }
  EXPECT_EQ(server_->stats().bytes_written, server_->stats().bytes_read);
}

TEST_P(TransmissionTest, SparseReads) {
  auto c = client("disk", true);
  ASSERT_EQ(c->write(8192, pattern(4096, 1)), WireError::kOk);
  auto reply = c->read(0, 65536);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->chunks, (std::vector<DiskExtent>{
                               {8192, true, true}, {4096, false, false}, {53248, true, true}}));
  EXPECT_EQ(reply->data, disk_->content(0, 65536));
  reply = c->read(0, 65536, kCommandFlagDf);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->chunks, (std::vector<DiskExtent>{{65536, false, false}}));
  EXPECT_EQ(reply->data, disk_->content(0, 65536)) << "and not what the buffer held before";
  reply = c->read(100'000, 65536, kCommandFlagDf);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->chunks, (std::vector<DiskExtent>{{65536, true, true}}));
  // Less than a block of zeros is not worth a chunk.
  reply = c->read(8192 - 512, 1024);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->chunks, (std::vector<DiskExtent>{{1024, false, false}}));
  EXPECT_EQ(reply->data, disk_->content(8192 - 512, 1024));
}

TEST_P(TransmissionTest, ManyChunksInOneReply) {
  auto c = client("disk", true);
  const auto block = pattern(4096, 1);
  for (int i = 0; i < 3000; i += 2) ASSERT_EQ(c->write(i * 4096, block), WireError::kOk);
  const auto reply = c->read(0, 3000 * 4096);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->chunks.size(), 3000U);
  EXPECT_TRUE(reply->data == disk_->content(0, 3000 * 4096));
}

TEST_P(TransmissionTest, BlockStatus) {
  auto c = client("disk", true);
  ASSERT_EQ(c->write(4096, pattern(8192, 1)), WireError::kOk);
  auto reply = c->status(0, 65536);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->chunks, (std::vector<DiskExtent>{
                               {4096, true, true}, {8192, false, false}, {53248, true, true}}));
  reply = c->status(5000, 60000, kCommandFlagReqOne);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->chunks, (std::vector<DiskExtent>{{7288, false, false}}));
  reply = c->status(0, 0);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error, WireError::kInvalid);
  // A request may begin and end anywhere; inside it no sector is both zeros and data.
  reply = c->status(4000, 10000);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->chunks,
            (std::vector<DiskExtent>{{96, true, true}, {8192, false, false}, {1712, true, true}}));
  auto plain = client("disk", false);
  EXPECT_EQ(plain->command(Command::kBlockStatus, 0, 4096), WireError::kInvalid);
}

TEST_P(TransmissionTest, ZeroTrimCacheFlushAndFua) {
  auto c = client();
  ASSERT_EQ(c->write(0, pattern(65536, 1)), WireError::kOk);
  EXPECT_EQ(disk_->unflushed_writes(), 1U);
  EXPECT_EQ(c->command(Command::kFlush), WireError::kOk);
  EXPECT_EQ(disk_->unflushed_writes(), 0U);
  EXPECT_EQ(c->write(0, pattern(100, 2), kCommandFlagFua), WireError::kOk);
  EXPECT_EQ(c->command(Command::kWriteZeroes, 100, 5000,
                       kCommandFlagFua | kCommandFlagNoHole | kCommandFlagFastZero),
            WireError::kOk);
  EXPECT_EQ(c->command(Command::kTrim, 16384, 8192, kCommandFlagFua), WireError::kOk);
  EXPECT_EQ(disk_->unflushed_writes(), 0U);
  EXPECT_EQ(disk_->content(100, 5000), std::vector<std::byte>(5000));
  EXPECT_EQ(disk_->content(16384, 8192), std::vector<std::byte>(8192));
  EXPECT_EQ(c->command(Command::kCache, 0, 65536), WireError::kOk);
  EXPECT_EQ(disk_->prefetched_bytes(), 65536U);
  // FUA where nothing is written is accepted.
  EXPECT_EQ(c->command(Command::kFlush, 0, 0, kCommandFlagFua), WireError::kOk);
  EXPECT_EQ(c->command(Command::kCache, 0, 1, kCommandFlagFua), WireError::kOk);
  EXPECT_TRUE(c->read(0, 1, kCommandFlagFua));
}

TEST_P(TransmissionTest, FlushCoversEveryConnection) {
  auto a = client(), b = client();
  ASSERT_EQ(a->write(0, pattern(512, 1)), WireError::kOk);
  ASSERT_EQ(b->command(Command::kFlush), WireError::kOk);
  EXPECT_EQ(disk_->unflushed_writes(), 0U);
}

TEST_P(TransmissionTest, RangesBeyondTheEnd) {
  for (const bool structured : {false, true}) {
    auto c = client("disk", structured);
    for (const uint64_t offset : {kDiskBytes - 511, kDiskBytes, kDiskBytes + 1, ~uint64_t{0} - 511,
                                  ~uint64_t{0}, uint64_t{1} << 63}) {
      EXPECT_EQ(c->read(offset, 512)->error, WireError::kInvalid);
      EXPECT_EQ(c->write(offset, pattern(512, 1)), WireError::kNoSpace);
      EXPECT_EQ(c->command(Command::kWriteZeroes, offset, 512), WireError::kNoSpace);
      EXPECT_EQ(c->command(Command::kTrim, offset, 512), WireError::kInvalid);
      EXPECT_EQ(c->command(Command::kCache, offset, 512), WireError::kInvalid);
    }
    EXPECT_EQ(c->read(kDiskBytes - 512, 512)->error, WireError::kOk);
    EXPECT_EQ(c->command(Command::kWriteZeroes, 0, kDiskBytes), WireError::kOk);
    EXPECT_EQ(c->command(Command::kTrim, 0, 0xffffffff), WireError::kInvalid);
  }
}

TEST_P(TransmissionTest, ADiskThatShrankUnderItsClient) {
  auto c = client();
  disk_->set_size(4096);
  EXPECT_EQ(c->read(4096, 512)->error, WireError::kInvalid);
  EXPECT_EQ(c->write(4000, pattern(512, 1)), WireError::kNoSpace);
  EXPECT_EQ(c->read(0, 4096)->error, WireError::kOk);
}

TEST_P(TransmissionTest, EmptyRequestsDoNothing) {
  for (const bool structured : {false, true}) {
    auto c = client("disk", structured);
    EXPECT_EQ(c->read(0, 0)->error, WireError::kOk);
    for (const Command command :
         {Command::kWrite, Command::kTrim, Command::kWriteZeroes, Command::kCache})
      EXPECT_EQ(c->command(command, kDiskBytes, 0), WireError::kOk);
    EXPECT_EQ(c->command(Command::kTrim, kDiskBytes + 1, 0), WireError::kInvalid);
  }
  EXPECT_EQ(disk_->unflushed_writes(), 0U);
}

TEST_P(TransmissionTest, UnknownCommandsAndFlagsAreRefusedAndSkipped) {
  auto c = client();
  EXPECT_EQ(c->command(static_cast<Command>(8)), WireError::kInvalid);
  EXPECT_EQ(c->command(static_cast<Command>(0xffff), ~uint64_t{0}, 7), WireError::kInvalid);
  EXPECT_EQ(c->write(0, pattern(100'000, 1), 0x8000), WireError::kInvalid);
  EXPECT_EQ(c->write(0, pattern(512, 1), kCommandFlagNoHole), WireError::kInvalid);
  EXPECT_EQ(c->read(0, 512, kCommandFlagDf)->error, WireError::kInvalid) << "not negotiated";
  EXPECT_EQ(c->command(Command::kTrim, 0, 512, kCommandFlagFastZero), WireError::kInvalid);
  EXPECT_EQ(c->command(Command::kFlush, 1, 0), WireError::kInvalid);
  EXPECT_EQ(c->command(Command::kFlush, 0, 1), WireError::kInvalid);
  EXPECT_EQ(c->write(0, pattern(512, 1)), WireError::kOk) << "the stream is still in step";
  EXPECT_EQ(disk_->unflushed_writes(), 1U);
}

TEST_P(TransmissionTest, OversizedRequests) {
  auto c = client();
  EXPECT_EQ(c->read(0, kMaxPayloadBytes + 1)->error, WireError::kInvalid);
  EXPECT_EQ(c->write(0, std::vector<std::byte>(kMaxPayloadBytes + 1)), WireError::kInvalid);
  EXPECT_EQ(c->write(0, pattern(512, 1)), WireError::kOk);
  ASSERT_TRUE(c->send_request(Command::kWrite, 0, 0xffffffff));
  EXPECT_TRUE(c->is_closed());
}

TEST_P(TransmissionTest, ReadOnlyExports) {
  auto c = client("image", true);
  EXPECT_EQ(c->write(0, pattern(512, 1)), WireError::kPerm);
  EXPECT_EQ(c->command(Command::kTrim, 0, 512), WireError::kPerm);
  EXPECT_EQ(c->command(Command::kWriteZeroes, 0, 512), WireError::kPerm);
  EXPECT_EQ(c->command(Command::kFlush), WireError::kOk);
  EXPECT_EQ(c->read(0, 512)->error, WireError::kOk);
  EXPECT_EQ(c->status(0, 512)->error, WireError::kOk);
}

TEST_P(TransmissionTest, ErrorsOfTheDiskReachTheClient) {
  disk_->set_suspend_chance(0.5);
  for (const bool structured : {false, true}) {
    auto c = client("disk", structured);
    for (const auto& [number, wanted] :
         {std::pair{EIO, WireError::kIo}, {ENOSPC, WireError::kNoSpace}, {EBUSY, WireError::kIo}}) {
      disk_->set_error(Error::from_errno(number, "vm: reading offset 0"));
      const auto reply = c->read(0, 4096);
      ASSERT_TRUE(reply);
      EXPECT_EQ(reply->error, wanted);
      if (structured) EXPECT_NE(reply->message.find("vm: reading offset 0"), std::string::npos);
      EXPECT_EQ(c->write(0, pattern(512, 1)), wanted);
      for (const Command command : {Command::kFlush, Command::kTrim, Command::kWriteZeroes})
        EXPECT_EQ(c->command(command, 0, command == Command::kFlush ? 0 : 512), wanted);
      if (structured) EXPECT_EQ(c->status(0, 512)->error, wanted);
    }
    disk_->set_error({});
    EXPECT_EQ(c->read(0, 4096)->error, WireError::kOk);
  }
  EXPECT_GT(server_->stats().request_errors, 0U);
}

TEST_P(TransmissionTest, WhatADaemonsEndCancelsIsNotAnswered) {
  auto other = client("image");
  auto c = client();
  disk_->set_error(Error(ErrorKind::kCancelled, "journal: stopping"));
  ASSERT_TRUE(c->send_request(Command::kWrite, 0, 512, 0, pattern(512, 1)));
  EXPECT_TRUE(c->is_closed());
  disk_->set_error({});
  EXPECT_TRUE(other->read(0, 512));
}

// The order to stop comes out of a request while the buffer is full of further ones.
TEST_P(TransmissionTest, CancelledWithMoreRequestsInTheBuffer) {
  std::vector<std::byte> burst;
  for (int i = 0; i < 200; ++i) {
    const auto request =
        TestClient::request_bytes({.command = uint16_t(Command::kWrite), .length = 512});
    burst.insert(burst.end(), request.begin(), request.end());
    burst.insert(burst.end(), 512, std::byte{1});
  }
  for (int i = 0; i < 10; ++i) {
    auto c = client();
    disk_->set_error(Error(ErrorKind::kCancelled, "journal: stopping"));
    c->send(burst);  // in part, when the end comes first
    EXPECT_TRUE(c->is_closed());
    disk_->set_error({});
  }
}

TEST_P(TransmissionTest, BadMagicClosesOnlyThatConnection) {
  auto good = client(), bad = client();
  auto bytes = TestClient::request_bytes({});
  bytes[0] ^= std::byte{1};
  ASSERT_TRUE(bad->send(bytes));
  EXPECT_TRUE(bad->is_closed());
  EXPECT_TRUE(good->read(0, 512));
}

TEST_P(TransmissionTest, DisconnectAnswersWhatIsInFlightFirst) {
  disk_->hold();
  auto c = client();
  ASSERT_TRUE(c->send_request(Command::kWrite, 0, 512, 0, pattern(512, 1)));
  ASSERT_TRUE(c->send_request(Command::kDisconnect, 0, 0));
  ASSERT_TRUE(eventually([&] { return disk_->in_flight() == 1; }));
  disk_->release();
  EXPECT_EQ(c->reply(), WireError::kOk);
  EXPECT_TRUE(c->is_closed());
  EXPECT_EQ(disk_->content(0, 512), pattern(512, 1));
}

// More requests at once than are taken, of every size, answered in any order.
TEST_P(TransmissionTest, Pipelining) {
  restart({.requests_per_connection = 8, .bytes_per_connection = 100'000, .bytes_total = 150'000});
  disk_->set_suspend_chance(0.7);
  auto c = client();
  constexpr int kRequests = 500;
  std::vector<std::byte> stream;
  for (int i = 0; i < kRequests; ++i) {
    const auto data = pattern(1 + i * 7 % 4096, i);
    const auto bytes = TestClient::request_bytes(
        {0, static_cast<uint16_t>(Command::kWrite), static_cast<uint64_t>(i),
         static_cast<uint64_t>(i) * 4096, static_cast<uint32_t>(data.size())},
        data);
    stream.insert(stream.end(), bytes.begin(), bytes.end());
  }
  ASSERT_TRUE(c->send(stream));
  for (int i = 0; i < kRequests; ++i) ASSERT_EQ(c->reply(), WireError::kOk);
  for (int i = 0; i < kRequests; ++i) {
    const auto data = pattern(1 + i * 7 % 4096, i);
    ASSERT_EQ(disk_->content(i * 4096, data.size()), data);
  }
}

// Random requests against a byte array, on a disk that suspends.
TEST_P(TransmissionTest, RandomRequestsAgainstAModel) {
  constexpr uint64_t kWindow = 256 * kKiB;
  disk_->set_suspend_chance(0.3);
  auto plain = client("disk", false), structured = client("disk", true);
  std::vector<std::byte> model(kWindow);
  Random random(7);
  for (int step = 0; step < 2000; ++step) {
    TestClient& c = random.chance(0.5) ? *plain : *structured;
    const uint64_t offset = random.below(kWindow);
    const auto bytes = static_cast<uint32_t>(
        random.between(1, std::min<uint64_t>(kWindow - offset, random.chance(0.5) ? 600 : 40000)));
    const uint16_t fua = random.chance(0.5) ? kCommandFlagFua : 0;
    const auto at = model.begin() + static_cast<ptrdiff_t>(offset);
    switch (random.below(4)) {
      case 0: {
        const auto data = pattern(bytes, random());
        ASSERT_EQ(c.write(offset, data, fua), WireError::kOk);
        std::ranges::copy(data, at);
        break;
      }
      case 1:
        ASSERT_EQ(c.command(Command::kWriteZeroes, offset, bytes, fua), WireError::kOk);
        std::fill_n(at, bytes, std::byte{});
        break;
      case 2: {
        ASSERT_EQ(c.command(Command::kTrim, offset, bytes, fua), WireError::kOk);
        const auto now = disk_->content(offset, bytes);
        std::ranges::copy(now, at);
        break;
      }
      default: {
        const bool df = &c == structured.get() && random.chance(0.3);
        const auto reply = c.read(offset, bytes, df ? kCommandFlagDf : 0);
        ASSERT_TRUE(reply);
        ASSERT_TRUE(std::equal(at, at + bytes, reply->data.begin(), reply->data.end()));
      }
    }
  }
}

INSTANTIATE_IN_ALL_WORLDS(TransmissionTest);

}  // namespace
}  // namespace squall::nbd
