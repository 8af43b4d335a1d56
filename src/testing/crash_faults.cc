#include "testing/crash_faults.h"

#include "testing/crash_recovery.h"

namespace squall::testing {

using sim::FaultCount;

const std::vector<FaultPlan>& fault_plans() {
  static const std::vector<FaultPlan> kPlans = {
      {.name = "write-once-journal",
       .path = "/host/journal",
       .faults = {.write = FaultCount::once()}},
      {.name = "write-once-pool", .path = "/pool", .faults = {.write = FaultCount::once()}},
      {.name = "write-once-segments",
       .path = "/pool/segments",
       .faults = {.write = FaultCount::once()},
       .must_recover = true},
      {.name = "write-once-scratch",
       .path = "/host/tmpfs",
       .faults = {.write = FaultCount::once()}},
      {.name = "write-always-journal",
       .path = "/host/journal",
       .faults = {.write = FaultCount::always()}},
      {.name = "write-always-pool", .path = "/pool", .faults = {.write = FaultCount::always()}},
      {.name = "write-always", .path = "/", .faults = {.write = FaultCount::always()}},
      {.name = "sync-once-journal",
       .path = "/host/journal",
       .faults = {.sync = FaultCount::once()}},
      {.name = "sync-once-evict-journal",
       .path = "/host/journal",
       .faults = {.sync = FaultCount::once(), .failed_sync_evicts = true}},
      {.name = "sync-once-pool", .path = "/pool", .faults = {.sync = FaultCount::once()}},
      {.name = "sync-once-evict-pool",
       .path = "/pool",
       .faults = {.sync = FaultCount::once(), .failed_sync_evicts = true}},
      {.name = "sync-once-logs", .path = "/pool/logs", .faults = {.sync = FaultCount::once()}},
      {.name = "sync-always-journal",
       .path = "/host/journal",
       .faults = {.sync = FaultCount::always()}},
      {.name = "sync-always-pool", .path = "/pool", .faults = {.sync = FaultCount::always()}},
      {.name = "read-once-pool", .path = "/pool", .faults = {.read = FaultCount::once()}},
      {.name = "read-once-journal",
       .path = "/host/journal",
       .faults = {.read = FaultCount::once()}},
      {.name = "read-always", .path = "/", .faults = {.read = FaultCount::always()}},
      {.name = "full", .path = "/", .full = true, .must_recover = true},
      {.name = "full-pool", .path = "/pool", .full = true, .must_recover = true},
      {.name = "full-journal", .path = "/host/journal", .full = true, .must_recover = true},
      {.name = "full-scratch", .path = "/host/scratch", .full = true, .must_recover = true},
      {.name = "away-pool", .path = "/pool", .faults = {.away = true}},
      {.name = "away-segments", .path = "/pool/segments", .faults = {.away = true}},
      {.name = "away-journal", .path = "/host/journal", .faults = {.away = true}},
  };
  return kPlans;
}

std::string FaultStats::to_string() const {
  return fmt::format(
      "{} runs with a fault each, {} requests failed for it, {} runs waited for its end, {} "
      "restarts, {} crashes afterwards",
      runs, failures, reliefs, restarts, crashes);
}

// A scenario with one fault plan.
class FaultCampaign::Run {
 public:
  Run(FaultCampaign& campaign, const Scenario& scenario, const CrashSetup& setup,
      const FaultPlan& plan)
      : campaign_(campaign),
        scenario_(scenario),
        setup_(setup),
        plan_(plan),
        id_(fmt::format("{}/{}/{}/{}/{}", scenario.name, squall::to_string(setup.cache),
                        squall::to_string(setup.durability), setup.seed, plan.name)) {}

  const std::string& id() const { return id_; }
  const std::string& problem() const { return problem_; }

  // How many changes the scenario makes when nothing fails.
  uint64_t count() {
    CrashWorld world(setup_.seed);
    begin(world);
    uint64_t changes = 0;
    world.disk().set_observer([&] { ++changes; });
    scenario_.act(world);
    return changes;
  }

