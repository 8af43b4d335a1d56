// Operations of the write path on a disk that fails half way: see testing/crash_faults.h.
#include "testing/crash_faults.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "base/log.h"

namespace squall {
namespace {

TEST(CrashFaults, NoAcknowledgedWriteIsLost) {
  if (std::getenv("SQUALL_CRASH") == nullptr) spdlog::set_level(spdlog::level::off);
  const auto options = testing::CrashOptions::from_environment();
  testing::FaultCampaign campaign(options);
  uint64_t index = 0;
  for (const auto& scenario : testing::crash_scenarios()) {
    ++index;
    uint64_t plan_index = 0;
    for (const auto& plan : testing::fault_plans()) {
      ++plan_index;
      for (uint64_t seed = options.first_seed; seed < options.first_seed + options.seeds; ++seed) {
        // Over the scenarios every plan meets every mode and scope.
        const uint64_t which = (index * 3 + plan_index * 7 + seed) % 10;
        if (!options.full && (index + plan_index) % 8 != 0) continue;
        EXPECT_EQ(campaign.run(scenario,
                               {.cache = static_cast<CacheMode>(which % 5),
                                .durability = static_cast<Durability>(which / 5),
                                .seed = seed},
                               plan),
                  "");
      }
    }
  }
  std::cout << campaign.stats().to_string() << "\n";
  spdlog::set_level(spdlog::level::info);
}

}  // namespace
}  // namespace squall
