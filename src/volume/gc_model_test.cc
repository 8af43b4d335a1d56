// Garbage collection under everything else: several actors at once write, commit, take and remove
// snapshots, clone, roll back, import, make and remove images and read what was removed, while
// collections run, are cancelled and cut off by kills and power cuts. Every volume, snapshot and
// image then holds what it should; when all is removed the pool is empty.
//
// Volumes are writethrough, so what was acknowledged survives any crash; of what was in flight,
// either outcome is right. SQUALL_SEEDS=N runs N seeds (default 30); SQUALL_SEED=K replays one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <set>

#include "base/random.h"
#include "testing/sim_host.h"

namespace squall {
namespace {

using testing::SimHost;
using testing::SimHostOptions;

// A disk's content: a version per block, from which its bytes follow; 0 is a hole.
using Content = std::vector<uint64_t>;

void fill_block(uint64_t version, Bytes to) {
  std::memset(to.data(), 0, to.size());
  if (version == 0) return;
  Random random(version);
  // Half of the blocks hardly compress.
  const size_t filled = version % 2 == 0 ? to.size() : to.size() / 8;
  for (size_t i = 0; i < filled; i += sizeof(uint64_t)) store_le(to.data() + i, random() | 1);
}

struct VolumeModel {
  Content content;
  std::map<uint64_t, uint64_t> in_flight;  // block to version: may be there after a crash
  std::map<std::string, Content> snapshots;
  std::map<std::string, Content> maybe_snapshots;  // being made, or being removed
  bool busy = false;                               // an actor is at work on it
  bool removing = false;
};

class Campaign {
 public:
  explicit Campaign(uint64_t seed) : seed_(seed), random_(seed), disk_(seed) {
    options_.segment_bytes = random_.chance(0.5) ? 256 * kKiB : kMiB;
    options_.cache_bytes = random_.chance(0.5) ? 64 * kKiB : kMiB;
    options_.collector.rate_bytes_per_s = 0;
    options_.collector.compact_percent = random_.chance(0.7) ? 110 : 1000;
    options_.collector.compact_slack_bytes = 0;
  }

  void run(int rounds) {
    start();
    for (int i = 0; i < rounds && !failed(); ++i) {
      round();
      if (failed()) return;
      if (random_.chance(0.4)) verify_all();
    }
    if (!failed()) remove_everything();
    host_.reset();
  }

 private:
  static bool failed() { return ::testing::Test::HasFailure(); }

  void start() {
    auto host = SimHost::start(random_(), disk_, options_);
    ASSERT_TRUE(host) << host.error().message();
    host_ = std::move(*host);
  }
  HostVolumes& volumes() { return host_->volumes(); }
  std::string new_name(const char* kind) { return kind + std::to_string(++last_name_); }

  // ---- a round: actors at work, collections, perhaps a crash ----

  void round() {
    crashing_ = random_.chance(0.35);
    if (crashing_) {
      const uint64_t writes = random_.between(1, 600);
      if (random_.chance(0.5))
        disk_.kill_process_after(writes);
      else
        disk_.cut_power_after(writes);
    }
    const uint64_t actors = random_.between(2, 6);
    running_ = 0;
    for (uint64_t i = 0; i < actors; ++i) launch(pick_actor());
    launch(collections());
    run_until(host_->reactor(), [this] { return running_ == 0; });
    if (crashing_) recover();
  }
  void launch(Task<void> actor) {
    ++running_;
    spawn(std::move(actor), [this] { --running_; });
  }
  Task<void> pick_actor() {
    const uint64_t dice = random_.below(100);
    if (models_.empty() || dice < 12) return creator();
    if (dice < 60) return writer();
    if (dice < 70) return image_maker();
    if (dice < 78) return importer();
    if (dice < 88) return reader();
    return remover();
  }
  Task<void> nap() { co_await sleep_ns(host_->reactor(), random_.below(3'000'000)); }

  Task<void> collections() {
    const uint64_t count = random_.below(4);
    for (uint64_t i = 0; i < count; ++i) {
      co_await nap();
      if (random_.chance(0.2)) {
        host_->collector().request();
        co_await nap();
        host_->collector().cancel();
        continue;
      }
      auto done = co_await host_->collector().collect();
      if (!done) {
        expect_only_crash(done.error());
        co_return;
      }
    }
  }

  // Where the disk is not cut off nothing may fail.
  void expect_only_crash(const Error& error) {
    if (error.kind() == ErrorKind::kCancelled) return;
    EXPECT_FALSE(disk_.is_running()) << "seed " << seed_ << ": " << error.message();
  }

