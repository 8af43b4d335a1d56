// A journal on a simulated host, what its volumes hold of it, and a model of what was promised.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "base/random.h"
#include "io/run_task.h"
#include "journal/journal.h"
#include "sim/sim_reactor.h"

namespace squall::testing {

constexpr uint64_t kVolume = 3;

// A record's payload follows from its key, which is its offset.
inline std::vector<std::byte> payload_of(uint64_t key, size_t bytes) {
  Random random(key);
  std::vector<std::byte> payload(bytes);
  for (auto& byte : payload) byte = static_cast<std::byte>(random());
  return payload;
}

// What was asked of the journal, over all restarts: in order of the calls, which is the log's.
struct JournalModel {
  struct Issued {
    bool acknowledged = false;
    bool flushed = false;
    bool released = false;  // nobody needs it any more: it may be gone
    bool lost = false;      // reported as lost
  };
  std::map<uint64_t, Issued> issued;  // by key; keys grow
  uint64_t next_key = 1;
};

inline JournalConfig small_journal() {
  JournalConfig config;
  config.directory = "/journal";
  config.file_bytes = 64 * kKiB;
  config.max_files = 64;
  config.id_if_new.bytes[0] = std::byte{7};
  return config;
}

// One process: its reactor, its journal, and a volume that keeps every record until released.
class JournalHost final : public JournalSink {
 public:
  JournalHost(uint64_t seed, sim::SimDisk& disk, JournalModel& model)
      : reactor_(seed, disk), model_(model) {}
  ~JournalHost() override {
    if (journal_ == nullptr) return;
    run_task(reactor_, journal_->stop());
    journal_.reset();
  }

  // With `needs_nothing` as if everything replayed were in the pool already.
  Result<void> open(JournalConfig config = small_journal(), bool needs_nothing = false) {
    auto opened =
        run_task(reactor_, Journal::open(reactor_, reactor_.files(), std::move(config),
                                         [&](const JournalRecord& record, JournalPlace place) {
                                           if (needs_nothing) return;
                                           ++place.file->live;
                                           held_[record.sequence] = {record, place};
                                         }));
    if (!opened) return std::unexpected(opened.error());
    journal_ = std::move(*opened);
    journal_->attach(kVolume, this);
    return {};
  }

  // Appends a record of the next key; the model learns when it is acknowledged.
  Task<Result<void>> append(size_t bytes, JournalPath path) {
    CO_TRY(co_await journal_->admit(bytes));
    co_return co_await append_admitted(bytes, path);
  }
  Task<Result<void>> append_reserved(size_t bytes) {
    journal_->admit_reserved(bytes);
    return append_admitted(bytes, JournalPath::kCached);
  }
  Task<Result<void>> append_admitted(size_t bytes, JournalPath path) {
    const uint64_t key = model_.next_key++;
    model_.issued[key];
    const auto payload = payload_of(key, bytes);
    const auto type =
        bytes == 0 ? journal_format::RecordType::kZero : journal_format::RecordType::kWrite;
    auto done = co_await journal_->append(type, kVolume, 1, key, bytes, payload, path);
    if (!done) co_return std::unexpected(done.error());
    model_.issued[key].acknowledged = true;
    co_return Result<void>{};
  }
  Task<Result<void>> flush() {
    std::set<uint64_t> acknowledged;
    for (const auto& [key, issued] : model_.issued)
      if (issued.acknowledged) acknowledged.insert(key);
    CO_TRY(co_await journal_->flush());
    for (const uint64_t key : acknowledged) model_.issued[key].flushed = true;
    co_return Result<void>{};
  }
  template <class T>
  T run(Task<T> task) {
    return run_task(reactor_, std::move(task));
  }
  Result<void> append_now(size_t bytes, JournalPath path = JournalPath::kCached) {
    return run(append(bytes, path));
  }
  Result<void> flush_now() { return run(flush()); }
  void settle(uint64_t ns = 1'000'000'000) {
    run([](Reactor& reactor, uint64_t ns) -> Task<void> { co_await sleep_ns(reactor, ns); }(
                                              reactor_, ns));
  }

  // Drops the references to the records of keys below `key`, as a commit does.
  void release_below(uint64_t key) {
    for (auto it = held_.begin(); it != held_.end();) {
      if (it->second.record.offset < key) {
        model_.issued[it->second.record.offset].released = true;
        --it->second.place.file->live;
        it = held_.erase(it);
      } else {
        ++it;
      }
    }
    journal_->reclaim();
  }

