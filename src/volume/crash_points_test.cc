// Cuts the power and kills the daemon before every change that an operation of the write path makes
// to the disk, and holds what a new host finds to the promises: see testing/crash_points.h, also
// for the environment that makes this long or replays one crash.
#include "testing/crash_points.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "base/log.h"

namespace squall {
namespace {

using testing::CrashCampaign;
using testing::CrashOptions;
using testing::CrashSetup;

// Every cache mode and both scopes, beginning with another one for each scenario.
std::vector<CrashSetup> set_ups(uint64_t first, uint64_t count, uint64_t seed) {
  std::vector<CrashSetup> found;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t which = (first + i * 3) % 10;
    found.push_back({.cache = static_cast<CacheMode>(which % 5),
                     .durability = static_cast<Durability>(which / 5),
                     .seed = seed,
                     .latency_ns = (first + i + seed) % 4 == 3 ? uint64_t{3'000'000} : 0});
  }
  return found;
}

TEST(CrashPoints, EveryPromiseHoldsAtEveryPoint) {
  if (std::getenv("SQUALL_CRASH") == nullptr) spdlog::set_level(spdlog::level::off);
  const CrashOptions options = CrashOptions::from_environment();
  CrashCampaign campaign(options);
  uint64_t index = 0;
  for (const auto& scenario : testing::crash_scenarios()) {
    for (uint64_t seed = options.first_seed; seed < options.first_seed + options.seeds; ++seed)
      for (const CrashSetup& setup : set_ups(index * 7, options.full ? 10 : 2, seed))
        EXPECT_EQ(campaign.run(scenario, setup), "");
    ++index;
  }
  std::cout << campaign.stats().to_string() << "\n";
  spdlog::set_level(spdlog::level::info);
}

}  // namespace
}  // namespace squall