  std::string pick_idle_volume() {
    std::vector<std::string> idle;
    for (const auto& [name, model] : models_)
      if (!model.busy) idle.push_back(name);
    return idle.empty() ? "" : idle[random_.below(idle.size())];
  }

  // What a clone or reader may be of: an image or a snapshot, and its content.
  struct Origin {
    std::string name;
    Content content;
  };
  Origin pick_origin() {
    std::vector<Origin> all;
    for (const auto& [name, content] : images_) all.push_back({name, content});
    for (const auto& [name, model] : models_)
      for (const auto& [snapshot, content] : model.snapshots)
        all.push_back({name + "@" + snapshot, content});
    return all.empty() ? Origin{} : all[random_.below(all.size())];
  }

  Task<void> creator() {
    CreateVolume request;
    request.name = new_name("v");
    request.cache = CacheMode::kWritethrough;
    Content content(random_.between(64, 1200));
    if (const Origin origin = pick_origin(); !origin.name.empty() && random_.chance(0.8)) {
      request.from = origin.name;
      content = origin.content;
      request.stateless = random_.chance(0.1);
    } else {
      request.size_bytes = content.size() * kBlockBytes;
    }
    // A stateless one promises nothing after a crash; here it only keeps its base alive.
    if (request.stateless)
      stateless_.insert(request.name);
    else
      maybe_volumes_[request.name] = content;
    co_await nap();
    auto made = co_await volumes().create_volumes(request);
    if (!made) {
      // Its origin may have been removed meanwhile.
      if (made.error().kind() != ErrorKind::kNotFound) expect_only_crash(made.error());
      co_return;
    }
    if (request.stateless) co_return co_await use_stateless(request.name, content);
    maybe_volumes_.erase(request.name);
    models_[request.name].content = content;
  }

  Task<void> use_stateless(std::string name, Content content) {
    {
      auto opened = co_await volumes().open_disk(name);
      if (!opened) co_return expect_only_crash(opened.error());
      for (int i = 0; i < 4; ++i) {
        co_await nap();
        if (!co_await reads_as(*opened->disk, content, name)) co_return;
      }
    }
    auto removed = co_await volumes().remove_volume(name, true);
    if (!removed) co_return expect_only_crash(removed.error());
    stateless_.erase(name);
  }

  // Reads a part and compares. False when the disk is cut off.
  Task<bool> reads_as(ReadableDisk& disk, const Content& content, std::string what) {
    const uint64_t first = random_.below(content.size());
    const uint64_t count = std::min<uint64_t>(random_.between(1, 80), content.size() - first);
    std::vector<std::byte> got(count * kBlockBytes);
    auto read = co_await disk.read(first * kBlockBytes, got);
    if (!read) {
      expect_only_crash(read.error());
      co_return false;
    }
    std::vector<std::byte> expected(kBlockBytes);
    for (uint64_t i = 0; i < count; ++i) {
      fill_block(content[first + i], expected);
      const bool equal =
          std::memcmp(expected.data(), got.data() + i * kBlockBytes, kBlockBytes) == 0;
      EXPECT_TRUE(equal) << "seed " << seed_ << ": " << what << " block " << first + i;
      if (!equal) co_return false;
    }
    co_return true;
  }

