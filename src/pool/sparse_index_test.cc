#include "pool/sparse_index.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace squall {
namespace {

Fingerprint random_fingerprint(Random& random) {
  Fingerprint fingerprint;
  for (std::byte& byte : fingerprint) byte = static_cast<std::byte>(random());
  return fingerprint;
}

TEST(SparseIndex, FindsTheNewestPlaceOfWhatIsInTheSample) {
  Random random(1);
  SparseIndex index({.budget_bytes = kMiB, .first_rate = 4});
  std::vector<Fingerprint> all;
  for (uint32_t i = 0; i < 20'000; ++i) {
    all.push_back(random_fingerprint(random));
    index.insert(all.back(), {1 + i % 7, i});
  }
  for (uint32_t i = 0; i < all.size(); i += 2) index.insert(all[i], {9, i});
  uint64_t sampled = 0;
  for (uint32_t i = 0; i < all.size(); ++i) {
    const auto place = index.find(all[i]);
    ASSERT_EQ(place.has_value(), index.is_sampled(all[i]));
    if (!place) continue;
    ++sampled;
    const SegmentId segment = i % 2 == 0 ? 9 : 1 + i % 7;
    EXPECT_EQ(*place, (SparseIndex::Place{segment, i}));
  }
  EXPECT_NEAR(sampled, all.size() / 4.0, all.size() / 40.0);
  EXPECT_EQ(index.stats().entries, sampled);
  EXPECT_EQ(index.stats().rate, 4);
  EXPECT_FALSE(index.find(random_fingerprint(random)));
}

TEST(SparseIndex, StaysWithinItsBudgetAndKeepsASampleOfAll) {
  Random random(2);
  constexpr uint64_t kBudget = kMiB;
  SparseIndex index({.budget_bytes = kBudget});
  std::vector<Fingerprint> all;
  for (uint32_t i = 0; i < 800'000; ++i) {
    all.push_back(random_fingerprint(random));
    index.insert(all.back(), {1, i});
    if (i % 1000 == 0) ASSERT_LE(index.stats().bytes, kBudget);
  }
  // 76,000 entries fit; 800,000 / 16 = 50,000.
  EXPECT_EQ(index.stats().rate, 16);
  uint64_t found = 0;
  for (uint32_t i = 0; i < all.size(); ++i)
    if (const auto place = index.find(all[i])) {
      ++found;
      EXPECT_EQ(place->record, i);
    }
  EXPECT_NEAR(found, 50'000, 1'000);
  EXPECT_LT(index.stats().bytes / index.stats().entries, 28);
}

TEST(SparseIndex, ARemovedSegmentIsGoneAtOnceAndItsSpaceIsUsedAgain) {
  Random random(3);
  SparseIndex index({.budget_bytes = 256 * kKiB});
  std::vector<Fingerprint> first, second;
  for (uint32_t i = 0; i < 8'000; ++i) {
    first.push_back(random_fingerprint(random));
    index.insert(first.back(), {1, i});
  }
  const uint64_t bytes = index.stats().bytes;
  index.remove_segment(1);
  for (const Fingerprint& fingerprint : first) EXPECT_FALSE(index.find(fingerprint));
  for (uint32_t i = 0; i < 8'000; ++i) {
    second.push_back(random_fingerprint(random));
    index.insert(second.back(), {2, i});
  }
  for (const Fingerprint& fingerprint : second) EXPECT_TRUE(index.find(fingerprint));
  for (const Fingerprint& fingerprint : first) EXPECT_FALSE(index.find(fingerprint));
  EXPECT_EQ(index.stats().rate, 1) << "the first segment's entries gave way";
  EXPECT_LE(index.stats().bytes, bytes * 5 / 4);
}

TEST(SparseIndex, LargePlaces) {
  Random random(4);
  SparseIndex index({});
  const SparseIndex::Place place{(uint64_t{1} << 33) - 1, (1U << 22) - 1};
  const Fingerprint fingerprint = random_fingerprint(random);
  index.insert(fingerprint, place);
  EXPECT_EQ(index.find(fingerprint), place);
}

}  // namespace
}  // namespace squall
