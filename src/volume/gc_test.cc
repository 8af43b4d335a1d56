// Garbage collection of a whole simulated host, case by case; gc_model_test.cc does it at random.
#include <gtest/gtest.h>

#include "base/random.h"
#include "testing/sim_host.h"

namespace squall {
namespace {

using testing::SimHost;
using testing::SimHostOptions;

std::vector<std::byte> noise(size_t bytes, uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> data(bytes);
  for (std::byte& byte : data) byte = static_cast<std::byte>(random() | 1);
  return data;
}

class Gc : public ::testing::Test {
 protected:
  Gc() {
    options_.collector.compact_slack_bytes = 0;
    options_.cache_bytes = 64 * kKiB;
    start();
  }
  void start() {
    auto host = SimHost::start(1, disk_, options_);
    ASSERT_TRUE(host) << host.error().message();
    host_ = std::move(*host);
  }
  HostVolumes& volumes() { return host_->volumes(); }
  template <class T>
  T run(Task<T> task) {
    return host_->run(std::move(task));
  }
  void create(const std::string& name, const std::string& from, uint64_t size_bytes = 0) {
    CreateVolume request;
    request.name = name;
    request.from = from;
    request.size_bytes = size_bytes;
    ASSERT_TRUE(run(volumes().create_volumes(request)));
  }
  void write(const std::string& name, uint64_t offset, ConstBytes data) {
    auto opened = run(volumes().open_disk(name));
    ASSERT_TRUE(opened);
    ASSERT_TRUE(run(opened->writer->write(offset, data, false)));
    ASSERT_TRUE(run(volumes().commit_volume(name)));
  }
  void expect(const std::string& name, const std::vector<std::byte>& content) {
    auto opened = run(volumes().open_disk(name));
    ASSERT_TRUE(opened) << opened.error().message();
    expect(*opened->disk, content);
  }
  void expect(ReadableDisk& disk, const std::vector<std::byte>& content) {
    std::vector<std::byte> got(content.size());
    auto read = run(disk.read(0, got));
    ASSERT_TRUE(read) << read.error().message();
    EXPECT_EQ(got, content);
  }
  CollectionReport collect() {
    auto report = run(host_->collector().collect());
    EXPECT_TRUE(report) << report.error().message();
    return report.value_or(CollectionReport{});
  }

  sim::SimDisk disk_{1};
  SimHostOptions options_;
  std::unique_ptr<SimHost> host_;
};

TEST_F(Gc, AnImageCanGoWhileItsClonesLive) {
  auto content = noise(kMiB, 1);
  create("v", "", content.size());
  write("v", 0, content);
  ASSERT_TRUE(run(volumes().create_image("i", "v")));
  create("c", "i");
  ASSERT_TRUE(run(volumes().remove_volume("v", false)));
  const auto fresh = noise(512 * kKiB, 2);
  write("c", 0, fresh);
  EXPECT_LT(collect().freed_bytes, 100 * kKiB) << "the image still needs all of it";
  ASSERT_TRUE(run(volumes().remove_image("i")));
  EXPECT_GT(collect().freed_bytes, 450 * kKiB);
  std::ranges::copy(fresh, content.begin());
  expect("c", content);
}

TEST_F(Gc, AnOpenReaderKeepsARemovedImage) {
  const auto content = noise(kMiB, 1);
  create("v", "", content.size());
  write("v", 0, content);
  ASSERT_TRUE(run(volumes().create_image("i", "v")));
  auto reader = run(volumes().open_disk("i"));
  ASSERT_TRUE(reader);
  ASSERT_TRUE(run(volumes().remove_image("i")));
  ASSERT_TRUE(run(volumes().remove_volume("v", false)));
  collect();
  collect();
  expect(*reader->disk, content);
  *reader = {};
  EXPECT_EQ(collect().live_bytes, 0u);
}

TEST_F(Gc, AReadErrorWhileMarkingFreesNothing) {
  const auto content = noise(4 * kMiB, 1);
  create("v", "", content.size());
  write("v", 0, content);
  write("v", 0, noise(kMiB, 2));
  ASSERT_TRUE(run(volumes().create_snapshot("v", "s")));
  collect();
  write("v", 2 * kMiB, noise(kMiB, 3));
  ASSERT_TRUE(run(volumes().remove_snapshot("v", "s")));
  host_.reset();
  disk_.restart();
  start();  // no page is in memory
  run(host_->pool().wait_recovered());
  const uint64_t before =
      host_->pool().segment_totals(host_->pool().sealed_segments().front()).stored_bytes;
  sim::DiskFaults faults;
  bool failed = false;
  for (uint64_t good = 0; good < 200 && !failed; ++good) {
    faults.read = {.after = good, .times = ~uint64_t{0}};
    disk_.set_faults("/pool/segments", faults);
    auto report = run(host_->collector().collect());
    failed = !report;
    if (report) EXPECT_EQ(report->freed_bytes, 0u);
  }
  EXPECT_TRUE(failed) << "no fault hit a page";
  EXPECT_NE(host_->collector().status().error, "");
  disk_.set_faults("/pool/segments", {});
  EXPECT_EQ(before,
            host_->pool().segment_totals(host_->pool().sealed_segments().front()).stored_bytes);
  EXPECT_GT(collect().freed_bytes, 900 * kKiB);
  EXPECT_EQ(host_->collector().status().error, "");
}

TEST_F(Gc, SparseSegmentsAreCompactedAndReadTheSame) {
  auto content = noise(4 * kMiB, 1);
  create("v", "", content.size());
  write("v", 0, content);
  ASSERT_TRUE(run(volumes().create_snapshot("v", "s")));
  create("c", "v@s");
  const auto snapshot = content;
  // Three of four blocks of every chunk die once the snapshot is gone.
  for (uint64_t at = 0; at < content.size(); at += 4 * kBlockBytes) {
    const auto fresh = noise(3 * kBlockBytes, at + 7);
    std::ranges::copy(fresh, content.begin() + static_cast<ptrdiff_t>(at));
    for (const char* name : {"v", "c"}) {
      auto opened = run(volumes().open_disk(name));
      ASSERT_TRUE(run(opened->writer->write(at, fresh, false)));
    }
  }
  for (const char* name : {"v", "c"}) ASSERT_TRUE(run(volumes().commit_volume(name)));
  expect("v@s", snapshot);
  ASSERT_TRUE(run(volumes().remove_snapshot("v", "s")));
  const CollectionReport report = collect();
  EXPECT_GT(report.moved_bytes, 800 * kKiB);
  EXPECT_LT(report.held_bytes, report.live_bytes / 100 * 130);
  expect("v", content);
  expect("c", content);
  host_.reset();
  disk_.restart();
  start();
  expect("v", content);
  expect("c", content);
}

TEST_F(Gc, ACancelledCollectionLeavesEverythingReadable) {
  const auto content = noise(2 * kMiB, 1);
  create("v", "", content.size());
  write("v", 0, content);
  const uint64_t ticket = host_->collector().request();
  host_->collector().cancel();
  run_until(host_->reactor(), [&] { return host_->collector().status().ticket >= ticket; });
  expect("v", content);
  collect();
  expect("v", content);
}

}  // namespace
}  // namespace squall
