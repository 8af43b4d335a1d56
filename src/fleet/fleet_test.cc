// The steps of a fleet's life, on volumes and VMs that exist only here.
#include "fleet/fleet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

namespace squall {
namespace {

using std::chrono::milliseconds;

class FakeVolumes : public FleetVolumes {
 public:
  Result<std::vector<VolumeInfo>> create(const CreateVolume& request) override {
    if (refuse_with) return fail(*refuse_with, "refused");
    std::vector<VolumeInfo> made;
    for (uint64_t i = 1; i <= request.count; ++i) {
      VolumeInfo info;
      info.name = request.count == 1 ? request.name : request.name + "-" + std::to_string(i);
      info.id = ++last_id;
      info.parent = request.from;
      info.created_s = std::time(nullptr);
      info.bytes_read = 1000 + i;
      made.push_back(info);
      volumes[info.name] = info;
    }
    return made;
  }
  Result<std::vector<VolumeInfo>> list() override {
    std::vector<VolumeInfo> all;
    for (const auto& [name, info] : volumes) all.push_back(info);
    return all;
  }
  Result<void> remove(const std::string& name) override {
    if (busy_answers > 0) {
      --busy_answers;
      return fail(ErrorKind::kBusy, "{} is open", name);
    }
    if (volumes.erase(name) == 0) return fail(ErrorKind::kNotFound, "no {}", name);
    return {};
  }

  std::map<std::string, VolumeInfo> volumes;
  uint64_t last_id = 0;
  int busy_answers = 0;
  std::optional<ErrorKind> refuse_with;
};

// VMs that write their console at once, or never.
class FakeLauncher : public Launcher {
 public:
  Result<void> prepare(const FleetSpec&) override { return {}; }
  Result<void> start(const VmDefinition& vm) override {
    if (fails.contains(vm.name)) return fail(ErrorKind::kIo, "{} does not start", vm.name);
    if (running.contains(vm.name)) return fail(ErrorKind::kBusy, "{} runs", vm.name);
    EXPECT_TRUE(volumes_in_use.insert(vm.volume).second) << "a volume with two VMs";
    running.insert(vm.name);
    ++starts;
    std::ofstream(console_log(vm)) << (silent.contains(vm.name) ? "boot" : "squall login: ");
    return {};
  }
  bool is_running(const VmDefinition& vm) override { return running.contains(vm.name); }
  void stop(const VmDefinition& vm, StopHow how) override {
    if (how < stubborn_until) return;
    running.erase(vm.name);
    volumes_in_use.erase(vm.volume);
  }
  std::string console_log(const VmDefinition& vm) const override {
    return vm.directory + "/console.log";
  }

  std::string console_socket(const VmDefinition& vm) const override {
    return vm.directory + "/console";
  }

  std::set<std::string> running, volumes_in_use, fails, silent;
  StopHow stubborn_until = StopHow::kPowerDown;
  int starts = 0;
};

class FleetTest : public testing::Test {
 protected:
  FleetTest()
      : home_(make_home()), store_(home_ + "/fleets"), manager_(store_, volumes_, launcher_) {
    options_.timeout = milliseconds(300);
    options_.poll_interval = milliseconds(1);
    down_.power_down = down_.patience = milliseconds(10);
  }
  ~FleetTest() override { std::filesystem::remove_all(home_); }

  static std::string make_home() {
    std::string path = testing::TempDir() + "fleet-XXXXXX";
    CHECK(mkdtemp(path.data()) != nullptr);
    return path;
  }
  static FleetRequest request(uint32_t count) {
    FleetRequest request;
    request.name = "lab";
    request.image = "debian";
    request.count = count;
    return request;
  }
  void expect_nothing_left() {
    EXPECT_TRUE(launcher_.running.empty());
    EXPECT_TRUE(volumes_.volumes.empty());
    EXPECT_EQ(store_.load("lab").error().kind(), ErrorKind::kNotFound);
  }

