// Catalog entries that rot: a host goes on without them, a check names them, a repair mends or
// moves them.
#include "check/catalog_check.h"
#include "check/check_test_support.h"
#include "check/scrub.h"

namespace squall {
namespace {

using ::testing::AllOf;
using testing::CheckTest;
using ::testing::Contains;
using testing::Content;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class CatalogDamage : public CheckTest {
 protected:
  std::string value_of(const std::string& partition, const std::string& key) {
    return **host_->run(host_->engine().meta->get(partition, key));
  }
  // Where an entry's value lies in the database's file; the host is down.
  uint64_t offset_of(const std::string& value) {
    const Content file = content_of("/pool/catalog.db");
    const auto found = std::ranges::search(file, as_bytes(value));
    EXPECT_FALSE(found.empty());
    return static_cast<uint64_t>(found.begin() - file.begin());
  }
  // Changes two bytes: more than can be put right.
  void ruin(const std::string& value) {
    const uint64_t at = offset_of(value);
    flip("/pool/catalog.db", at + 5);
    flip("/pool/catalog.db", at + 9, 0x81);
  }
};

TEST_F(CatalogDamage, OneChangedByteIsPutRight) {
  fill();
  const std::string head = value_of("v/a", "head");
  stop();
  flip("/pool/catalog.db", offset_of(head) + 8, 0x5a);
  EXPECT_THAT(check_stopped(), ElementsAre(HasSubstr("volume a: its catalog entry is damaged")));
  sim::SimDisk kept = disk_.clone();
  EXPECT_THAT(repair(), ElementsAre("catalog entry v/a head: one byte had changed; put right"));
  EXPECT_THAT(check_stopped(), IsEmpty());
  // Start-up does the same.
  disk_ = std::move(kept);
  start();
  EXPECT_THAT(host_->volumes().damaged(), IsEmpty());
  EXPECT_EQ(value_of("v/a", "head"), head);
  EXPECT_THAT(check(), IsEmpty());
  EXPECT_THAT(read_all(), IsEmpty());
}

TEST_F(CatalogDamage, HostStartsWithoutADamagedVolume) {
  fill();
  const std::string head = value_of("v/a", "head");
  stop();
  ruin(head);
  start();
  EXPECT_THAT(host_->volumes().damaged(),
              ElementsAre(HasSubstr("the catalog entry of volume a is damaged")));
  EXPECT_THAT(read_all(), UnorderedElementsAre("a", "a@s"));
  const auto taken = host_->run(host_->volumes().create_volumes({.name = "a", .size_bytes = kMiB}));
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().kind(), ErrorKind::kExists);
  const auto shown = host_->run(host_->volumes().show_volume("a"));
  ASSERT_FALSE(shown);
  EXPECT_EQ(shown.error().kind(), ErrorKind::kCorrupt);
  // What the entry refers to is unknown: nothing may be freed.
  const auto collected = host_->run(host_->collector().collect());
  ASSERT_FALSE(collected);
  EXPECT_THAT(collected.error().message(), HasSubstr("v/a head: its entry is damaged"));
  EXPECT_THAT(check(), ElementsAre(HasSubstr("volume a: its catalog entry is damaged")));
  stop();
  // Its snapshot has no volume any more, and follows.
  EXPECT_THAT(repair(), ElementsAre(HasSubstr("catalog entry v/a head: moved to the catalog's "
                                              "quarantine as v/a/head"),
                                    HasSubstr("quarantine as v/a/snap/s")));
  EXPECT_THAT(check_stopped(), IsEmpty());
  EXPECT_THAT(repair(), IsEmpty());
  start();
  EXPECT_THAT(host_->volumes().damaged(), IsEmpty());
  create("a", kMiB);
  contents_.erase("a@s");
  EXPECT_THAT(read_all(), IsEmpty());
}

TEST_F(CatalogDamage, DamagedSnapshotGoesWithItsVolume) {
  fill();
  const std::string head = value_of("v/a", "snap/s");
  stop();
  ruin(head);
  start();
  EXPECT_THAT(host_->volumes().damaged(), ElementsAre(HasSubstr("snapshot a@s")));
  EXPECT_THAT(read_all(), ElementsAre("a@s"));
  EXPECT_FALSE(host_->run(host_->volumes().create_snapshot("a", "s")));
  open_.clear();
  ASSERT_TRUE(host_->run(host_->volumes().remove_volume("a", true)));
  EXPECT_THAT(host_->volumes().damaged(), IsEmpty());
  EXPECT_THAT(check(), IsEmpty());
}

TEST_F(CatalogDamage, CountersThatAreTooLowAreRaised) {
  fill();
  for (const char* key : {kNextIdKey, kNextSegmentKey})
    ASSERT_TRUE(host_->run(host_->engine().meta->commit(
        {.partition = kPoolPartition, .puts = {{key, std::string("1")}}})));
  EXPECT_THAT(check(), ElementsAre(HasSubstr("next_segment: it says 1, and"),
                                   HasSubstr("next_id: it says 1, and")));
  stop();
  EXPECT_THAT(repair(),
              ElementsAre(HasSubstr("next_segment: raised"), HasSubstr("next_id: raised")));
  EXPECT_THAT(check_stopped(), IsEmpty());
  EXPECT_THAT(repair(), IsEmpty());
}

TEST_F(CatalogDamage, NamesWhatContradicts) {
  fill();
  VolumeHead head = *decode_volume_head(value_of("v/b", "head"));
  head.store = "attic";
  head.owner = Uuid::generate();
  head.id = 1;
  auto& meta = *host_->engine().meta;
  ASSERT_TRUE(host_->run(meta.commit({.partition = "v/c", .puts = {{"head", encode(head)}}})));
  ASSERT_TRUE(host_->run(
      meta.commit({.partition = "v/d",
                   .puts = {{"snap/x", encode(SnapshotHead{.id = 99, .size_bytes = 512})}}})));
  const auto lines = check();
  EXPECT_THAT(lines, Contains(HasSubstr("volume c: it has the id 1 of volume a")));
  EXPECT_THAT(lines, Contains(HasSubstr("volume c: it prefers store attic")));
  EXPECT_THAT(lines, Contains(HasSubstr("volume c: it is held by node")));
  EXPECT_THAT(lines, Contains(HasSubstr("snapshot d@x: its volume does not exist")));
}

// A repair that is killed anywhere, and made again, leads to the same.
TEST_F(CatalogDamage, RepairMayBeKilledAnywhere) {
  fill();
  const std::string head = value_of("v/b", "head");
  stop();
  ruin(head);
  const uint64_t size = content_of(segment_path(1)).size();
  flip(segment_path(1), size - 20);
  flip(segment_path(1), 33);
  const auto faults = check_stopped();
  EXPECT_EQ(faults.size(), 3);
  for (uint64_t n = 0; n < 200; ++n) {
    sim::SimDisk disk = disk_.clone();
    disk.cut_power_after(n);
    const auto cut = run_stopped(disk, true);
    const bool whole = disk.is_running();
    disk.restart(n % 2 == 0 ? sim::LossPolicy::lose_all() : sim::LossPolicy::random(n));
    const auto again = run_stopped(disk, true);
    ASSERT_TRUE(again) << n << ": " << again.error().message();
    const auto after = run_stopped(disk, false);
    ASSERT_TRUE(after);
    for (const Fault& fault : after->faults) ADD_FAILURE() << n << ": " << fault.to_line();
    if (whole && cut) break;
    ASSERT_LT(n, 199);
  }
}

TEST_F(CatalogDamage, ScrubFindsRotAndGoesOnAfterARestart) {
  fill();
  restart();
  flip(segment_path(1), kSegmentHeaderBytes + 1000);
  const auto target = [this] {
    FileEngine& engine = host_->engine();
    return CheckTarget{host_->reactor(), *engine.executor, *engine.segments,
                       *engine.meta,     *engine.logs,     engine.identity.id};
  };
  const auto run_for = [this](Scrub& scrub, uint64_t seconds) {
    scrub.start();
    host_->run([](Reactor& reactor, uint64_t ns) -> Task<void> { co_await sleep_ns(reactor, ns); }(
                                                     host_->reactor(), seconds * 1'000'000'000));
    const ScrubStatus status = scrub.status();
    host_->run(scrub.stop());
    return status;
  };
  Scrub slow(target(), {.rate_bytes_per_s = 64 * kKiB});
  const ScrubStatus begun = run_for(slow, 65);
  EXPECT_TRUE(begun.running);
  EXPECT_THAT(begun.lines, ElementsAre(AllOf(HasSubstr("segment 1 in store default, offset 4096"),
                                             HasSubstr("volume a bytes 0 to 65535"))));
  // Goes on behind what was verified already.
  Scrub fast(target(), {.rate_bytes_per_s = 8 * kMiB});
  const ScrubStatus status = run_for(fast, 100);
  EXPECT_FALSE(status.running);
  EXPECT_EQ(status.percent, 100);
  EXPECT_GT(status.ended_s, 0);
  EXPECT_THAT(status.lines, IsEmpty());
  // The next pass is not due.
  Scrub later(target(), {.rate_bytes_per_s = 8 * kMiB});
  EXPECT_EQ(run_for(later, 100).read_bytes, 0);
  Scrub off(target(), {.rate_bytes_per_s = 0});
  EXPECT_FALSE(run_for(off, 1000).enabled);
}

}  // namespace
}  // namespace squall
