#include "check/pool_check.h"

#include "check/check_test_support.h"
#include "index/block_index.h"

namespace squall {
namespace {

using ::testing::AllOf;
using testing::CheckTest;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using PoolCheck = CheckTest;

TEST_F(PoolCheck, SoundPoolHasNoFaults) {
  EXPECT_THAT(check(), IsEmpty());
  fill();
  EXPECT_THAT(check(), IsEmpty());
  write("a", 3 * kMiB + 512, 100'000, 2);
  EXPECT_THAT(check(), IsEmpty());
  EXPECT_EQ(report_.roots, 3);
  EXPECT_GT(report_.pages, 3);
  EXPECT_GT(report_.unsealed_segments, 0);
  stop();
  EXPECT_THAT(check_stopped(), IsEmpty());
  EXPECT_EQ(report_.unsealed_segments, 0);
  EXPECT_GT(report_.records, 30);
  start();
  EXPECT_THAT(read_all(), IsEmpty());
}

TEST_F(PoolCheck, UnsealedSegmentAfterAPowerCutIsNoFault) {
  fill();
  disk_.cut_power();
  stop();
  disk_.restart();
  EXPECT_THAT(check_stopped(), IsEmpty());
  EXPECT_GT(report_.unsealed_segments, 0);
  start();
  EXPECT_THAT(check(), IsEmpty());
}

// The first record is a's first chunk: behind the header, 64 KiB of random bytes.
TEST_F(PoolCheck, NamesADamagedChunkAndWhoIsAffected) {
  fill();
  stop();
  flip(segment_path(1), kSegmentHeaderBytes + 1000);
  const std::string line =
      "segment 1 in store default, offset 4096, 66048 bytes: chunk: record fails its checksum; "
      "affects snapshot a@s bytes 0 to 65535, volume a bytes 0 to 65535, volume b bytes 0 to "
      "65535;";
  EXPECT_THAT(check_stopped(), ElementsAre(HasSubstr(line)));
  start();
  EXPECT_THAT(check(), ElementsAre(HasSubstr(line)));
  EXPECT_THAT(read_all(), ElementsAre("a", "a@s", "b"));
  // Nothing can make it good, and trying does not hurt.
  stop();
  EXPECT_THAT(repair(), IsEmpty());
  EXPECT_THAT(check_stopped(), ElementsAre(HasSubstr(line)));
}

TEST_F(PoolCheck, NamesADamagedPageAndAllBelowIt) {
  fill();
  const auto info = host_->run(host_->engine().meta->get("v/b", "head"));
  const auto head = decode_volume_head(**info);
  stop();
  flip(segment_path(head->root.segment()), head->root.offset_bytes() + kRecordHeaderBytes + 5);
  EXPECT_THAT(check_stopped(),
              ElementsAre(AllOf(HasSubstr(fmt::format("offset {}, ", head->root.offset_bytes())),
                                HasSubstr("index page: record fails its checksum"),
                                HasSubstr("affects volume b bytes 0 to 8388607;"),
                                Not(HasSubstr("volume a")))));
  start();
  EXPECT_THAT(read_all(), ElementsAre("b"));
}

TEST_F(PoolCheck, RebuildsHeaderFooterAndTrailer) {
  fill();
  stop();
  const uint64_t size = content_of(segment_path(1)).size();
  const struct {
    uint64_t offset;
    const char* problem;
  } kParts[] = {{17, "header of segment 1 in store default, offset 0, 4096 bytes"},
                {size - 4096 + 30, "footer of segment 1 in store default"},
                {size - 10, "trailer of segment 1 in store default"},
                {size - 512, "trailer of segment 1 in store default"}};
  for (const auto& [offset, problem] : kParts) {
    flip(segment_path(1), offset);
    EXPECT_THAT(check_stopped(), ElementsAre(HasSubstr(problem))) << offset;
    EXPECT_THAT(repair(), ElementsAre(HasSubstr("made anew"))) << offset;
    EXPECT_THAT(check_stopped(), IsEmpty()) << offset;
    const auto once = content_of(segment_path(1));
    EXPECT_THAT(repair(), IsEmpty());
    EXPECT_EQ(content_of(segment_path(1)), once);
  }
  start();
  EXPECT_THAT(read_all(), IsEmpty());
}

TEST_F(PoolCheck, NamesATruncatedAndAMissingSegment) {
  fill();
  stop();
  const auto cut = [&](uint64_t bytes) {
    with_files(disk_, [&](FileSystem& files) {
      const int handle = *files.open(segment_path(1), {.write = true});
      EXPECT_TRUE(files.truncate(handle, bytes));
      files.close(handle);
      return 0;
    });
  };
  cut(2 * 66048);
  EXPECT_THAT(check_stopped(), Contains(HasSubstr("the segment ends after")));
  EXPECT_THAT(report_.faults[0].affected, Contains(AffectedRange{"volume a", 65536, 65536}));
  with_files(disk_, [&](FileSystem& files) { return files.remove(segment_path(1)); }).value();
  EXPECT_THAT(check_stopped(), Contains(HasSubstr("segment 1, offset 4096, ")));
  EXPECT_THAT(check_stopped(), Contains(HasSubstr("its segment does not exist")));
}

TEST_F(PoolCheck, SwappedSegmentsAreToldApart) {
  create("a", 4 * kMiB);
  write("a", 0, 100'000, 1);
  commit("a");
  restart();
  write("a", kMiB, 100'000, 2);
  commit("a");
  stop();
  std::vector<std::string> names;
  with_files(disk_, [&](FileSystem& files) {
    for (const std::string& name : *files.list("/pool/segments"))
      names.push_back("/pool/segments/" + name);
    EXPECT_TRUE(files.rename(names.at(0), "/pool/other"));
    EXPECT_TRUE(files.rename(names.at(1), names.at(0)));
    EXPECT_TRUE(files.rename("/pool/other", names.at(1)));
    return 0;
  });
  const auto lines = check_stopped();
  EXPECT_THAT(lines, Contains(HasSubstr("of this pool")));
  EXPECT_THAT(lines, Contains(HasSubstr("affects volume a bytes 0 to")));
  repair();
  EXPECT_THAT(check_stopped(), Contains(HasSubstr("affects volume a bytes 0 to")));
  start();
  EXPECT_THAT(read_all(), ElementsAre("a"));
}

TEST_F(PoolCheck, NamesADamagedLogAndJournal) {
  create("p", kMiB, "", Durability::kPool);
  for (uint64_t i = 0; i < 4; ++i) {
    write("p", i * 10'000, 5000, i + 1);
    flush("p");
  }
  disk_.kill_process();
  stop();
  disk_.restart();
  std::string part;
  with_files(disk_, [&](FileSystem& files) {
    part = "/pool/logs/" + files.list("/pool/logs")->at(0);
    return 0;
  });
  flip(part, 200);
  EXPECT_THAT(check_stopped(), ElementsAre(HasSubstr("log of volume p (id 1), part 1: ")));
  flip(part, 200);
  EXPECT_THAT(check_stopped(), IsEmpty());
  std::string journal;
  with_files(disk_, [&](FileSystem& files) {
    for (const std::string& name : *files.list("/host/journal"))
      if (name.ends_with(".wal") && journal.empty()) journal = "/host/journal/" + name;
    return 0;
  });
  flip(journal, journal_format::kFirstRecord + 100);
  EXPECT_THAT(check_stopped(), Contains(HasSubstr("journal file " + journal)));
}

TEST_F(PoolCheck, ChangesWhileItLooksAreNoFaults) {
  fill();
  // A writer that commits all the time, beside check after check.
  bool done = false;
  auto writer = [](testing::SimHost& host, WritableDisk& disk, const bool& done) -> Task<void> {
    Random random(3);
    std::vector<std::byte> data(20'000);
    uint64_t i = 0;
    while (!done) {
      for (std::byte& byte : data) byte = static_cast<std::byte>(random());
      (void)co_await disk.write(random.below(3 * kMiB), data, false);
      (void)co_await host.volumes().commit_volume("a");
      const std::string name = fmt::format("t{}", i);
      (void)co_await host.volumes().create_snapshot("a", name);
      if (i > 2) (void)co_await host.volumes().remove_snapshot("a", fmt::format("t{}", i - 2));
      ++i;
    }
  };
  WritableDisk& disk = disk_of("a");
  bool ended = false;
  spawn(writer(*host_, disk, done), [&ended] { ended = true; });
  for (int round = 0; round < 20; ++round) EXPECT_THAT(check(), IsEmpty());
  done = true;
  run_until(host_->reactor(), [&ended] { return ended; });
  contents_.clear();
}

TEST_F(PoolCheck, CanBeCancelledAndTellsItsProgress) {
  fill();
  stop();
  sim::SimReactor reactor(9, disk_);
  FileEngineOptions options;
  options.make_executor = make_inline_executor;
  auto engine = open_file_engine(reactor, reactor.files(), "/pool", options);
  ASSERT_TRUE(engine);
  const CheckTarget target{reactor,       *engine->executor, *engine->segments,
                           *engine->meta, *engine->logs,     engine->identity.id};
  uint64_t percent = 0;
  const uint64_t began_ns = reactor.now_ns();
  const auto slow = run_task(
      reactor, check_pool(target, {.rate_bytes_per_s = kMiB, .on_progress = [&](const auto& p) {
                                     EXPECT_GE(p.percent, percent);
                                     percent = p.percent;
                                   }}));
  ASSERT_TRUE(slow);
  EXPECT_EQ(percent, 100);
  EXPECT_GE(reactor.now_ns() - began_ns, (slow->read_bytes / kMiB - 2) * 1'000'000'000);
  const auto cancelled = run_task(reactor, check_pool(target, {.cancelled = [] { return true; }}));
  ASSERT_FALSE(cancelled);
  EXPECT_EQ(cancelled.error().kind(), ErrorKind::kCancelled);
  run_task(reactor, engine->close());
}

}  // namespace
}  // namespace squall
