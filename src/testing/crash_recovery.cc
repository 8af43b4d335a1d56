#include "testing/crash_recovery.h"

#include <algorithm>

namespace squall::testing {

namespace {

// Reads every disk of `expected`; says which one differs.
std::string compare(SimHost& host, const CrashWorld::Found& expected, const char* when) {
  for (const auto& [name, content] : expected) {
    auto opened = host.run(host.volumes().open_disk(name));
    if (!opened) return fmt::format("{}: {} {}", when, name, opened.error().message());
    Content got(opened->disk->size_bytes());
    if (auto done = host.run(opened->disk->read(0, got)); !done)
      return fmt::format("{}: {} {}", when, name, done.error().message());
    if (got == content) continue;
    const auto at = std::ranges::mismatch(got, content).in1 - got.begin();
    return fmt::format("{}: {} differs at {} ({} bytes, {} expected)", when, name, at, got.size(),
                       content.size());
  }
  return {};
}

std::string faults_of(SimHost& host) {
  auto report = host.check();
  if (!report) return "the check ended early: " + report.error().message();
  if (report->faults.empty()) return {};
  return "the check finds: " + report->faults.front().to_line();
}

}  // namespace

std::string CrashRecovery::check(const sim::SimDisk& dead, const sim::LossPolicy& policy) {
  sim::SimDisk disk = dead.clone();
  disk.clear_faults();
  disk.restart(policy);
  if (crash_ == Crash::kPowerCut) options_.boot_id += " again";
  Found found;
  Midway midway{random_.chance(0.5) ? Crash::kKill : Crash::kPowerCut, {}};
  const bool twice = random_.chance(0.3);
  std::string problem = recover(disk, crash_, found, twice ? &midway : nullptr);
  if (problem.empty() && midway.dead) problem = crash_again(midway, found);
  if (problem.empty() && random_.chance(0.15)) problem = work_on(disk, std::move(found));
  return problem;
}

// Starts a host and verifies. `midway` receives the disk as crashed at some moment of that.
std::string CrashRecovery::recover(sim::SimDisk& disk, Crash promise, Found& found,
                                   Midway* midway) {
  Random random(random_());
  uint64_t changes = 0;
  if (midway != nullptr)
    disk.set_observer([&] {
      if (random.below(++changes) > 0) return;
      midway->dead.emplace(midway->how == Crash::kKill ? disk.after_kill() : disk.after_cut());
    });
  auto host = SimHost::start(random_(), disk, options_);
  std::string problem = host ? world_.verify(**host, promise, &found)
                             : "the host does not start: " + host.error().message();
  disk.set_observer({});
  if (problem.empty() && random_.chance(0.3)) problem = faults_of(**host);
  return problem;
}

// What a recovery has shown stays, whatever moment it is crashed in: after a power cut all that is
// left is durable, and after a kill as long as the power holds.
std::string CrashRecovery::crash_again(const Midway& midway, const Found& before) {
  ++second_crashes_;
  const Crash second = midway.how;
  sim::SimDisk disk = midway.dead->clone();
  disk.clear_faults();
  const std::string boot_id = options_.boot_id;
  if (second == Crash::kPowerCut) options_.boot_id += " and again";
  disk.restart(random_.chance(0.3) ? sim::LossPolicy::lose_all()
                                   : sim::LossPolicy::random(random_()));
  Found found;
  const bool all_kills = crash_ == Crash::kKill && second == Crash::kKill;
  std::string problem = recover(disk, all_kills ? Crash::kKill : Crash::kPowerCut, found, nullptr);
  options_.boot_id = boot_id;
  const bool same = crash_ == Crash::kPowerCut || second == Crash::kKill;
  for (const auto& [name, content] : found) {
    if (!problem.empty() || !same || world_.is_stateless(name)) continue;
    const auto first = before.find(name);
    if (first == before.end() || first->second != content)
      problem = name + " is not as the first recovery showed it";
  }
  return problem.empty() ? problem
                         : fmt::format("after a second crash ({}): {}",
                                       second == Crash::kKill ? "kill" : "power cut", problem);
}

// A recovered host is a host like any other.
std::string CrashRecovery::work_on(sim::SimDisk& disk, Found found) {
  worked_on_ = true;
  {
    auto started = SimHost::start(random_(), disk, options_);
    if (!started) return "the host does not start once more: " + started.error().message();
    SimHost& host = **started;
    auto volumes = host.run(host.volumes().list_volumes());
    if (!volumes) return volumes.error().message();
    for (const VolumeInfo& info : *volumes) {
      if (!found.contains(info.name)) continue;  // lost, as it may be
      auto opened = host.run(host.volumes().open_disk(info.name));
      if (!opened) return opened.error().message();
      Content& content = found[info.name];
      for (int i = 0; i < 3; ++i) {
        const uint64_t offset = random_.below(content.size());
        Content data(std::min<uint64_t>(random_.between(1, 9000), content.size() - offset),
                     static_cast<std::byte>(random_() | 1));
        auto done = host.run(opened->writer->write(offset, data, false));
        if (!done) return "work after recovery: " + done.error().message();
        std::ranges::copy(data, content.begin() + static_cast<ptrdiff_t>(offset));
      }
      if (auto done = host.run(opened->writer->flush()); !done)
        return "work after recovery: " + done.error().message();
      if (info.stateless) continue;
      if (random_.chance(0.5))
        if (auto done = host.run(host.volumes().commit_volume(info.name)); !done)
          return "work after recovery: " + done.error().message();
      if (random_.chance(0.3)) {
        auto done = host.run(host.volumes().create_snapshot(info.name, "later"));
        if (!done) return "work after recovery: " + done.error().message();
        found[info.name + "@later"] = content;
      }
    }
    if (random_.chance(0.5))
      if (auto done = host.run(host.collector().collect()); !done)
        return "garbage collection after recovery: " + done.error().message();
    if (std::string problem = compare(host, found, "after more work"); !problem.empty())
      return problem;
    disk.kill_process();
  }
  disk.restart();
  auto started = SimHost::start(random_(), disk, options_);
  if (!started) return "the host does not start after more work: " + started.error().message();
  return compare(**started, found, "after more work and a kill");
}

}  // namespace squall::testing
