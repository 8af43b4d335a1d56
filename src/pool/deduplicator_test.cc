// A deduplicator over a source whose footers and chunks are made up, so that they can lie.
#include "pool/deduplicator.h"

#include <gtest/gtest.h>

#include <map>

#include "base/random.h"
#include "io/run_task.h"
#include "testing/post_reactor.h"

namespace squall {
namespace {

using Block = std::vector<std::byte>;

class BytesPayload final : public Payload {
 public:
  explicit BytesPayload(Block bytes) : Payload({}), owned_(std::move(bytes)) { bytes_ = owned_; }

 private:
  Block owned_;
};

// Segments of chunks; every chunk is one sector for each of its blocks.
class FakeSource final : public DedupSource {
 public:
  explicit FakeSource(Reactor& reactor) : reactor_(reactor) {}

  const std::string& store_of(const Placement& placement) const override {
    return placement.store.empty() ? main_ : placement.store;
  }
  Task<Result<FooterSlice::Content>> read_footer(SegmentId id, uint64_t first) override {
    co_await yield_to(reactor_);
    ++footer_reads;
    const auto found = segments.find(id);
    if (found == segments.end() || first >= found->second.part.records.size())
      co_return fail(ErrorKind::kNotFound, "no such footer");
    const auto& all = found->second;
    const uint64_t end = std::min<uint64_t>(all.part.records.size(), first + FooterSlice::kRecords);
    FooterSlice::Content content{.open_in = all.open_in};
    content.part.records.assign(all.part.records.begin() + first, all.part.records.begin() + end);
    content.part.first_fingerprint = content.part.records.front().first_fingerprint;
    for (const RecordEntry& entry : content.part.records)
      for (uint64_t i = 0; i < entry.fingerprints; ++i)
        content.part.fingerprints.push_back(all.part.fingerprints[entry.first_fingerprint + i]);
    co_return content;
  }
  Task<Result<PayloadRef>> read_stored(Address chunk) override {
    co_await yield_to(reactor_);
    ++chunk_reads;
    if (on_read) on_read();
    const auto found = chunks.find(chunk);
    if (found == chunks.end()) co_return fail(ErrorKind::kCorrupt, "no such chunk");
    co_return std::make_shared<BytesPayload>(found->second);
  }

  // Stores a chunk and tells the deduplicator.
  Address add(Deduplicator& dedup, SegmentId id, const Block& data) {
    Fingerprinter fingerprinter;
    FooterPart& part = segments[id].part;
    const uint32_t sector = part.records.empty() ? 8 : part.records.back().sector + 16;
    RecordEntry entry{.sector = sector,
                      .sectors = static_cast<uint16_t>(data.size() / kBlockBytes),
                      .raw_bytes = static_cast<uint32_t>(data.size()),
                      .first_fingerprint = static_cast<uint32_t>(part.fingerprints.size()),
                      .fingerprints = static_cast<uint16_t>(data.size() / kBlockBytes)};
    fingerprinter.append(data, part.fingerprints);
    part.records.push_back(entry);
    dedup.add(id, part.records.size() - 1, std::span(part.fingerprints).last(entry.fingerprints));
    const Address address = Address::make(id, sector, entry.sectors);
    chunks[address] = data;
    return address;
  }

  struct Segment {
    FooterPart part;
    std::string open_in;
  };
  std::map<SegmentId, Segment> segments;
  std::map<Address, Block> chunks;
  std::function<void()> on_read;
  int footer_reads = 0;
  int chunk_reads = 0;

