// What the tests of checks share: a host on a simulated disk whose files can be damaged, and checks
// and repairs of its pool while the host is down.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "check/repair.h"
#include "testing/sim_host.h"

namespace squall::testing {

using Content = std::vector<std::byte>;

class CheckTest : public ::testing::Test {
 protected:
  void SetUp() override { start(); }

  void start() {
    auto host = SimHost::start(7, disk_);
    ASSERT_TRUE(host) << host.error().message();
    host_ = std::move(*host);
  }
  // A clean stop: the segments are sealed, what is dirty is in the journal.
  void stop() {
    open_.clear();
    host_.reset();
  }
  void restart() {
    stop();
    start();
  }
  void create(const std::string& name, uint64_t size_bytes, const std::string& from = "",
              Durability durability = Durability::kHost) {
    const auto made = host_->run(host_->volumes().create_volumes(
        {.name = name, .from = from, .size_bytes = size_bytes, .durability = durability}));
    ASSERT_TRUE(made) << made.error().message();
    contents_[name] = from.empty() ? Content(size_bytes) : contents_.at(from);
    contents_[name].resize(size_bytes);
  }
  WritableDisk& disk_of(const std::string& name) {
    auto& open = open_[name];
    if (open.disk == nullptr) open = *host_->run(host_->volumes().open_disk(name));
    return *open.writer;
  }
  void write(const std::string& name, uint64_t offset, uint64_t length, uint64_t seed) {
    Random random(seed);
    Content data(length);
    for (std::byte& byte : data) byte = static_cast<std::byte>(random());
    const auto written = host_->run(disk_of(name).write(offset, data, false));
    ASSERT_TRUE(written) << written.error().message();
    std::ranges::copy(data, contents_[name].begin() + static_cast<ptrdiff_t>(offset));
  }
  void flush(const std::string& name) { ASSERT_TRUE(host_->run(disk_of(name).flush())); }
  void commit(const std::string& name) {
    const auto done = host_->run(host_->volumes().commit_volume(name));
    ASSERT_TRUE(done) << done.error().message();
  }
  void snapshot(const std::string& volume, const std::string& name) {
    ASSERT_TRUE(host_->run(host_->volumes().create_snapshot(volume, name)));
    contents_[volume + "@" + name] = contents_.at(volume);
  }
  // Volume "a" of 4 MiB with 2 MiB of data, its snapshot "a@s", and a clone "b" with data of its
  // own.
  void fill() {
    create("a", 4 * kMiB);
    write("a", 0, 2 * kMiB, 1);
    snapshot("a", "s");
    create("b", 8 * kMiB, "a@s");
    write("b", 3 * kMiB, 300'000, 2);
    commit("b");
  }

  // Each 4 KiB block of every volume and snapshot is as written, or cannot be read. Returns the
  // objects with blocks that cannot.
  std::set<std::string> read_all() {
    std::set<std::string> unreadable;
    for (const auto& [name, content] : contents_) {
      auto open = host_->run(host_->volumes().open_disk(name));
      if (!open) {
        EXPECT_EQ(open.error().os_errno(), EIO) << open.error().message();
        unreadable.insert(name);
        continue;
      }
      for (uint64_t at = 0; at < content.size(); at += kBlockBytes) {
        Content block(std::min(kBlockBytes, content.size() - at), std::byte{0xee});
        const auto read = host_->run(open->disk->read(at, block));
        if (!read) {
          EXPECT_EQ(read.error().os_errno(), EIO) << read.error().message();
          unreadable.insert(name);
        } else {
          EXPECT_TRUE(std::ranges::equal(block, std::span(content).subspan(at, block.size())))
              << name << " holds wrong bytes at " << at;
        }
      }
    }
    return unreadable;
  }

  // Of the host that runs.
  std::vector<std::string> check() {
    auto report = host_->check();
    EXPECT_TRUE(report) << report.error().message();
    return lines_of(report);
  }
  // Of the host's files while it is down.
  std::vector<std::string> check_stopped() { return lines_of(run_stopped(disk_, false)); }
  std::vector<std::string> repair() {
    const auto report = run_stopped(disk_, true);
    return report ? report->actions : std::vector{report.error().message()};
  }
  std::vector<std::string> lines_of(const Result<CheckReport>& report) {
    if (!report) return {report.error().message()};
    report_ = *report;
    std::vector<std::string> lines;
    for (const Fault& fault : report_.faults) lines.push_back(fault.to_line());
    return lines;
  }
  static Result<CheckReport> run_stopped(sim::SimDisk& disk, bool repair) {
    sim::SimReactor reactor(9, disk);
    FileEngineOptions options;
    options.make_executor = make_inline_executor;
    TRY_ASSIGN(FileEngine engine, open_file_engine(reactor, reactor.files(), "/pool", options));
    const CheckTarget target{.reactor = reactor,
                             .executor = *engine.executor,
                             .segments = *engine.segments,
                             .catalog = *engine.meta,
                             .logs = *engine.logs,
                             .pool = engine.identity.id,
                             .files = &reactor.files(),
                             .journal_directory = "/host/journal"};
    auto report = run_task(reactor, check_pool(target));
    if (report && repair) {
      auto actions = run_task(reactor, repair_pool(target, *report));
      if (actions)
        report->actions = std::move(*actions);
      else
        report = std::unexpected(actions.error());
    }
    run_task(reactor, engine.close());
    return report;
  }

  static std::string segment_path(SegmentId id) {
    return fmt::format("/pool/segments/{:016x}.seg", id);
  }
  template <class Use>
  static auto with_files(sim::SimDisk& disk, Use use) {
    sim::SimReactor reactor(11, disk);
    return use(reactor.files());
  }
  Content content_of(const std::string& path) {
    return with_files(disk_, [&](FileSystem& files) { return *files.read_file(path, kGiB); });
  }
  void flip(const std::string& path, uint64_t offset, uint8_t mask = 0x10) {
    ASSERT_TRUE(disk_.flip_bits(path, offset, mask)) << path << " " << offset;
  }

  sim::SimDisk disk_{7};
  std::unique_ptr<SimHost> host_;
  std::map<std::string, OpenDisk> open_;
  std::map<std::string, Content> contents_;
  CheckReport report_;
};

}  // namespace squall::testing