  // The fault is there from change `from` on.
  void go(uint64_t from) {
    const std::string id = fmt::format("{}/{}", id_, from);
    if (!campaign_.options_.only.empty() && campaign_.options_.only != id) return;
    ++campaign_.stats_.runs;
    random_ = Random(checksum(as_bytes(id), 3));
    CrashWorld world(setup_.seed);
    begin(world);
    world.set_id(id);
    world.expect_failures(true);
    world.allow_loss(plan_.faults.failed_sync_evicts);
    world.set_relief([&] {
      ++campaign_.stats_.reliefs;
      world.disk().clear_faults();
    });
    uint64_t changes = 0;
    world.disk().set_observer([&] {
      if (changes++ == from) fail_now(world.disk());
    });
    scenario_.act(world);
    world.disk().set_observer({});
    finish(world);
    campaign_.stats_.failures += world.failures();
    if (problem_.empty()) problem_ = world.problem();
    if (problem_.empty()) crash(world);
    if (!problem_.empty()) problem_ = "replay with SQUALL_CRASH=" + id + "\n" + problem_;
  }

 private:
  void begin(CrashWorld& world) {
    if (!scenario_.whole_life) {
      world.start();
      set_up_crash_world(world, setup_);
    }
    if (scenario_.prepare != nullptr) scenario_.prepare(world);
  }

  void fail_now(sim::SimDisk& disk) {
    sim::DiskFaults faults = plan_.faults;
    if (plan_.full) faults.capacity_bytes = disk.used_bytes(plan_.path);
    disk.set_faults(plan_.path, faults);
  }

  // The disk gets well, sometimes only with the crash. Then everything that is not in doubt goes
  // on.
  void finish(CrashWorld& world) {
    const bool heals = plan_.must_recover || !world.is_running() || random_.chance(0.5);
    if (heals) world.disk().clear_faults();
    if (scenario_.starts_host && plan_.faults.failed_sync_evicts) world.forget_acknowledged();
    // A store that was away at the start is looked for at the next one.
    if (world.is_running() && scenario_.starts_host && plan_.faults.away) {
      world.disk().clear_faults();
      world.stop();
    }
    if (!world.is_running()) {
      ++campaign_.stats_.restarts;
      world.expect_failures(false);
      world.start();
      if (!world.is_running()) return;
    }
    world.run(world.probe());
    if (heals) {
      world.expect_failures(!plan_.must_recover);
      world.run(world.sleep_ms(2000));  // room is looked for now and then
      world.run(world.carry_on());
      world.expect_failures(true);
    }
    world.disk().clear_faults();  // what is looked at next is what is there
    problem_ = world.verify_live();
    if (!problem_.empty()) problem_ = "before any crash: " + problem_;
  }

  void crash(CrashWorld& world) {
    const struct {
      const char* name;
      Crash crash;
      sim::LossPolicy policy;
    } kCrashes[] = {{"kill", Crash::kKill, {}},
                    {"cut, all lost", Crash::kPowerCut, sim::LossPolicy::lose_all()},
                    {"cut", Crash::kPowerCut, sim::LossPolicy::random(random_())}};
    for (const auto& c : kCrashes) {
      if (!problem_.empty()) return;
      const bool kill = c.crash == Crash::kKill;
      CrashRecovery recovery(world, c.crash, random_());
      problem_ =
          recovery.check(kill ? world.disk().after_kill() : world.disk().after_cut(), c.policy);
      ++campaign_.stats_.crashes;
      if (!problem_.empty()) problem_ = fmt::format("after a crash ({}): {}", c.name, problem_);
    }
  }

  FaultCampaign& campaign_;
  const Scenario& scenario_;
  const CrashSetup setup_;
  const FaultPlan& plan_;
  const std::string id_;
  Random random_{0};
  std::string problem_;
};

std::string FaultCampaign::run(const Scenario& scenario, const CrashSetup& setup,
                               const FaultPlan& plan) {
  Run run(*this, scenario, setup, plan);
  if (!options_.only.empty() && !options_.only.starts_with(run.id() + "/")) return {};
  if (!options_.scenario_filter.empty() && !run.id().contains(options_.scenario_filter)) return {};
  const uint64_t count = run.count();
  const uint64_t runs = options_.full ? count : std::min(count, options_.points / 2);
  Random random(checksum(as_bytes(run.id()), 4));
  for (uint64_t i = 0; i < runs && run.problem().empty(); ++i)
    run.go(options_.full ? i : random.between(i * count / runs, (i + 1) * count / runs - 1));
  return run.problem();
}

}  // namespace squall::testing