 private:
  Reactor& reactor_;
  std::string main_ = "main";
};

class DeduplicatorTest : public ::testing::Test {
 protected:
  Block random_blocks(uint64_t count) {
    Block data(count * kBlockBytes);
    for (uint64_t i = 0; i < data.size(); i += sizeof(uint64_t))
      store_le(data.data() + i, random_());
    return data;
  }
  static Block part(const Block& data, uint64_t first, uint64_t count) {
    return {data.begin() + first * kBlockBytes, data.begin() + (first + count) * kBlockBytes};
  }
  static Block join(std::initializer_list<Block> parts) {
    Block all;
    for (const Block& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
  }
  std::vector<Deduplicator::Hit> find(const Block& data, Placement placement = {}) {
    std::vector<Fingerprint> fingerprints;
    for (uint64_t i = 0; i < data.size() / kBlockBytes; ++i)
      fingerprints.push_back(
          dedup_.fingerprint(ConstBytes(data).subspan(i * kBlockBytes, kBlockBytes)));
    return run_task(reactor_, dedup_.find(data, fingerprints, placement));
  }

  Random random_{1};
  PostReactor reactor_;
  FakeSource source_{reactor_};
  Deduplicator dedup_{reactor_, source_, {.budget_bytes = kMiB}};
};

TEST_F(DeduplicatorTest, FindsRunsInsideChunksAtAnyPlace) {
  const Block old = random_blocks(16);
  const Address chunk = source_.add(dedup_, 7, old);
  source_.add(dedup_, 7, random_blocks(16));
  const auto hits = find(join({random_blocks(3), part(old, 2, 9), random_blocks(1), part(old, 0, 4),
                               part(old, 12, 3), random_blocks(2)}));
  ASSERT_EQ(hits.size(), 2) << "a run of three is too short";
  EXPECT_EQ(hits[0].first, 3);
  EXPECT_EQ(hits[0].count, 9);
  EXPECT_EQ(hits[0].chunk, chunk);
  EXPECT_EQ(hits[0].chunk_block, 2);
  EXPECT_TRUE(hits[0].chunk_goes_on);
  EXPECT_EQ(hits[1].first, 13);
  EXPECT_EQ(hits[1].count, 4);
  EXPECT_EQ(hits[1].chunk_block, 0);
  EXPECT_TRUE(dedup_.may_use(hits[0]));
  EXPECT_TRUE(dedup_.may_use(hits[1]));
  EXPECT_EQ(dedup_.stats().blocks_shared, 13);
  EXPECT_EQ(dedup_.stats().runs_shared, 2);
  EXPECT_EQ(dedup_.stats().blocks_seen, 22);
}

TEST_F(DeduplicatorTest, EqualFingerprintsOfDifferentDataAreNoHit) {
  const Block old = random_blocks(16);
  const Address chunk = source_.add(dedup_, 1, old);
  source_.chunks[chunk][9 * kBlockBytes + 17] ^= std::byte{1};
  EXPECT_TRUE(find(old).empty());
  EXPECT_EQ(dedup_.stats().runs_different, 1);
  // The rest of the chunk is as good as ever.
  EXPECT_EQ(find(part(old, 0, 9)).size(), 1);
  // And one that is shorter than its footer says.
  source_.chunks[chunk].resize(5 * kBlockBytes);
  EXPECT_TRUE(find(part(old, 0, 9)).empty());
  EXPECT_EQ(dedup_.stats().blocks_shared, 0);
}

TEST_F(DeduplicatorTest, AChunkThatCannotBeReadIsAMissAndNotTriedAgain) {
  const Block old = random_blocks(16);
  source_.chunks.erase(source_.add(dedup_, 1, old));
  EXPECT_TRUE(find(old).empty());
  EXPECT_TRUE(find(old).empty());
  EXPECT_EQ(source_.chunk_reads, 1);
  EXPECT_EQ(dedup_.stats().runs_unreadable, 1);
}

TEST_F(DeduplicatorTest, AForgottenSegmentIsNotLookedAt) {
  const Block old = random_blocks(16);
  source_.add(dedup_, 1, old);
  ASSERT_EQ(find(old).size(), 1);
  dedup_.forget(1);
  EXPECT_TRUE(find(old).empty());
  EXPECT_EQ(source_.chunk_reads, 1);
  EXPECT_EQ(source_.footer_reads, 1);
}

TEST_F(DeduplicatorTest, HitsAreAskedForBeforeTheyAreUsed) {
  const Block old = random_blocks(16);
  const Address chunk = source_.add(dedup_, 1, old);
  auto hits = find(old);
  ASSERT_EQ(hits.size(), 1);
  dedup_.forget(99);
  EXPECT_FALSE(dedup_.may_use(hits[0])) << "found before a segment was lost";
  // Lost while it is being compared.
  source_.on_read = [&] { dedup_.forget(99); };
  hits = find(old);
  ASSERT_EQ(hits.size(), 1);
  EXPECT_FALSE(dedup_.may_use(hits[0]));
  source_.on_read = {};
  std::vector<Address> asked;
  dedup_.set_may_reference([&](Address address) {
    asked.push_back(address);
    return asked.size() > 1;
  });
  hits = find(old);
  ASSERT_EQ(hits.size(), 1);
  EXPECT_FALSE(dedup_.may_use(hits[0]));
  EXPECT_TRUE(dedup_.may_use(hits[0]));
  EXPECT_EQ(asked, (std::vector<Address>{chunk, chunk}));
  EXPECT_EQ(dedup_.stats().runs_refused, 3);
}

// What is not durable yet becomes so by the sync of its own store only.
TEST_F(DeduplicatorTest, OpenSegmentsAreForWritersOfTheirStore) {
  const Block old = random_blocks(16), more = random_blocks(16);
  source_.segments[1].open_in = "main";
  source_.add(dedup_, 1, old);
  EXPECT_TRUE(find(old, {"other"}).empty());
  EXPECT_EQ(find(old).size(), 1);
  EXPECT_TRUE(find(old, {"other"}).empty());
  source_.add(dedup_, 1, more);
  EXPECT_EQ(find(more).size(), 1) << "the segment has grown";
  source_.segments[1].open_in.clear();
  EXPECT_EQ(find(old, {"other"}).size(), 1) << "it was sealed";
}

TEST_F(DeduplicatorTest, FootersThatLie) {
  const Block old = random_blocks(16);
  source_.add(dedup_, 1, old);
  source_.add(dedup_, 1, old);
  auto& records = source_.segments[1].part.records;
  records[0].raw_bytes = 5000;
  records[1].first_fingerprint = 3;
  EXPECT_TRUE(find(old).empty());
  records[0].raw_bytes = 16 * kBlockBytes;
  records[0].kind = RecordKind::kPage;
  dedup_.forget(1);
  dedup_.add(1, 0, source_.segments[1].part.fingerprints);
  EXPECT_TRUE(find(old).empty());
}

// Old and new data share runs of random length and place; what is found is right, and nearly
// everything that can be is found, although only one fingerprint of eight is in the index.
TEST_F(DeduplicatorTest, RandomRuns) {
  Deduplicator dedup(reactor_, source_, {.budget_bytes = kMiB, .first_rate = 8});
  std::vector<Block> old;
  for (int i = 0; i < 400; ++i) {
    old.push_back(random_blocks(16));
    source_.add(dedup, 1 + i / 150, old.back());
  }
  uint64_t shared = 0, found = 0;
  for (int round = 0; round < 100; ++round) {
    Block data;
    const uint64_t base = random_.below(old.size() - 8);  // data comes in the old order, roughly
    for (uint64_t i = 0; data.size() < 60 * kBlockBytes; ++i) {
      const uint64_t first = random_.below(12), count = random_.between(4, 16 - first);
      const Block run = part(old[base + i % 8], first, count);
      data.insert(data.end(), run.begin(), run.end());
      shared += count;
      const Block fresh = random_blocks(random_.between(1, 3));
      data.insert(data.end(), fresh.begin(), fresh.end());
    }
    std::vector<Fingerprint> fingerprints;
    for (uint64_t i = 0; i < data.size() / kBlockBytes; ++i)
      fingerprints.push_back(
          dedup.fingerprint(ConstBytes(data).subspan(i * kBlockBytes, kBlockBytes)));
    uint32_t end = 0;
    for (const auto& hit : run_task(reactor_, dedup.find(data, fingerprints, {}))) {
      ASSERT_GE(hit.first, end);
      ASSERT_GE(hit.count, Deduplicator::kRunBlocksMin);
      end = hit.first + hit.count;
      ASSERT_EQ(part(data, hit.first, hit.count),
                part(source_.chunks.at(hit.chunk), hit.chunk_block, hit.count));
      found += hit.count;
    }
  }
  EXPECT_GT(found, shared * 9 / 10) << shared;
}

TEST_F(DeduplicatorTest, MemoryForNeighbourhoodsIsBounded) {
  std::vector<Block> old;
  for (SegmentId id = 1; id <= Deduplicator::kSlicesMax + 20; ++id) {
    old.push_back(random_blocks(4));
    source_.add(dedup_, id, old.back());
  }
  for (const Block& data : old) EXPECT_EQ(find(data).size(), 1);
  const uint64_t held = dedup_.stats().slice_bytes;
  for (const Block& data : old) EXPECT_EQ(find(data).size(), 1);
  EXPECT_EQ(dedup_.stats().slice_bytes, held);
  EXPECT_LT(held, 4 * kMiB);
}

}  // namespace
}  // namespace squall
