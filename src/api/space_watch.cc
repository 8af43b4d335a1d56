// Hysteresis: a level once reached is left only when the space is a few percent below its
// threshold, so that a disk that hovers there does not fill the log.
#include "api/space_watch.h"

#include "api/units.h"
#include "base/log.h"

namespace squall {

namespace {

constexpr uint64_t kHysteresisPercent = 3;

// Of what anybody but root may use: what the file system keeps back counts as used.
uint64_t used_percent(const SpaceMeasure& measure) {
  if (measure.total_bytes == 0) return 0;
  const uint64_t used =
      measure.total_bytes - std::min(measure.available_bytes, measure.total_bytes);
  return static_cast<uint64_t>(static_cast<__uint128_t>(used) * 100 / measure.total_bytes);
}

void log_crossing(const SpaceMeasure& measure, SpaceLevel level) {
  if (level == SpaceLevel::kAway) {
    LOG_ERROR("space: {} ({}) is away: {}", measure.name, measure.path, measure.problem);
    return;
  }
  const std::string state =
      fmt::format("space: {} ({}): {}% used, {} free", measure.name, measure.path,
                  used_percent(measure), format_size(measure.available_bytes));
  if (level == SpaceLevel::kOk) {
    LOG_INFO("{}: enough again", state);
  } else if (level == SpaceLevel::kWarn) {
    LOG_WARN("{}: {}", state, measure.advice);
  } else {
    LOG_ERROR("{}, {}: {}", state, to_string(level), measure.advice);
  }
}

}  // namespace

std::string_view to_string(SpaceLevel level) {
  switch (level) {
    case SpaceLevel::kOk:
      return "ok";
    case SpaceLevel::kWarn:
      return "warn";
    case SpaceLevel::kCritical:
      return "critical";
    case SpaceLevel::kFull:
      return "full";
    case SpaceLevel::kAway:
      return "away";
  }
  return "";
}

SpaceLevel SpaceWatch::level_of(const SpaceMeasure& measure, SpaceLevel before) const {
  if (!measure.problem.empty()) return SpaceLevel::kAway;
  if (measure.available_bytes < measure.needed_bytes) return SpaceLevel::kFull;
  if (measure.suffices) return SpaceLevel::kOk;
  const uint64_t percent = used_percent(measure);
  const auto reaches = [&](uint64_t threshold, SpaceLevel level) {
    const bool was_there = before >= level && before != SpaceLevel::kAway;
    return percent + (was_there ? kHysteresisPercent : 0) >= threshold;
  };
  if (reaches(limits_.critical_percent, SpaceLevel::kCritical)) return SpaceLevel::kCritical;
  if (reaches(limits_.warn_percent, SpaceLevel::kWarn)) return SpaceLevel::kWarn;
  return SpaceLevel::kOk;
}

std::vector<SpaceStatus> SpaceWatch::update(const std::vector<SpaceMeasure>& measures) {
  std::vector<SpaceStatus> statuses;
  for (const SpaceMeasure& measure : measures) {
    SpaceLevel& known = levels_[measure.name];
    const SpaceLevel level = level_of(measure, known);
    if (level != known) log_crossing(measure, level);
    known = level;
    SpaceStatus status;
    status.name = measure.name;
    status.path = measure.path;
    status.total_bytes = measure.total_bytes;
    status.available_bytes = measure.available_bytes;
    status.used_bytes =
        measure.total_bytes - std::min(measure.available_bytes, measure.total_bytes);
    status.used_percent = used_percent(measure);
    status.level = to_string(level);
    if (level != SpaceLevel::kOk)
      status.advice = level == SpaceLevel::kAway ? measure.problem : measure.advice;
    statuses.push_back(std::move(status));
  }
  return statuses;
}

}  // namespace squall
