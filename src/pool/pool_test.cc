#include "pool/pool.h"

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "pool/pool_test_util.h"
#include "pool/segment_reader.h"

namespace squall::testing {
namespace {

using Call = MemorySegmentStore::Call;

class PoolCodecTest : public PoolTest, public ::testing::WithParamInterface<Codec> {};
INSTANTIATE_TEST_SUITE_P(All, PoolCodecTest,
                         ::testing::Values(Codec::kNone, Codec::kLz4, Codec::kZstd),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_P(PoolCodecTest, RoundTrip) {
  open(GetParam());
  std::vector<std::pair<Address, std::vector<std::byte>>> records;
  for (size_t bytes : {1, 464, 465, 4096, 5000, 65535, 65536}) {
    for (bool compressible : {true, false}) {
      auto payload = make_payload(bytes, bytes, compressible);
      const auto address = append(payload);
      ASSERT_TRUE(address) << address.error().message();
      expect_reads(*address, payload);  // not written yet
      records.emplace_back(*address, std::move(payload));
    }
  }
  ASSERT_TRUE(run(pool_->sync()));
  for (const auto& [address, payload] : records) expect_reads(address, payload);
  stop();
  open(Codec::kNone);  // every codec is read, whatever the pool writes with
  for (const auto& [address, payload] : records) expect_reads(address, payload);
}

TEST_P(PoolCodecTest, Golden) {
  const std::string path =
      fmt::format(SQUALL_SOURCE_DIR "/tests/golden/pool_{}_v1_0.bin", to_string(GetParam()));
  const std::vector<std::byte> chunk = make_payload(20000, 1), page = make_payload(4096, 2);
  // Made with SQUALL_WRITE_GOLDEN; another version of a compressor may write other bytes, so it is
  // what the file says that is compared.
  if (std::getenv("SQUALL_WRITE_GOLDEN") != nullptr) {
    open(GetParam());
    ASSERT_TRUE(append(chunk));
    ASSERT_TRUE(append(page, RecordKind::kPage));
    stop();
    std::ofstream(path, std::ios::binary) << as_text(segments_.content(1));
    run(segments_.remove(1));
  }
  std::ifstream file(path, std::ios::binary);
  ASSERT_TRUE(file) << path;
  const std::string golden{std::istreambuf_iterator<char>(file), {}};
  segments_.put(1, "main", {as_bytes(golden).begin(), as_bytes(golden).end()});
  const auto trailer = run(read_segment_trailer(segments_, config().id, 1, golden.size()));
  ASSERT_TRUE(trailer) << trailer.error().message();
  const auto footer = run(read_segment_footer(segments_, *trailer));
  ASSERT_TRUE(footer) << footer.error().message();
  ASSERT_EQ(footer->records.size(), 2);
  EXPECT_EQ(footer->records[0].codec, GetParam());
  open(GetParam());
  const auto& records = footer->records;
  expect_reads(Address::make(1, records[0].sector, records[0].sectors), chunk);
  expect_reads(Address::make(1, records[1].sector, records[1].sectors), page, RecordKind::kPage);
}

TEST_F(PoolTest, RecordsOfAnotherPlaceFail) {
  open();
  const auto payload = make_payload(600, 1, false);
  const auto first = append(payload), second = append(make_payload(600, 2, false));
  ASSERT_TRUE(first && second);
  stop();
  auto content = segments_.content(first->segment());
  std::copy_n(content.begin() + first->offset_bytes(), first->stored_bytes(),
              content.begin() + second->offset_bytes());
  segments_.put(first->segment(), "main", content);
  segments_.put(first->segment() + 100, "main", content);
  open();
  expect_reads(*first, payload);
  expect_corrupt(*second);
  expect_corrupt(Address::make(first->segment() + 100, first->sector(), first->sectors()));
  expect_corrupt(Address::make(first->segment(), first->sector(), first->sectors() + 1));
}

TEST_F(PoolTest, BitRotGivesEioNeverBytes) {
  open();
  const auto payload = make_payload(700, 1, false);
  const auto address = append(payload);
  ASSERT_TRUE(address && run(pool_->sync()));
  const uint64_t covered = kRecordHeaderBytes + payload.size();
  for (uint64_t at = 0; at < covered; at += 7) {
    segments_.flip_bit(address->segment(), address->offset_bytes() + at, at % 8);
    const uint64_t reads = segments_.count(Call::kRead);
    expect_corrupt(*address);
    EXPECT_EQ(segments_.count(Call::kRead), reads + 2);  // once more, then it is final
    segments_.flip_bit(address->segment(), address->offset_bytes() + at, at % 8);
  }
  expect_reads(*address, payload);
}

TEST_F(PoolTest, PassingReadErrorIsTriedAgain) {
  open();
  const auto payload = make_payload(700, 1);
  const auto address = append(payload);
  ASSERT_TRUE(address && run(pool_->sync()));
  segments_.fail_next(Call::kRead, EIO);
  expect_reads(*address, payload);
}

TEST_F(PoolTest, KindsAndHostileAddresses) {
  cache_bytes_ = kMiB;
  open();
  const auto page = append(make_payload(4096, 1), RecordKind::kPage);
  ASSERT_TRUE(page && run(pool_->sync()));
  EXPECT_NE(pool_->read_cached(*page), nullptr);
  expect_corrupt(*page, RecordKind::kChunk);
  expect_reads(*page, make_payload(4096, 1), RecordKind::kPage);
  expect_corrupt(Address());
  expect_corrupt(Address::from_raw(page->raw() & ~uint64_t{0x1ff}));
  expect_corrupt(Address::from_raw(~uint64_t{0}));
  expect_corrupt(Address::make(page->segment(), 0, 8));
  expect_corrupt(Address::make(page->segment(), 4000000, 8));
  expect_corrupt(Address::make(page->segment() + 1, 8, 8));
}

TEST_F(PoolTest, ConcurrentReadsShareOneFetch) {
  open();
  const auto payload = make_payload(5000, 1);
  const auto address = append(payload);
  ASSERT_TRUE(address);
  reopen();
  run(pool_->wait_recovered());
  const uint64_t reads = segments_.count(Call::kRead);
  int done = 0;
  for (int i = 0; i < 10; ++i)
    spawn(pool_->read(RecordKind::kChunk, *address), [&](Result<PayloadRef> got) {
      ++done;
      EXPECT_TRUE(got && std::ranges::equal((*got)->bytes(), payload));
    });
  while (done < 10) ASSERT_TRUE(reactor_.run_once());
  EXPECT_EQ(segments_.count(Call::kRead), reads + 1);
}

TEST_F(PoolTest, AppendsWithoutSyncAreWrittenInFewBoundedBatches) {
  cache_bytes_ = 0;
  auto large = config();
  large.segment_bytes = 64 * kMiB;
  auto opened = run(Pool::open(reactor_, segments_, catalog_, large));
  ASSERT_TRUE(opened);
  pool_ = std::move(*opened);
  for (int i = 0; i < 320; ++i) ASSERT_TRUE(append(make_payload(65536, i + 1, false)));
  const uint64_t written = segments_.content(1).size();
  EXPECT_GE(written + AppendStream::kUnwrittenMaxBytes + kMiB, 320 * 65536);
  EXPECT_LE(segments_.count(Call::kWrite), 22);
}

TEST_F(PoolTest, OneSyncServesAllWhoWait) {
  open();
  ASSERT_TRUE(append(make_payload(100, 1)));
  int done = 0;
  for (int i = 0; i < 20; ++i)
    spawn(pool_->sync(), [&](Result<void> synced) {
      EXPECT_TRUE(synced);
      ++done;
    });
  while (done < 20) ASSERT_TRUE(reactor_.run_once());
  EXPECT_EQ(segments_.count(Call::kSync), 1);
  ASSERT_TRUE(run(pool_->sync()));
  EXPECT_EQ(segments_.count(Call::kSync), 1);  // nothing new to sync
}

TEST_F(PoolTest, SegmentsRollOverAndAreSealed) {
  open();
  std::vector<std::pair<Address, std::vector<std::byte>>> records;
  for (int i = 0; i < 60; ++i) {
    auto payload = make_payload(30000, i + 1, false);
    const auto address = append(payload);
    ASSERT_TRUE(address) << address.error().message();
    records.emplace_back(*address, std::move(payload));
  }
  stop();
  open();
  run(pool_->wait_recovered());
  const auto stats = run(pool_->stats());
  ASSERT_TRUE(stats);
  ASSERT_EQ(stats->stores.size(), 2);
  EXPECT_EQ(stats->stores[0].records, 60);
  EXPECT_EQ(stats->stores[0].raw_bytes, 60 * 30000);
  EXPECT_GE(stats->stores[0].segments, 8);
  EXPECT_EQ(stats->stores[0].unsealed_segments, 0);
  const auto infos = run(segments_.list());
  for (const SegmentInfo& segment : *infos) EXPECT_LE(segment.size_bytes, Pool::kMinSegmentBytes);
  for (const auto& [address, payload] : records) expect_reads(address, payload);
}

TEST_F(PoolTest, ChoosesStoresByName) {
  open();
  const auto main = run(pool_->append(RecordKind::kChunk, make_payload(100, 1), {}));
  const auto other = run(pool_->append(RecordKind::kChunk, make_payload(100, 2), {"other"}));
  const auto nowhere = run(pool_->append(RecordKind::kChunk, make_payload(100, 3), {"nowhere"}));
  ASSERT_TRUE(main && other);
  ASSERT_FALSE(nowhere);
  EXPECT_EQ(nowhere.error().kind(), ErrorKind::kNotFound);
  EXPECT_NE(main->segment(), other->segment());
  ASSERT_TRUE(run(pool_->sync()));
  const auto stats = run(pool_->stats());
  ASSERT_EQ(stats->stores.size(), 2);
  EXPECT_EQ(stats->stores[0].store, "main");
  EXPECT_EQ(stats->stores[1].store, "other");
  EXPECT_EQ(stats->stores[1].records, 1);
  expect_reads(*other, make_payload(100, 2));
}

TEST_F(PoolTest, RefusesWrongConfigurations) {
  const auto refused = [&](Pool::Config wrong) {
    return !run(Pool::open(reactor_, segments_, catalog_, std::move(wrong)));
  };
  auto wrong = config();
  wrong.segment_bytes = 100 * kKiB;
  EXPECT_TRUE(refused(wrong));
  wrong.segment_bytes = 3 * kGiB;
  EXPECT_TRUE(refused(wrong));
  wrong = config();
  wrong.id = {};
  EXPECT_TRUE(refused(wrong));
  wrong = config();
  wrong.default_store = "nowhere";
  EXPECT_TRUE(refused(wrong));
}

}  // namespace
}  // namespace squall::testing
