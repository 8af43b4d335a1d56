#include "testing/crash_points.h"

#include <algorithm>
#include <cstdlib>
#include <set>

#include "testing/crash_recovery.h"

namespace squall::testing {

namespace {

uint64_t number(const char* name, uint64_t fallback) {
  const char* text = std::getenv(name);
  return text == nullptr ? fallback : std::strtoull(text, nullptr, 10);
}
std::string text(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// SCENARIO/CACHE/DURABILITY/SEED/...
uint64_t seed_of(const std::string& id) {
  size_t at = 0;
  for (int i = 0; i < 3 && at != std::string::npos; ++i) at = id.find('/', at + 1);
  return at == std::string::npos ? 1 : std::strtoull(id.c_str() + at + 1, nullptr, 10);
}

std::string policy_name(const sim::LossPolicy& policy) {
  static constexpr const char* kKinds[] = {"keep-all", "lose-all", "lose-one", "keep-one",
                                           "random"};
  static constexpr const char* kTears[] = {"", "+prefix", "+subset"};
  return fmt::format("{}{}.{}.{}", kKinds[static_cast<size_t>(policy.kind)],
                     kTears[static_cast<size_t>(policy.tear)], policy.index, policy.seed);
}

// Everything that a cut with `unsynced` changes on the way to the medium is tried with.
std::vector<sim::LossPolicy> loss_policies(uint64_t unsynced, uint64_t seed) {
  using sim::LossPolicy;
  if (unsynced == 0) return {LossPolicy::keep_all()};
  std::vector<LossPolicy> all = {LossPolicy::lose_all(), LossPolicy::keep_all(),
                                 LossPolicy::keep_all().torn(sim::Tear::kPrefix, seed),
                                 LossPolicy::lose_all().torn(sim::Tear::kSubset, seed)};
  for (uint64_t i = 0; i < unsynced; ++i) all.push_back(LossPolicy::lose_one(i));
  for (uint64_t i = 0; i < unsynced; ++i) all.push_back(LossPolicy::keep_one(i));
  for (uint64_t i = 0; i < 4; ++i) {
    all.push_back(LossPolicy::random(mix(seed, i)));
    all.push_back(LossPolicy::random(mix(seed, i)).torn(sim::Tear::kSubset, mix(seed, i)));
  }
  return all;
}

// `count` of `all`, by seed, in their order; the first always. 0: all.
template <class T>
std::vector<T> sample(const std::vector<T>& all, uint64_t count, uint64_t seed) {
  if (count == 0 || all.size() <= count) return all;
  Random random(seed);
  std::set<uint64_t> chosen;
  while (chosen.size() < count) chosen.insert(random.below(all.size()));
  std::vector<T> picked;
  for (const uint64_t i : chosen) picked.push_back(all[i]);
  return picked;
}

}  // namespace

CrashOptions CrashOptions::from_environment() {
  CrashOptions options;
  options.only = text("SQUALL_CRASH");
  options.scenario_filter = text("SQUALL_CRASH_SCENARIO");
  options.full = number("SQUALL_CRASH_FULL", 0) != 0 || !options.only.empty();
  options.first_seed = number("SQUALL_SEED", 1);
  options.seeds = number("SQUALL_SEEDS", 1);
  options.points = number("SQUALL_CRASH_POINTS", options.points);
  options.policies = number("SQUALL_CRASH_POLICIES", options.full ? 8 : 3);
  if (options.only.empty()) return options;
  options.policies = 0;
  options.first_seed = seed_of(options.only);
  options.seeds = 1;
  return options;
}

std::string CrashStats::to_string() const {
  return fmt::format(
      "{} runs of scenarios, {} crash points, {} crashes, {} crashes of recoveries, {} recovered "
      "hosts worked on",
      scenarios, points, crashes, second_crashes, worked_on);
}

// One run of one scenario.
class CrashCampaign::Run {
 public:
  Run(CrashCampaign& campaign, const Scenario& scenario, const CrashSetup& setup)
      : campaign_(campaign),
        scenario_(scenario),
        setup_(setup),
        id_(fmt::format("{}/{}/{}/{}/{}", scenario.name, squall::to_string(setup.cache),
                        squall::to_string(setup.durability), setup.seed, setup.latency_ns)) {}

