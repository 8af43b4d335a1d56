// What a host does by itself: commits what has been dirty for long, closes what nobody has open,
// and makes room in the journal.
#include "base/log.h"
#include "volume/host_volumes.h"

namespace squall {

namespace {
constexpr uint64_t kBackgroundIntervalNs = 1'000'000'000;
}  // namespace

Task<void> HostVolumes::background() {
  auto pass = gate_.enter();
  background_timer_.context = this;
  background_timer_.on_expire = [](Timer& timer) {
    auto& self = *static_cast<HostVolumes*>(timer.context);
    std::exchange(self.background_waiter_, {}).resume();
  };
  struct Sleep {
    HostVolumes& host;
    bool await_ready() const noexcept { return host.gate_.is_closed(); }
    void await_suspend(std::coroutine_handle<> h) {
      host.background_waiter_ = h;
      host.reactor_.arm(host.background_timer_, host.reactor_.now_ns() + kBackgroundIntervalNs);
    }
    void await_resume() const noexcept {}
  };
  while (!gate_.is_closed()) {
    co_await Sleep{*this};
    if (!gate_.is_closed()) background_round();
  }
}

// Starts what is due and waits for none of it: a volume that cannot commit holds up no other.
void HostVolumes::background_round() {
  // Closed together, so that their catalog transactions share syncs, and not all at once.
  constexpr uint64_t kClosingsMax = 64;
  const uint64_t now = reactor_.now_ns();
  journal_->recheck_admissions();
  std::vector<std::pair<std::string, EntryRef>> idle;
  for (const auto& [name, entry] : volumes_) {
    if (entry->disk == nullptr && entry->stateless == nullptr) continue;
    if (entry->disk != nullptr && entry->disk->is_dirty() &&
        now - entry->disk->dirty_since_ns() > config_.commit_age_ms * 1'000'000)
      entry->disk->request_commit();
    if (entry->disk != nullptr) entry->disk->recheck_waiters();
    if (entry->disk != nullptr && entry->disk->is_unrecovered()) spawn(recover_again(entry->disk));
    if (entry->clients == 0 && !entry->closing && closings_ + idle.size() < kClosingsMax &&
        now - entry->idle_since_ns > config_.idle_close_ms * 1'000'000)
      idle.emplace_back(name, entry);
  }
  for (const auto& [name, entry] : idle) spawn(close_idle(name, entry));
}

Task<void> HostVolumes::close_idle(std::string name, EntryRef entry) {
  auto pass = gate_.enter();
  if (!pass) co_return;
  struct Closing {
    uint64_t& count;
    Entry& entry;
    Closing(uint64_t& closings, Entry& closed) : count(closings), entry(closed) {
      ++count;
      entry.closing = true;
    }
    Closing(const Closing&) = delete;
    ~Closing() {
      --count;
      entry.closing = false;
    }
  } closing(closings_, *entry);
  co_await entry->verbs->acquire();
  SemaphoreGuard guard(*entry->verbs);
  if (entry->stateless != nullptr && entry->clients == 0) {
    auto disk = std::exchange(entry->stateless, nullptr);
    co_await disk->close();
    entry->counters.bytes_read += disk->bytes_read;
    entry->counters.bytes_written += disk->bytes_written;
    co_return;
  }
  if (entry->disk == nullptr || entry->clients > 0 || entry->removed) co_return;
  if (auto released = co_await entry->disk->release(); !released) {
    LOG_WARN("volume {}: stays open: {}", name, released.error().message());
    entry->idle_since_ns = reactor_.now_ns();
    co_return;
  }
  if (entry->clients > 0 || entry->disk->is_dirty() || entry->disk->holds_lease()) co_return;
  refresh(*entry);
  auto disk = std::exchange(entry->disk, nullptr);
  co_await disk->close();
}

void HostVolumes::relieve_pressure() {
  if (relieving_ || gate_.is_closed()) return;
  relieving_ = true;
  spawn(relieve_pressure_task());
}

// Commits what is dirty until nobody waits for the journal's space; a volume that cannot commit has
// its records moved out of the others' way.
Task<void> HostVolumes::relieve_pressure_task() {
  auto pass = gate_.enter();
  while (pass && !gate_.is_closed()) {
    co_await commit_all_dirty();
    journal_->reclaim();
    if (!journal_->is_short_of_space() || gate_.is_closed()) break;
    // Space comes with a sync, or when a disk has room again: not in a tight loop.
    constexpr uint64_t kPauseNs = 50'000'000;
    co_await sleep_ns(reactor_, kPauseNs);
  }
  relieving_ = false;
}

Task<void> HostVolumes::commit_all_dirty() {
  constexpr size_t kTogether = 16;  // they share syncs of pool and catalog
  std::vector<std::shared_ptr<Volume>> dirty;
  for (const auto& [name, entry] : volumes_)
    if (entry->disk != nullptr && entry->disk->is_dirty()) dirty.push_back(entry->disk);
  for (size_t first = 0; first < dirty.size() && !gate_.is_closed(); first += kTogether) {
    std::vector<Task<Result<void>>> commits;
    for (size_t i = first; i < std::min(first + kTogether, dirty.size()); ++i)
      commits.push_back(commit_or_move(dirty[i]));
    if (auto done = co_await join_all(reactor_, std::move(commits)); !done)
      LOG_WARN("{}", done.error().message());
  }
}

// A commit that fails for the first time is told here; why it goes on failing is told by `status`.
Task<Result<void>> HostVolumes::commit_or_move(std::shared_ptr<Volume> disk) {
  const JournalFile* oldest = journal_->oldest_file();
  const bool failing = disk->commit_failing();
  auto done = co_await disk->commit();
  if (done) co_return done;
  if (!failing) LOG_WARN("journal is short of space and {}", done.error().message());
  if (journal_->oldest_file() != oldest) co_return Result<void>{};
  co_return co_await disk->reappend_stragglers();
}

}  // namespace squall
