// SpaceWatch: says when a disk that Squall writes to fills up, before it is full: a log line when a
// space crosses a threshold, once, and the level and advice that `squall status` shows.
// Decides on numbers it is given; does no I/O. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "api/config.h"
#include "api/types.h"

namespace squall {

enum class SpaceLevel : uint8_t { kOk, kWarn, kCritical, kFull, kAway };
std::string_view to_string(SpaceLevel level);

// Of one space, as measured.
struct SpaceMeasure {
  std::string name;  // "store default", "journal", "scratch"
  std::string path;
  uint64_t total_bytes = 0;
  uint64_t available_bytes = 0;
  uint64_t needed_bytes = 0;  // with less than so much available it does not take writes
  bool suffices = false;      // whatever is used: all that it will ever need is there
  std::string problem;        // why it is away; empty when it is there
  std::string advice;         // what to do when it fills up
};

class SpaceWatch {
 public:
  explicit SpaceWatch(SpaceLimits limits) : limits_(limits) {}

  // What to show of each space. Logs every crossing since the last call.
  std::vector<SpaceStatus> update(const std::vector<SpaceMeasure>& measures);

 private:
  SpaceLevel level_of(const SpaceMeasure& measure, SpaceLevel before) const;

  const SpaceLimits limits_;
  std::map<std::string, SpaceLevel> levels_;  // by name
};

}  // namespace squall
