// Drives volumes with random sequences of operations against plain byte arrays, on the simulated
// host: writes of any alignment, zero, trim, flush, snapshot, clone, rollback, resize, commit,
// clean restart, SIGKILL, power cut. After a kill every acknowledged write is there; after a power
// cut each volume is a prefix of its acknowledged writes that includes everything flushed.
//
//   SQUALL_SEEDS=N runs N seeds (default 60); SQUALL_SEED=K replays one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>

#include "base/random.h"
#include "testing/sim_host.h"

namespace squall {
namespace {

using Content = std::vector<std::byte>;
using testing::SimHost;
using testing::SimHostOptions;

// A volume as it should be: the content that is surely durable, and what was acknowledged since.
struct Model {
  struct Change {
    uint64_t offset = 0;
    uint64_t length = 0;
    Content data;  // empty: zeros
  };
  Content durable;
  std::vector<Change> since;
  Content now;
  bool stateless = false;
  bool promises_nothing = false;  // unsafe and stateless: a power cut may take anything
  bool writes_are_durable = false;
  std::map<std::string, Content> snapshots;

  void apply(Change change) {
    apply_to(now, change);
    since.push_back(std::move(change));
    if (writes_are_durable) settle();
  }
  void settle() {
    durable = now;
    since.clear();
  }
  void reset(Content content) {
    now = std::move(content);
    settle();
  }
  static void apply_to(Content& content, const Change& change) {
    if (change.data.empty()) {
      std::fill_n(content.begin() + static_cast<ptrdiff_t>(change.offset), change.length,
                  std::byte{0});
    } else {
      std::copy(change.data.begin(), change.data.end(),
                content.begin() + static_cast<ptrdiff_t>(change.offset));
    }
  }
};

class Campaign {
 public:
  explicit Campaign(uint64_t seed) : seed_(seed), random_(seed), disk_(seed) {}

  void run(int steps) {
    start();
    create_volume("");
    for (int i = 0; i < steps && !::testing::Test::HasFatalFailure(); ++i) step();
    if (::testing::Test::HasFatalFailure()) return;
    verify_all();
    close_all();
    host_.reset();
  }

 private:
  void start() {
    auto host = SimHost::start(random_(), disk_, options_);
    ASSERT_TRUE(host) << host.error().message();
    host_ = std::move(*host);
  }
  void close_all() { open_.clear(); }

  std::string pick() {
    auto it = models_.begin();
    std::advance(it, random_.below(models_.size()));
    return it->first;
  }
  WritableDisk& disk_of(const std::string& name) {
    OpenDisk& open = open_[name];
    if (open.disk == nullptr) {
      auto opened = host_->run(host_->volumes().open_disk(name));
      CHECK(opened.has_value());
      open = std::move(*opened);
    }
    return *open.writer;
  }

  void create_volume(const std::string& from) {
    CreateVolume request;
    request.name = "v" + std::to_string(++last_name_);
    request.from = from;
    Content content;
    if (from.empty()) {
      request.size_bytes = random_.between(1, 9) * 512 * 1024 + random_.below(8) * 512;
      content.resize(request.size_bytes);
    } else {
      const size_t at = from.find('@');
      content = models_.at(from.substr(0, at)).snapshots.at(from.substr(at + 1));
    }
    request.cache = static_cast<CacheMode>(random_.below(5));
    request.stateless = random_.chance(0.2);
    if (random_.chance(0.3)) request.durability = Durability::kPool;
    auto made = host_->run(host_->volumes().create_volumes(request));
    ASSERT_TRUE(made) << made.error().message();
    Model model;
    model.stateless = request.stateless;
    model.promises_nothing = request.stateless || request.cache == CacheMode::kUnsafe;
    model.writes_are_durable =
        !model.promises_nothing &&
        (request.cache == CacheMode::kWritethrough || request.cache == CacheMode::kDirectsync);
    model.reset(std::move(content));
    models_.emplace(request.name, std::move(model));
  }

  void step() {
    const std::string name = pick();
    Model& model = models_.at(name);
    const uint64_t dice = random_.below(100);
    if (trace_) std::cerr << "step " << dice << " on " << name << "\n";
    if (dice < 45) return write(name, model);
    if (dice < 55) return zero(name, model, random_.chance(0.5));
    if (dice < 65) return flush(name, model);
    if (dice < 75) return check_range(name, model);
    if (dice < 80) return snapshot(name, model);
    if (dice < 83) return clone(name, model);
    if (dice < 86) return rollback(name, model);
    if (dice < 90) return resize(name, model);
    if (dice < 92) return commit(name, model);
    if (dice < 94) return idle();
    if (dice < 96) return restart();
    if (dice < 98) return kill();
    return cut_power();
  }

  std::pair<uint64_t, uint64_t> range(const Model& model) {
    uint64_t length =
        random_.chance(0.2) ? random_.between(1, 300'000) : random_.between(1, 20'000);
    uint64_t offset = random_.below(model.now.size());
    if (random_.chance(0.5)) offset = round_down(offset, 512);
    if (random_.chance(0.3)) offset = round_down(offset, 4096);
    if (random_.chance(0.5)) length = round_up(length, random_.chance(0.5) ? 512 : 4096);
    length = std::min<uint64_t>(length, model.now.size() - offset);
    return {offset, length};
  }