  const std::string& id() const { return id_; }

  // Crashes the scenario at `points` (all when not given); returns how many points there are.
  uint64_t go(const std::optional<std::set<uint64_t>>& points) {
    CrashWorld world(setup_.seed);
    world.set_id(id_);
    if (!scenario_.whole_life) {
      world.start();
      set_up_crash_world(world, setup_);
    }
    if (scenario_.prepare != nullptr) scenario_.prepare(world);
    world.disk().set_faults("/", {.latency_ns = setup_.latency_ns});
    uint64_t point = 0;
    const auto look = [&] {
      if (problem_.empty() && (!points || points->contains(point))) crash_at(world, point);
      ++point;
    };
    world.disk().set_observer(look);
    scenario_.act(world);
    world.disk().set_observer({});
    look();
    if (problem_.empty() && !world.problem().empty()) problem_ = id_ + ": " + world.problem();
    world.stop();
    return point;
  }
  const std::string& problem() const { return problem_; }

 private:
  void crash_at(CrashWorld& world, uint64_t point) {
    ++campaign_.stats_.points;
    const uint64_t seed = mix(setup_.seed, point);
    const sim::SimDisk cut = world.disk().after_cut();
    const auto all = loss_policies(cut.unsynced_writes(), seed);
    for (const auto& policy : sample(all, campaign_.options_.policies, seed))
      check(world, cut, Crash::kPowerCut, policy,
            fmt::format("{}/{}/cut/{}", id_, point, policy_name(policy)));
    check(world, world.disk().after_kill(), Crash::kKill, {},
          fmt::format("{}/{}/kill", id_, point));
  }

  void check(const CrashWorld& world, const sim::SimDisk& dead, Crash crash,
             const sim::LossPolicy& policy, const std::string& id) {
    const std::string& only = campaign_.options_.only;
    if (!problem_.empty() || (!only.empty() && only != id)) return;
    CrashRecovery recovery(world, crash, checksum(as_bytes(id), 1));
    const std::string problem = recovery.check(dead, policy);
    ++campaign_.stats_.crashes;
    campaign_.stats_.second_crashes += recovery.second_crashes();
    campaign_.stats_.worked_on += recovery.worked_on() ? 1 : 0;
    if (!problem.empty()) problem_ = "replay with SQUALL_CRASH=" + id + "\n" + problem;
  }

  CrashCampaign& campaign_;
  const Scenario& scenario_;
  const CrashSetup setup_;
  const std::string id_;
  std::string problem_;
};

std::string CrashCampaign::run(const Scenario& scenario, const CrashSetup& setup) {
  Run run(*this, scenario, setup);
  if (!options_.only.empty() && !options_.only.starts_with(run.id() + "/")) return {};
  if (!options_.scenario_filter.empty() &&
      !std::string_view(scenario.name).contains(options_.scenario_filter))
    return {};
  ++stats_.scenarios;
  std::optional<std::set<uint64_t>> chosen;
  if (!options_.full) {
    const uint64_t count = run.go(std::set<uint64_t>{});
    Random random(mix(setup.seed, checksum(as_bytes(run.id()), 2)));
    chosen.emplace();
    // One in each equal part of the run.
    const uint64_t parts = std::min(options_.points, count);
    for (uint64_t i = 0; i < parts; ++i)
      chosen->insert(random.between(i * count / parts, (i + 1) * count / parts - 1));
  }
  if (run.problem().empty()) run.go(chosen);
  return run.problem();
}

}  // namespace squall::testing
