#include "check/pool_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "testing/sim_host.h"

namespace squall {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::SimHost;

class PoolCheckTest : public ::testing::Test {
 protected:
  PoolCheckTest() { start(); }

  void start() {
    auto host = SimHost::start(7, disk_);
    ASSERT_TRUE(host) << host.error().message();
    host_ = std::move(*host);
  }
  // A clean stop: all in the pool, the segments sealed.
  void restart() {
    open_.clear();
    host_.reset();
    start();
  }
  void create(const std::string& name, uint64_t size_bytes, const std::string& from = "",
              Durability durability = Durability::kHost) {
    const auto made = host_->run(host_->volumes().create_volumes(
        {.name = name, .from = from, .size_bytes = size_bytes, .durability = durability}));
    ASSERT_TRUE(made) << made.error().message();
  }
  WritableDisk& disk_of(const std::string& name) {
    auto& open = open_[name];
    if (open.disk == nullptr) open = *host_->run(host_->volumes().open_disk(name));
    return *open.writer;
  }
  void write(const std::string& name, uint64_t offset, uint64_t length, uint64_t seed) {
    Random random(seed);
    std::vector<std::byte> data(length);
    for (std::byte& byte : data) byte = static_cast<std::byte>(random());
    const auto written = host_->run(disk_of(name).write(offset, data, false));
    ASSERT_TRUE(written) << written.error().message();
  }
  void commit(const std::string& name) {
    const auto done = host_->run(host_->volumes().commit_volume(name));
    ASSERT_TRUE(done) << done.error().message();
  }
  std::vector<std::string> check() {
    auto report = host_->check();
    EXPECT_TRUE(report) << report.error().message();
    if (!report) return {report.error().message()};
    report_ = *report;
    std::vector<std::string> lines;
    for (const Fault& fault : report_.faults) lines.push_back(fault.to_line());
    return lines;
  }

  sim::SimDisk disk_{7};
  std::unique_ptr<SimHost> host_;
  std::map<std::string, OpenDisk> open_;
  CheckReport report_;
};

TEST_F(PoolCheckTest, SoundPoolHasNoFaults) {
  EXPECT_THAT(check(), IsEmpty());
  create("a", 8 * kMiB);
  write("a", 0, kMiB, 1);
  write("a", 5 * kMiB + 512, 100'000, 2);
  EXPECT_THAT(check(), IsEmpty());
  commit("a");
  EXPECT_THAT(check(), IsEmpty());
  ASSERT_TRUE(host_->run(host_->volumes().create_snapshot("a", "s")));
  create("b", 16 * kMiB, "a@s");
  write("b", 0, 300'000, 3);
  commit("b");
  EXPECT_THAT(check(), IsEmpty());
  EXPECT_EQ(report_.roots, 3);
  EXPECT_GT(report_.pages, 3);
  EXPECT_GT(report_.unsealed_segments, 0);
  restart();
  EXPECT_THAT(check(), IsEmpty());
  EXPECT_EQ(report_.unsealed_segments, 0);
  EXPECT_GT(report_.records, 20);
}

}  // namespace
}  // namespace squall