  void write(const std::string& name, Model& model) {
    const auto [offset, length] = range(model);
    Model::Change change{offset, length, Content(length)};
    // Compressible, and never all zero by accident.
    const auto fill = static_cast<std::byte>(1 + random_.below(255));
    for (size_t i = 0; i < length; ++i)
      change.data[i] = i % 7 == 0 ? static_cast<std::byte>(random_()) : fill;
    // What some volume holds already, often at a distance of whole blocks, to be deduplicated.
    const Content& other = models_.at(pick()).now;
    if (random_.chance(0.4) && other.size() > length) {
      const uint64_t from = round_down(random_.below(other.size() - length), 4096) + offset % 4096;
      if (from + length <= other.size())
        std::copy_n(other.begin() + static_cast<ptrdiff_t>(from), length, change.data.begin());
    }
    const bool fua = random_.chance(0.1);
    if (trace_) std::cerr << "write " << offset << " +" << length << (fua ? " fua\n" : "\n");
    auto done = host_->run(disk_of(name).write(offset, change.data, fua));
    ASSERT_TRUE(done) << done.error().message();
    // A long write is several records of the log; a power cut may fall between them.
    const uint64_t record = options_.journal.file_bytes / 4;
    for (uint64_t at = 0; at < length; at += record) {
      const uint64_t size = std::min(record, length - at);
      const auto from = change.data.begin() + static_cast<ptrdiff_t>(at);
      model.apply({offset + at, size, Content(from, from + static_cast<ptrdiff_t>(size))});
    }
    if (fua && !model.promises_nothing) model.settle();
  }

  void zero(const std::string& name, Model& model, bool trim) {
    auto [offset, length] = range(model);
    WritableDisk& disk = disk_of(name);
    auto done =
        host_->run(trim ? disk.trim(offset, length, false) : disk.zero(offset, length, false));
    ASSERT_TRUE(done) << done.error().message();
    if (trim) {
      // Edges within a block may keep their content.
      const uint64_t begin = round_up(offset, 4096);
      const uint64_t end =
          offset + length == model.now.size() ? offset + length : round_down(offset + length, 4096);
      offset = std::min(begin, end);
      length = end > begin ? end - begin : 0;
    }
    if (length > 0) model.apply({offset, length, {}});
  }

  void flush(const std::string& name, Model& model) {
    auto done = host_->run(disk_of(name).flush());
    ASSERT_TRUE(done) << done.error().message();
    if (!model.promises_nothing) model.settle();
  }

  void check_range(const std::string& name, Model& model) {
    const auto [offset, length] = range(model);
    Content got(length, std::byte{0xee});
    auto done = host_->run(disk_of(name).read(offset, got));
    ASSERT_TRUE(done) << done.error().message();
    ASSERT_EQ(0, std::memcmp(got.data(), model.now.data() + offset, length))
        << "seed " << seed_ << " volume " << name << " offset " << offset << " length " << length;
  }

  void snapshot(const std::string& name, Model& model) {
    if (model.stateless || model.snapshots.size() > 4) return;
    const std::string snapshot = "s" + std::to_string(++last_name_);
    auto done = host_->run(host_->volumes().create_snapshot(name, snapshot));
    ASSERT_TRUE(done) << done.error().message();
    model.snapshots.emplace(snapshot, model.now);
    model.settle();  // all of it is in the pool now
    if (random_.chance(0.3)) {
      const std::string victim = model.snapshots.begin()->first;
      ASSERT_TRUE(host_->run(host_->volumes().remove_snapshot(name, victim)));
      model.snapshots.erase(victim);
    }
  }

  void clone(const std::string& name, Model& model) {
    if (models_.size() >= 5) {
      if (models_.size() < 2) return;
      open_.erase(name);
      ASSERT_TRUE(host_->run(host_->volumes().remove_volume(name, false)));
      models_.erase(name);
      // The same name again must not see the old one's writes.
      if (random_.chance(0.5)) create_volume("");
      return;
    }
    if (model.snapshots.empty()) return create_volume("");
    create_volume(name + "@" + model.snapshots.rbegin()->first);
  }

  void rollback(const std::string& name, Model& model) {
    if (model.snapshots.empty()) return;
    const auto& [snapshot, content] = *model.snapshots.begin();
    open_.erase(name);
    auto done = host_->run(host_->volumes().rollback_volume(name, snapshot));
    ASSERT_TRUE(done) << done.error().message();
    model.reset(content);
  }

  void resize(const std::string& name, Model& model) {
    const uint64_t size = random_.between(1, 5'000'000) / 512 * 512 + 512;
    open_.erase(name);
    auto done = host_->run(host_->volumes().resize_volume(name, size));
    ASSERT_TRUE(done) << done.error().message();
    Content content = model.now;
    content.resize(size);
    model.reset(std::move(content));
  }