  const std::string home_;
  FleetStore store_;
  FakeVolumes volumes_;
  FakeLauncher launcher_;
  FleetManager manager_;
  FleetManager::UpOptions options_;
  FleetManager::DownOptions down_;
};

TEST_F(FleetTest, UpAndDown) {
  const auto status = manager_.up(request(3), options_);
  ASSERT_TRUE(status);
  EXPECT_EQ(status->vms_in(VmState::kReady), 3u);
  EXPECT_TRUE(status->vms[2].boot_ms);
  EXPECT_EQ(status->vms[2].bytes_read, 1003u);
  EXPECT_TRUE(status->create_us);
  EXPECT_EQ(volumes_.volumes.size(), 3u);
  EXPECT_EQ(manager_.status("lab")->vms_in(VmState::kReady), 3u);
  EXPECT_EQ(manager_.list()->size(), 1u);
  ASSERT_TRUE(manager_.down("lab", down_));
  expect_nothing_left();
  EXPECT_EQ(manager_.down("lab", down_).error().kind(), ErrorKind::kNotFound);
}

TEST_F(FleetTest, UpAgainContinuesAndGrows) {
  ASSERT_TRUE(manager_.up(request(2), options_));
  launcher_.running.erase("lab-2");  // died
  launcher_.volumes_in_use.erase("lab-2");
  EXPECT_EQ(manager_.status("lab")->vms[1].state, VmState::kStopped);
  const auto status = manager_.up(request(4), options_);
  ASSERT_TRUE(status);
  EXPECT_EQ(status->vms_in(VmState::kReady), 4u);
  EXPECT_EQ(launcher_.starts, 2 + 3);
  EXPECT_EQ(volumes_.last_id, 4u);
}

TEST_F(FleetTest, OneVmIsNumberedToo) {
  ASSERT_TRUE(manager_.up(request(1), options_));
  EXPECT_TRUE(volumes_.volumes.contains("lab-1"));
}

TEST_F(FleetTest, ForeignVolumesAreNeitherUsedNorRemoved) {
  volumes_.volumes["lab-2"] = {.name = "lab-2", .id = 99, .parent = "debian"};
  EXPECT_EQ(manager_.up(request(3), options_).error().kind(), ErrorKind::kExists);
  EXPECT_EQ(volumes_.volumes.size(), 1u);
  EXPECT_EQ(store_.load("lab").error().kind(), ErrorKind::kNotFound);
}

TEST_F(FleetTest, VolumeThatWasReplacedIsNotRemoved) {
  ASSERT_TRUE(manager_.up(request(2), options_));
  volumes_.volumes["lab-1"].id = 1234;
  ASSERT_TRUE(manager_.down("lab", down_));
  EXPECT_THAT(volumes_.volumes, testing::SizeIs(1));
}

TEST_F(FleetTest, VolumesMadeButNotNotedAreFoundAgain) {
  FleetRecord record;
  record.spec = *resolve(request(2), std::nullopt);
  record.created_s = std::time(nullptr) - 1;
  ASSERT_TRUE(store_.save(record));
  ASSERT_TRUE(volumes_.create({.name = "lab", .count = 2, .from = "debian"}));
  ASSERT_TRUE(manager_.up(request(2), options_));
  EXPECT_EQ(volumes_.last_id, 2u);
  ASSERT_TRUE(manager_.down("lab", down_));
  expect_nothing_left();
}

TEST_F(FleetTest, VolumesNotNotedAreRemovedByDown) {
  FleetRecord record;
  record.spec = *resolve(request(2), std::nullopt);
  record.created_s = std::time(nullptr) - 1;
  ASSERT_TRUE(store_.save(record));
  ASSERT_TRUE(volumes_.create({.name = "lab", .count = 2, .from = "debian"}));
  ASSERT_TRUE(manager_.down("lab", down_));
  expect_nothing_left();
}

TEST_F(FleetTest, InterruptTakesBackWhatWasStarted) {
  int calls = 0;
  launcher_.silent = {"lab-3"};
  options_.timeout = milliseconds(10'000);
  options_.check_interrupt = [&]() -> Result<void> {
    if (++calls > 10) return fail(ErrorKind::kCancelled, "interrupted");
    return {};
  };
  EXPECT_EQ(manager_.up(request(3), options_).error().kind(), ErrorKind::kCancelled);
  expect_nothing_left();
}

TEST_F(FleetTest, InterruptOfASecondUpKeepsWhatWasThere) {
  ASSERT_TRUE(manager_.up(request(2), options_));
  options_.check_interrupt = [&]() -> Result<void> {
    return fail(ErrorKind::kCancelled, "interrupted");
  };
  EXPECT_FALSE(manager_.up(request(4), options_));
  EXPECT_EQ(launcher_.running.size(), 2u);
  EXPECT_EQ(volumes_.volumes.size(), 2u);
}

TEST_F(FleetTest, VmThatDoesNotStartTakesTheNewFleetBack) {
  launcher_.fails = {"lab-2"};
  EXPECT_EQ(manager_.up(request(3), options_).error().kind(), ErrorKind::kIo);
  expect_nothing_left();
}

TEST_F(FleetTest, CutOffCreateKeepsTheRecord) {
  volumes_.refuse_with = ErrorKind::kIo;
  EXPECT_FALSE(manager_.up(request(3), options_));
  EXPECT_TRUE(store_.load("lab"));
  volumes_.refuse_with.reset();
  ASSERT_TRUE(manager_.down("lab", down_));
  expect_nothing_left();
}

TEST_F(FleetTest, SilentVmIsReportedWithItsConsole) {
  launcher_.silent = {"lab-2"};
  options_.timeout = milliseconds(20);
  const auto status = manager_.up(request(2), options_);
  ASSERT_TRUE(status);
  EXPECT_EQ(status->vms[1].state, VmState::kStarting);
  EXPECT_THAT(status->vms[1].detail, testing::HasSubstr("last line: boot"));
  EXPECT_EQ(launcher_.running.size(), 2u);
}

TEST_F(FleetTest, KeptVolumesServeTheNextUp) {
  ASSERT_TRUE(manager_.up(request(2), options_));
  down_.keep_volumes = true;
  ASSERT_TRUE(manager_.down("lab", down_));
  EXPECT_TRUE(launcher_.running.empty());
  EXPECT_EQ(volumes_.volumes.size(), 2u);
  ASSERT_TRUE(manager_.up(request(2), options_));
  EXPECT_EQ(volumes_.last_id, 2u);
  EXPECT_EQ(launcher_.starts, 4);
}

TEST_F(FleetTest, StubbornVmsAreKilledAndBusyVolumesWaitedFor) {
  ASSERT_TRUE(manager_.up(request(2), options_));
  launcher_.stubborn_until = StopHow::kKill;
  volumes_.busy_answers = 3;
  ASSERT_TRUE(manager_.down("lab", down_));
  expect_nothing_left();
}

}  // namespace
}  // namespace squall