  // Every record held reads back right.
  void check_contents() {
    std::map<uint64_t, std::pair<JournalRecord, JournalPlace>> held;
    for (const auto& [sequence, h] : held_) held[sequence] = {h.record, h.place};
    for (const auto& [sequence, h] : held) {
      const auto& [record, place] = h;
      if (record.payload_bytes == 0) continue;
      std::vector<std::byte> got(record.payload_bytes);
      auto done = run(journal_->read(place, got));
      ASSERT_TRUE(done) << done.error().message();
      ASSERT_TRUE(got == payload_of(record.offset, got.size())) << "key " << record.offset;
    }
  }

  std::vector<uint64_t> keys() const {  // in the log's order
    std::vector<uint64_t> keys;
    for (const auto& [sequence, h] : held_) keys.push_back(h.record.offset);
    return keys;
  }

  Journal& journal() { return *journal_; }
  sim::SimReactor& reactor() { return reactor_; }
  uint64_t lost_count() const { return lost_; }
  uint64_t relocated_count() const { return relocated_; }
  uint64_t recorded_losses() const { return recorded_losses_; }
  void fail_to_record_losses() { record_loss_outcome_ = fail(ErrorKind::kIo, "catalog is away"); }
  JournalFile* file_of(uint64_t key) const {
    for (const auto& [sequence, h] : held_)
      if (h.record.offset == key) return h.place.file;
    return nullptr;
  }

  JournalPlace place_of(uint64_t key) const {
    for (const auto& [sequence, h] : held_)
      if (h.record.offset == key) return h.place;
    return {};
  }

  // JournalSink.
  void landed(const JournalRecord& record, JournalPlace place) override {
    EXPECT_GT(record.sequence, last_landed_);
    last_landed_ = record.sequence;
    ++place.file->live;
    held_[record.sequence] = {record, place};
  }
  void relocated(const JournalRecord& record, JournalPlace place) override {
    ++relocated_;
    const auto it = held_.find(record.sequence);
    if (it == held_.end()) return;
    --it->second.place.file->live;
    ++place.file->live;
    it->second.place = place;
  }
  bool lost(const JournalRecord& record) override {
    ++lost_;
    model_.issued[record.offset].lost = true;
    if (const auto it = held_.find(record.sequence); it != held_.end()) {
      --it->second.place.file->live;
      held_.erase(it);
    }
    return true;
  }
  Task<Result<void>> record_loss() override {
    ++recorded_losses_;
    co_return record_loss_outcome_;
  }

 private:
  struct Held {
    JournalRecord record;
    JournalPlace place;
  };
  sim::SimReactor reactor_;
  JournalModel& model_;
  std::unique_ptr<Journal> journal_;
  std::map<uint64_t, Held> held_;  // by sequence
  uint64_t last_landed_ = 0;
  uint64_t lost_ = 0;
  uint64_t relocated_ = 0;
  uint64_t recorded_losses_ = 0;
  Result<void> record_loss_outcome_;
};

enum class Crash { kKill, kPowerCut };

// Opens the journal anew and checks that it holds what it must after such a crash, in order,
// without gaps, right byte for byte. The model then stands for what is there.
inline void check_restart(sim::SimDisk& disk, JournalModel& model, Crash crash,
                          JournalConfig config = small_journal()) {
  JournalHost host(99, disk, model);
  auto opened = host.open(std::move(config));
  ASSERT_TRUE(opened) << opened.error().message();
  host.check_contents();
  const std::vector<uint64_t> keys = host.keys();
  ASSERT_TRUE(std::ranges::is_sorted(keys));
  const std::set<uint64_t> there(keys.begin(), keys.end());
  ASSERT_EQ(there.size(), keys.size());
  const uint64_t last = keys.empty() ? 0 : keys.back();
  for (const uint64_t key : keys) ASSERT_TRUE(model.issued.contains(key)) << key;
  for (const auto& [key, issued] : model.issued) {
    if (there.contains(key) || issued.released || issued.lost) continue;
    ASSERT_FALSE(issued.flushed) << "flushed record " << key << " is gone";
    ASSERT_FALSE(issued.acknowledged && key < last)
        << "record " << key << " is missing before " << last;
    ASSERT_FALSE(issued.acknowledged && crash == Crash::kKill)
        << "acknowledged record " << key << " is gone";
  }
  std::erase_if(model.issued, [&](const auto& item) { return !there.contains(item.first); });
  for (auto& [key, issued] : model.issued) issued.acknowledged = true;
}

}  // namespace squall::testing