  void commit(const std::string& name, Model& model) {
    if (model.stateless) return;
    auto done = host_->run(host_->volumes().commit_volume(name));
    ASSERT_TRUE(done) << done.error().message();
    model.settle();
  }

  void idle() {
    if (random_.chance(0.5)) close_all();
    host_->run([](Reactor& reactor) -> Task<void> {
      co_await sleep_ns(reactor, 60'000'000'000);
    }(host_->reactor()));
  }

  void restart() {
    close_all();
    host_.reset();
    disk_.kill_process();
    disk_.restart();
    start();
    verify_all();
  }

  void kill() {
    disk_.kill_process();
    close_all();
    host_.reset();
    disk_.restart();
    start();
    verify_all();
  }

  void cut_power() {
    disk_.cut_power();
    close_all();
    host_.reset();
    sim::LossPolicy policy = sim::LossPolicy::random(random_());
    if (random_.chance(0.3)) policy = sim::LossPolicy::lose_all();
    if (random_.chance(0.5)) policy = policy.torn(sim::Tear::kSubset, random_());
    disk_.restart(policy);
    options_.boot_id = "boot-" + std::to_string(++last_name_);
    start();
    if (::testing::Test::HasFatalFailure()) return;
    for (auto& [name, model] : models_) {
      const Content got = content_of(name, model);
      if (model.promises_nothing) {
        model.reset(got);
        continue;
      }
      Content expected = model.durable;
      bool found = got == expected;
      for (size_t i = 0; i < model.since.size() && !found; ++i) {
        Model::apply_to(expected, model.since[i]);
        found = got == expected;
      }
      if (!found) explain(name, model, got);
      ASSERT_TRUE(found) << "seed " << seed_ << ": volume " << name
                         << " is no prefix of its acknowledged writes after a power cut";
      model.reset(got);
    }
    verify_all();
  }

  // Says which part of the content belongs to which moment, to make a failing seed readable.
  void explain(const std::string& name, const Model& model, const Content& got) {
    auto info = host_->run(host_->volumes().show_volume(name));
    std::cerr << name << ": cache " << to_string(info->cache) << ", durability "
              << to_string(info->durability) << ", " << model.since.size() << " changes since\n";
    Content expected = model.durable;
    for (size_t i = 0; i <= model.since.size(); ++i) {
      const auto at = std::ranges::mismatch(got, expected).in1 - got.begin();
      std::cerr << "  after " << i << " changes: differs at " << at;
      if (i < model.since.size()) {
        const auto& change = model.since[i];
        std::cerr << "; next: " << (change.data.empty() ? "zero " : "write ") << change.offset
                  << " +" << change.length;
        Model::apply_to(expected, change);
      }
      std::cerr << "\n";
    }
  }

  Content content_of(const std::string& name, const Model& model) {
    Content got(model.now.size(), std::byte{0xee});
    auto opened = host_->run(host_->volumes().open_disk(name));
    EXPECT_TRUE(opened) << opened.error().message();
    EXPECT_EQ(opened->disk->size_bytes(), model.now.size());
    auto done = host_->run(opened->disk->read(0, got));
    EXPECT_TRUE(done) << done.error().message();
    return got;
  }

  void verify_all() {
    const auto report = host_->check();
    ASSERT_TRUE(report) << report.error().message();
    for (const Fault& fault : report->faults) ADD_FAILURE() << fault.to_line();
    if (::testing::Test::HasFatalFailure()) return;
    for (const auto& [name, model] : models_) {
      const Content got = content_of(name, model);
      if (got != model.now) {
        const auto at = std::ranges::mismatch(got, model.now).in1 - got.begin();
        FAIL() << "seed " << seed_ << ": volume " << name << " differs at " << at;
      }
      for (const auto& [snapshot, content] : model.snapshots) {
        Content old(content.size());
        auto opened = host_->run(host_->volumes().open_disk(name + "@" + snapshot));
        ASSERT_TRUE(opened) << opened.error().message();
        ASSERT_TRUE(host_->run(opened->disk->read(0, old)));
        ASSERT_EQ(old, content) << "seed " << seed_ << ": " << name << "@" << snapshot;
      }
    }
  }

  uint64_t seed_;
  Random random_;
  sim::SimDisk disk_;
  SimHostOptions options_;
  std::unique_ptr<SimHost> host_;
  std::map<std::string, Model> models_;
  std::map<std::string, OpenDisk> open_;
  int last_name_ = 0;
  bool trace_ = std::getenv("SQUALL_TRACE") != nullptr;
};

TEST(VolumeModel, RandomSequencesMatchAByteArray) {
  const char* one = std::getenv("SQUALL_SEED");
  const char* many = std::getenv("SQUALL_SEEDS");
  const uint64_t first = one != nullptr ? std::strtoull(one, nullptr, 10) : 1;
  const uint64_t count = one != nullptr    ? 1
                         : many != nullptr ? std::strtoull(many, nullptr, 10)
                                           : 60;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    SCOPED_TRACE("replay with SQUALL_SEED=" + std::to_string(seed));
    Campaign(seed).run(120);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

}  // namespace
}  // namespace squall