  Task<void> writer() {
    const std::string name = pick_idle_volume();
    if (name.empty()) co_return;
    VolumeModel& model = models_.at(name);
    model.busy = true;
    const uint64_t steps = random_.between(3, 25);
    for (uint64_t i = 0; i < steps; ++i) {
      if (random_.chance(0.3)) co_await nap();
      if (!co_await write_step(name, model)) co_return;
    }
    model.busy = false;
  }
  Task<bool> write_step(std::string name, VolumeModel& model) {
    const uint64_t dice = random_.below(100);
    if (dice < 60) co_return co_await write(name, model);
    if (dice < 72) {
      auto opened = co_await volumes().open_disk(name);
      if (!opened) co_return false;
      co_return co_await reads_as(*opened->disk, model.content, name);
    }
    if (dice < 82) {
      auto done = co_await volumes().commit_volume(name);
      if (!done) expect_only_crash(done.error());
      co_return done.has_value();
    }
    if (dice < 90) co_return co_await take_snapshot(name, model);
    if (dice < 96) co_return co_await drop_snapshot(name, model);
    co_return co_await roll_back(name, model);
  }
  Task<bool> write(std::string name, VolumeModel& model) {
    const uint64_t first = random_.below(model.content.size());
    const uint64_t most = random_.chance(0.3) ? 100 : 6;
    const uint64_t count = std::min(random_.between(1, most), model.content.size() - first);
    const bool trim = random_.chance(0.15);
    // Sometimes what is stored already, for deduplication to find.
    const Origin known = random_.chance(0.4) ? pick_origin() : Origin{};
    const uint64_t from = known.name.empty() ? 0 : random_.below(known.content.size());
    std::vector<std::byte> data(count * kBlockBytes);
    for (uint64_t i = 0; i < count; ++i) {
      uint64_t version = trim ? 0 : ++last_version_;
      if (!trim && from + i < known.content.size()) version = known.content[from + i];
      model.in_flight[first + i] = version;
      fill_block(version, Bytes(data).subspan(i * kBlockBytes, kBlockBytes));
    }
    auto opened = co_await volumes().open_disk(name);
    if (!opened) co_return false;
    Result<void> done;
    if (trim)
      done = co_await opened->writer->trim(first * kBlockBytes, data.size(), false);
    else
      done = co_await opened->writer->write(first * kBlockBytes, data, false);
    if (!done) {
      expect_only_crash(done.error());
      co_return false;
    }
    for (const auto& [block, version] : model.in_flight) model.content[block] = version;
    model.in_flight.clear();
    co_return true;
  }
  Task<bool> take_snapshot(std::string name, VolumeModel& model) {
    if (model.snapshots.size() > 4) co_return true;
    const std::string snapshot = new_name("s");
    model.maybe_snapshots[snapshot] = model.content;
    auto done = co_await volumes().create_snapshot(name, snapshot);
    if (!done) {
      expect_only_crash(done.error());
      co_return false;
    }
    model.snapshots.insert(model.maybe_snapshots.extract(snapshot));
    co_return true;
  }
  Task<bool> drop_snapshot(std::string name, VolumeModel& model) {
    if (model.snapshots.empty()) co_return true;
    const std::string snapshot = model.snapshots.begin()->first;
    model.maybe_snapshots.insert(model.snapshots.extract(snapshot));
    auto done = co_await volumes().remove_snapshot(name, snapshot);
    if (!done) {
      expect_only_crash(done.error());
      co_return false;
    }
    model.maybe_snapshots.erase(snapshot);
    co_return true;
  }
  Task<bool> roll_back(std::string name, VolumeModel& model) {
    if (model.snapshots.empty()) co_return true;
    const auto snapshot = *model.snapshots.begin();
    for (uint64_t i = 0; i < model.content.size(); ++i)
      if (model.content[i] != snapshot.second[i]) model.in_flight[i] = snapshot.second[i];
    auto done = co_await volumes().rollback_volume(name, snapshot.first);
    if (!done) {
      model.in_flight.clear();
      if (done.error().kind() == ErrorKind::kBusy) co_return true;
      for (uint64_t i = 0; i < model.content.size(); ++i)
        if (model.content[i] != snapshot.second[i]) model.in_flight[i] = snapshot.second[i];
      expect_only_crash(done.error());
      co_return false;
    }
    model.in_flight.clear();
    model.content = snapshot.second;
    co_return true;
  }

  Task<void> image_maker() {
    const std::string from = pick_idle_volume();
    if (from.empty()) co_return;
    VolumeModel& model = models_.at(from);
    model.busy = true;
    const std::string name = new_name("i");
    maybe_images_[name] = model.content;
    auto made = co_await volumes().create_image(name, from);
    if (!made) co_return expect_only_crash(made.error());
    images_.insert(maybe_images_.extract(name));
    model.busy = false;
  }

