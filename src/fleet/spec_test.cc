#include "fleet/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "fleet/store.h"

namespace squall {
namespace {

FleetRequest new_lab() {
  FleetRequest request;
  request.name = "lab";
  request.image = "debian";
  request.count = 8;
  return request;
}

FleetRecord lab_record() {
  FleetRecord record;
  record.spec = *resolve(new_lab(), std::nullopt);
  record.spec.kernel = "/boot/vmlinuz, the \"new\" one";
  record.spec.append = "root=/dev/vda";
  record.spec.cache = CacheMode::kWritethrough;
  record.spec.stateless = true;
  record.created_s = 1'800'000'000;
  record.volumes = {{"lab-1", 7}, {"lab-2", 8}};
  return record;
}

TEST(FleetSpec, NewFleetNeedsImageAndCount) {
  FleetRequest request;
  request.name = "lab";
  EXPECT_EQ(resolve(request, std::nullopt).error().kind(), ErrorKind::kInvalid);
  request.image = "debian";
  EXPECT_EQ(resolve(request, std::nullopt).error().kind(), ErrorKind::kInvalid);
  request.count = 3;
  const auto spec = resolve(request, std::nullopt);
  ASSERT_TRUE(spec);
  EXPECT_EQ(spec->memory_mib, 512u);
  EXPECT_EQ(spec->vm_name(3), "lab-3");
}

TEST(FleetSpec, ExistingFleetIsContinuedGrownButNotChanged) {
  const FleetSpec existing = *resolve(new_lab(), std::nullopt);
  FleetRequest request;
  request.name = "lab";
  EXPECT_EQ(*resolve(request, existing), existing);
  EXPECT_EQ(*resolve(new_lab(), existing), existing);
  request.count = 10;
  EXPECT_EQ(resolve(request, existing)->count, 10u);
  request.count = 7;
  EXPECT_EQ(resolve(request, existing).error().kind(), ErrorKind::kExists);
  request = new_lab();
  request.image = "other";
  EXPECT_EQ(resolve(request, existing).error().kind(), ErrorKind::kExists);
  request = new_lab();
  request.stateless = true;
  EXPECT_EQ(resolve(request, existing).error().kind(), ErrorKind::kExists);
}

TEST(FleetSpec, RelativeFilesAreMadeAbsolute) {
  FleetRequest request = new_lab();
  request.kernel = "boot/../vmlinuz";
  const auto spec = resolve(request, std::nullopt);
  ASSERT_TRUE(spec);
  EXPECT_EQ(spec->kernel.front(), '/');
  EXPECT_TRUE(spec->kernel.ends_with("/vmlinuz"));
}

TEST(FleetSpec, RefusesNonsense) {
  const auto refused = [](auto change) {
    FleetSpec spec = *resolve(new_lab(), std::nullopt);
    change(spec);
    return !validate(spec);
  };
  EXPECT_FALSE(refused([](FleetSpec&) {}));
  EXPECT_TRUE(refused([](FleetSpec& s) { s.name = "../lab"; }));
  EXPECT_TRUE(refused([](FleetSpec& s) { s.name = std::string(64, 'a'); }));
  EXPECT_TRUE(refused([](FleetSpec& s) { s.count = 0; }));
  EXPECT_TRUE(refused([](FleetSpec& s) { s.count = kFleetCountMax + 1; }));
  EXPECT_TRUE(refused([](FleetSpec& s) { s.cpus = 0; }));
  EXPECT_TRUE(refused([](FleetSpec& s) { s.initrd = "/initrd"; }));
  EXPECT_TRUE(refused([](FleetSpec& s) { s.ready_text = "a\nb"; }));
}

TEST(FleetRecord, RoundTrip) {
  const FleetRecord record = lab_record();
  EXPECT_EQ(*decode_fleet_record(encode_fleet_record(record)), record);
  const VmRecord vm{.started_s = 5, .boot_ms = 12'345};
  EXPECT_EQ(*decode_vm_record(encode_vm_record(vm)), vm);
  EXPECT_EQ(*decode_vm_record(encode_vm_record(VmRecord{.started_s = 5, .boot_ms = {}})),
            (VmRecord{.started_s = 5, .boot_ms = {}}));
}

TEST(FleetRecord, EveryDamagedByteIsToldOrHarmless) {
  const std::string good = encode_fleet_record(lab_record());
  for (size_t at = 0; at < good.size(); ++at) {
    for (const char c : {'\0', '"', '{', '9', '\xff'}) {
      std::string bad = good;
      bad[at] = c;
      const auto record = decode_fleet_record(bad);
      if (record) {
        EXPECT_TRUE(validate(record->spec)) << bad;
      }
    }
    EXPECT_FALSE(decode_fleet_record(good.substr(0, at)));
  }
  EXPECT_EQ(decode_fleet_record("[]").error().kind(), ErrorKind::kCorrupt);
  EXPECT_EQ(decode_fleet_record(R"({"version":2})").error().kind(), ErrorKind::kUnsupported);
  EXPECT_FALSE(decode_fleet_record(std::string(100'000, '[')));
}

TEST(VmState, FollowsFromWhatIsKnown) {
  EXPECT_EQ(vm_state(false, false, false), VmState::kDefined);
  EXPECT_EQ(vm_state(true, true, false), VmState::kStarting);
  EXPECT_EQ(vm_state(true, true, true), VmState::kReady);
  EXPECT_EQ(vm_state(true, false, true), VmState::kStopped);
}

class FleetStoreTest : public testing::Test {
 protected:
  FleetStoreTest() : directory_(testing::TempDir() + "fleets-XXXXXX") {
    CHECK(mkdtemp(directory_.data()) != nullptr);
  }
  ~FleetStoreTest() override { std::filesystem::remove_all(directory_); }
  std::string directory_;
};

TEST_F(FleetStoreTest, KeepsListsAndRemoves) {
  FleetStore store(directory_ + "/fleets");
  EXPECT_TRUE(store.list()->empty());
  EXPECT_EQ(store.load("lab").error().kind(), ErrorKind::kNotFound);
  EXPECT_EQ(store.load("../lab").error().kind(), ErrorKind::kInvalid);
  const FleetRecord record = lab_record();
  ASSERT_TRUE(store.save(record));
  EXPECT_EQ(*store.load("lab"), record);
  EXPECT_THAT(*store.list(), testing::ElementsAre("lab"));
  EXPECT_EQ(*store.load_vm(record.spec, 1), std::nullopt);
  ASSERT_TRUE(store.save_vm(record.spec, 1, {.started_s = 3, .boot_ms = 4}));
  EXPECT_EQ((*store.load_vm(record.spec, 1))->boot_ms, 4u);
  ASSERT_TRUE(store.remove("lab"));
  EXPECT_TRUE(store.list()->empty());
}

TEST_F(FleetStoreTest, OneCommandPerFleet) {
  FleetStore store(directory_);
  {
    const auto lock = store.lock("lab");
    ASSERT_TRUE(lock);
    EXPECT_EQ(store.lock("lab").error().kind(), ErrorKind::kBusy);
    EXPECT_TRUE(store.lock("other"));
  }
  EXPECT_TRUE(store.lock("lab"));
  EXPECT_TRUE(store.list()->empty());
}

}  // namespace
}  // namespace squall
