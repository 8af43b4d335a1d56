#include "cache/record_cache.h"

#include <gtest/gtest.h>

#include <memory>
#include <unordered_map>
#include <vector>

#include "base/random.h"

namespace squall {
namespace {

Address record(uint64_t n) {
  return Address::make(1 + n / 1000000, n % 1000000 + 1, 9);
}

class TestPayload : public Payload {
 public:
  explicit TestPayload(uint64_t id) : Payload({}), id_(id) {
    bytes_ = std::as_bytes(std::span(&id_, 1));
  }
  ~TestPayload() override { id_ = ~uint64_t{0}; }

 private:
  uint64_t id_;
};

PayloadRef payload(uint64_t id) {
  return std::make_shared<TestPayload>(id);
}
uint64_t id_of(const PayloadRef& payload) {
  return load_le<uint64_t>(payload->bytes().data());
}

// Reads through the cache, as the pool does.
bool read_through(RecordCache& cache, uint64_t n, size_t cost_bytes) {
  if (cache.find(record(n))) return true;
  cache.insert(record(n), payload(n), cost_bytes);
  return false;
}

TEST(RecordCache, FindsWhatWasInserted) {
  RecordCache cache(kMiB);
  EXPECT_EQ(cache.find(record(1)), nullptr);
  cache.insert(record(1), payload(11), 4096);
  EXPECT_EQ(id_of(cache.find(record(1))), 11u);
  cache.insert(record(1), payload(12), 8192);
  EXPECT_EQ(id_of(cache.find(record(1))), 12u);
  cache.erase(record(1));
  cache.erase(record(2));
  EXPECT_EQ(cache.find(record(1)), nullptr);
  const auto stats = cache.stats();
  EXPECT_EQ(stats.hits, 2u);
  EXPECT_EQ(stats.misses, 2u);
  EXPECT_EQ(stats.insertions, 2u);
  EXPECT_EQ(stats.evictions, 0u);
  EXPECT_EQ(stats.entries, 0u);
}

TEST(RecordCache, CountsItsOwnOverhead) {
  RecordCache cache(kMiB);
  const auto empty = cache.stats().bytes;
  EXPECT_GT(empty, 0u);
  cache.insert(record(1), payload(1), 1000);
  EXPECT_GT(cache.stats().bytes, empty + 1000 + 64);
  cache.clear();
  EXPECT_EQ(cache.stats().bytes, empty);
  EXPECT_EQ(cache.stats().entries, 0u);
}

TEST(RecordCache, ASmallBudgetHoldsNothing) {
  for (const size_t budget : {0, 1, 100, 4095}) {
    RecordCache cache(budget);
    cache.insert(record(1), payload(1), 1);
    EXPECT_EQ(cache.find(record(1)), nullptr);
    EXPECT_EQ(cache.stats().bytes, 0u);
    cache.erase(record(1));
  }
  RecordCache cache(64 * kKiB);
  read_through(cache, 1, 1000);
  cache.insert(record(2), payload(2), 64 * kKiB);
  EXPECT_EQ(cache.find(record(2)), nullptr);
  EXPECT_NE(cache.find(record(1)), nullptr) << "what cannot fit must not evict";
}

TEST(RecordCache, AReaderKeepsAnEvictedPayload) {
  RecordCache cache(64 * kKiB);
  cache.insert(record(1), payload(1), 4096);
  const PayloadRef held = cache.find(record(1));
  for (uint64_t n = 2; n < 100; ++n) read_through(cache, n, 4096);
  EXPECT_EQ(cache.find(record(1)), nullptr);
  EXPECT_EQ(id_of(held), 1u);
}

TEST(RecordCache, AReturningRecordGoesToTheMainQueue) {
  RecordCache cache(kMiB);
  for (uint64_t n = 0; n < 400; ++n) read_through(cache, n, 4096);
  const uint64_t returning = 100;  // pushed out lately: 252 fit
  ASSERT_FALSE(read_through(cache, returning, 4096));
  for (uint64_t n = 1000; n < 1400; ++n) read_through(cache, n, 4096);
  EXPECT_NE(cache.find(record(returning)), nullptr);
}

TEST(RecordCache, AWorkingSetSurvivesAScan) {
  constexpr size_t kBudget = 8 * kMiB, kCost = 16 * kKiB;
  constexpr uint64_t kWorking = kBudget / kCost / 2, kScan = 10 * kBudget / kCost;
  for (const bool interleaved : {false, true}) {
    RecordCache cache(kBudget);
    for (int round = 0; round < 4; ++round)
      for (uint64_t n = 0; n < kWorking; ++n) read_through(cache, n, kCost);
    for (uint64_t n = 0; n < kScan; ++n) {
      read_through(cache, 100000 + n, kCost);
      if (interleaved) read_through(cache, n % kWorking, kCost);
    }
    uint64_t survivors = 0;
    for (uint64_t n = 0; n < kWorking; ++n) survivors += cache.find(record(n)) != nullptr;
    EXPECT_EQ(survivors, kWorking) << interleaved;
    EXPECT_GT(cache.stats().evictions, kScan / 2);
  }
}

TEST(RecordCache, ASkewedLoadHitsAboutAsOftenAsTheBestPlacementWould) {
  // 90 % of reads go to 10 % of the records, and that tenth fits.
  constexpr size_t kCost = 4 * kKiB;
  RecordCache cache(1200 * (kCost + 256));
  Random random(4);
  uint64_t hits = 0;
  for (int i = 0; i < 200000; ++i) {
    const uint64_t n = random.chance(0.9) ? random.below(1000) : 1000 + random.below(9000);
    hits += read_through(cache, n, kCost) && i >= 20000;
  }
  EXPECT_GT(static_cast<double>(hits) / 180000, 0.87);
}

TEST(RecordCacheProperty, NeverExceedsItsBudgetAndNeverGivesTheWrongPayload) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const size_t budget = random.between(0, random.chance(0.5) ? 20 * kKiB : 2 * kMiB);
    const uint64_t records = random.between(1, 2000);
    RecordCache cache(budget);
    std::unordered_map<uint64_t, uint64_t> newest;
    uint64_t finds = 0;
    for (uint64_t i = 0; i < 5000; ++i) {
      const uint64_t n = random.below(records);
      if (random.chance(0.05)) {
        cache.erase(record(n));
        EXPECT_EQ(cache.find(record(n)), nullptr);
        ++finds;
      } else if (random.chance(0.1) || !cache.find(record(n))) {
        newest[n] = i;
        cache.insert(record(n), payload(i), random.between(1, 70 * kKiB));
      }
      if (const PayloadRef found = cache.find(record(n))) {
        ASSERT_EQ(id_of(found), newest[n]);
      }
      ASSERT_LE(cache.stats().bytes, budget);
      if (random.chance(0.001)) cache.clear();
    }
    const auto stats = cache.stats();
    EXPECT_LE(stats.evictions + stats.entries, stats.insertions);
    EXPECT_GE(stats.hits + stats.misses, 5000 + finds);
  }
}

}  // namespace
}  // namespace squall