  Task<void> importer() {
    const std::string name = new_name("i");
    Content content(random_.between(64, 700));
    auto session =
        co_await volumes().begin_import({.name = name, .size_bytes = content.size() * kBlockBytes});
    if (!session) co_return expect_only_crash(session.error());
    {
      auto opened = co_await volumes().open_disk(session->disk);
      if (!opened) co_return expect_only_crash(opened.error());
      for (uint64_t at = 0; at < content.size();) {
        const uint64_t count = std::min<uint64_t>(random_.between(1, 64), content.size() - at);
        if (random_.chance(0.8)) {
          std::vector<std::byte> data(count * kBlockBytes);
          const Origin known = random_.chance(0.4) ? pick_origin() : Origin{};
          for (uint64_t i = 0; i < count; ++i) {
            content[at + i] = ++last_version_;
            if (at + i < known.content.size()) content[at + i] = known.content[at + i];
            fill_block(content[at + i], Bytes(data).subspan(i * kBlockBytes, kBlockBytes));
          }
          auto done = co_await opened->writer->write(at * kBlockBytes, data, false);
          if (!done) co_return expect_only_crash(done.error());
        }
        at += count;
        if (random_.chance(0.5)) co_await nap();
        if (!co_await reads_as(*opened->disk, content_until(content, at), name)) co_return;
      }
    }
    if (random_.chance(0.2)) {
      auto done = co_await volumes().abort_import(session->id);
      if (!done) expect_only_crash(done.error());
      co_return;
    }
    maybe_images_[name] = content;
    auto done = co_await volumes().finish_import(session->id);
    if (!done) co_return expect_only_crash(done.error());
    images_.insert(maybe_images_.extract(name));
  }
  static Content content_until(const Content& content, uint64_t end) {
    return {content.begin(), content.begin() + static_cast<ptrdiff_t>(end)};
  }

  // Opens an image or a snapshot and goes on reading, whatever becomes of it meanwhile.
  Task<void> reader() {
    const Origin origin = pick_origin();
    if (origin.name.empty()) co_return;
    auto opened = co_await volumes().open_disk(origin.name);
    if (!opened) {
      if (opened.error().kind() != ErrorKind::kNotFound) expect_only_crash(opened.error());
      co_return;
    }
    for (int i = 0; i < 12; ++i) {
      if (!co_await reads_as(*opened->disk, origin.content, origin.name)) co_return;
      co_await nap();
    }
  }

  Task<void> remover() {
    if (!images_.empty() && random_.chance(0.5)) {
      const std::string name = images_.begin()->first;
      maybe_images_.insert(images_.extract(name));
      auto done = co_await volumes().remove_image(name);
      if (!done) co_return expect_only_crash(done.error());
      maybe_images_.erase(name);
      co_return;
    }
    const std::string name = pick_idle_volume();
    if (name.empty() || models_.size() < 2) co_return;
    VolumeModel& model = models_.at(name);
    model.busy = model.removing = true;
    auto done = co_await volumes().remove_volume(name, true);
    if (!done) co_return expect_only_crash(done.error());
    models_.erase(name);
  }

  // ---- after a crash ----

  void recover() {
    host_.reset();
    sim::LossPolicy policy = sim::LossPolicy::random(random_());
    if (random_.chance(0.3)) policy = sim::LossPolicy::lose_all();
    disk_.cut_power_after(~uint64_t{0});
    disk_.restart(policy);
    start();
    if (failed()) return;
    settle_images();
    settle_volumes();
    for (auto& [name, model] : models_)
      if (!failed()) settle_volume(name, model);
    verify_all();
  }
  void settle_images() {
    const auto list = host_->run(volumes().list_images());
    ASSERT_TRUE(list);
    std::map<std::string, Content> found;
    for (const ImageInfo& info : *list) {
      const auto& from = images_.contains(info.name) ? images_ : maybe_images_;
      ASSERT_TRUE(from.contains(info.name)) << info.name;
      found[info.name] = from.at(info.name);
      images_.erase(info.name);
    }
    ASSERT_TRUE(images_.empty()) << "seed " << seed_ << ": lost " << images_.begin()->first;
    images_ = std::move(found);
    maybe_images_.clear();
  }
  void settle_volumes() {
    const auto list = host_->run(volumes().list_volumes());
    ASSERT_TRUE(list);
    std::set<std::string> there;
    for (const VolumeInfo& info : *list) {
      if (stateless_.contains(info.name)) {
        ASSERT_TRUE(host_->run(volumes().remove_volume(info.name, true)));
        continue;
      }
      there.insert(info.name);
      if (models_.contains(info.name)) continue;
      ASSERT_TRUE(maybe_volumes_.contains(info.name)) << info.name;
      models_[info.name].content = maybe_volumes_.at(info.name);
    }
    stateless_.clear();
    maybe_volumes_.clear();
    std::erase_if(models_, [&](const auto& item) {
      if (there.contains(item.first)) return false;
      EXPECT_TRUE(item.second.removing) << "seed " << seed_ << ": lost " << item.first;
      return true;
    });
  }
  void settle_volume(const std::string& name, VolumeModel& model) {
    model.busy = model.removing = false;
    const auto list = host_->run(volumes().list_snapshots(name));
    ASSERT_TRUE(list);
    std::map<std::string, Content> found;
    for (const SnapshotInfo& info : *list) {
      const auto& from =
          model.snapshots.contains(info.name) ? model.snapshots : model.maybe_snapshots;
      ASSERT_TRUE(from.contains(info.name)) << name << "@" << info.name;
      found[info.name] = from.at(info.name);
      model.snapshots.erase(info.name);
    }
    ASSERT_TRUE(model.snapshots.empty()) << "seed " << seed_ << ": lost a snapshot of " << name;
    model.snapshots = std::move(found);
    model.maybe_snapshots.clear();
    std::vector<std::byte> expected(kBlockBytes);
    const std::vector<std::byte> got = read_all(name, model.content.size());
    for (const auto& [block, version] : model.in_flight) {
      fill_block(version, expected);
      if (std::memcmp(expected.data(), got.data() + block * kBlockBytes, kBlockBytes) == 0)
        model.content[block] = version;
    }
    model.in_flight.clear();
  }

  std::vector<std::byte> read_all(const std::string& name, uint64_t blocks) {
    std::vector<std::byte> got(blocks * kBlockBytes, std::byte{0xee});
    auto opened = host_->run(volumes().open_disk(name));
    EXPECT_TRUE(opened) << opened.error().message();
    if (!opened) return got;
    auto done = host_->run(opened->disk->read(0, got));
    EXPECT_TRUE(done) << "seed " << seed_ << ": " << name << ": " << done.error().message();
    return got;
  }
  void verify(const std::string& name, const Content& content) {
    const std::vector<std::byte> got = read_all(name, content.size());
    std::vector<std::byte> expected(kBlockBytes);
    for (uint64_t i = 0; i < content.size(); ++i) {
      fill_block(content[i], expected);
      ASSERT_EQ(0, std::memcmp(expected.data(), got.data() + i * kBlockBytes, kBlockBytes))
          << "seed " << seed_ << ": " << name << " block " << i;
    }
  }
  void verify_all() {
    for (const auto& [name, model] : models_) {
      if (!failed()) verify(name, model.content);
      for (const auto& [snapshot, content] : model.snapshots)
        if (!failed()) verify(name + "@" + snapshot, content);
    }
    for (const auto& [name, content] : images_)
      if (!failed()) verify(name, content);
  }

  void remove_everything() {
    verify_all();
    while (!images_.empty()) {
      ASSERT_TRUE(host_->run(volumes().remove_image(images_.begin()->first)));
      images_.erase(images_.begin());
    }
    while (!models_.empty()) {
      ASSERT_TRUE(host_->run(volumes().remove_volume(models_.begin()->first, true)));
      models_.erase(models_.begin());
    }
    for (int i = 0; i < 2; ++i) {
      auto done = host_->run(host_->collector().collect());
      ASSERT_TRUE(done) << done.error().message();
      EXPECT_EQ(done->unreadable_segments, 0u);
    }
    uint64_t held = 0;
    for (const SegmentInfo& info : *host_->run(host_->segments().list())) held += info.size_bytes;
    EXPECT_EQ(held, 0u) << "seed " << seed_;
    const auto stats = host_->run(host_->pool().stats());
    for (const StoreStats& store : stats->stores) EXPECT_EQ(store.stored_bytes, 0u);
  }

  uint64_t seed_;
  Random random_;
  sim::SimDisk disk_;
  SimHostOptions options_;
  std::unique_ptr<SimHost> host_;
  std::map<std::string, VolumeModel> models_;
  std::map<std::string, Content> images_;
  std::map<std::string, Content> maybe_volumes_;  // being made
  std::map<std::string, Content> maybe_images_;   // being made, or being removed
  std::set<std::string> stateless_;
  uint64_t running_ = 0;
  bool crashing_ = false;
  uint64_t last_version_ = 0;
  int last_name_ = 0;
};

TEST(GcModel, NothingLiveIsFreedAndNothingDeadStays) {
  const char* one = std::getenv("SQUALL_SEED");
  const char* many = std::getenv("SQUALL_SEEDS");
  const uint64_t first = one != nullptr ? std::strtoull(one, nullptr, 10) : 1;
  const uint64_t count = one != nullptr    ? 1
                         : many != nullptr ? std::strtoull(many, nullptr, 10)
                                           : 30;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    SCOPED_TRACE("replay with SQUALL_SEED=" + std::to_string(seed));
    Campaign(seed).run(25);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace squall
