// The life of journal files: created and zero-filled ahead of need, filled, sealed with an index
// footer once everything in them is durable, recycled when nothing refers to them any more. Only
// the oldest file is ever recycled, so the numbers of the files in use stay consecutive, which is
// how start-up tells the log from leftovers.
#include <algorithm>

#include "base/hash.h"
#include "base/log.h"
#include "journal/journal.h"

namespace squall {

using journal_format::kBlock;

namespace {
constexpr uint64_t kFillBytes = 1 * kMiB;
// What one record takes at most: header, footer entry, rounding and the pads of a direct write.
uint64_t admission_cost(uint64_t payload_bytes) {
  return round_up(payload_bytes, kBlock) + 2 * kBlock;
}
// Kept back from admissions, for copies after a failed sync and for stragglers of stuck volumes.
constexpr uint64_t kReservedFiles = 1;
}  // namespace

Task<Result<std::unique_ptr<JournalFile>>> Journal::create_file() {
  const std::string path = fmt::format("{}/slot-{:06}.wal", config_.directory, next_slot_++);
  auto file = std::make_unique<JournalFile>();
  file->path = path;
  CO_TRY_ASSIGN(file->cached_handle, fs_.open(path, {.write = true, .create = true}));
  auto undo = [&](const Error& error) {
    close_file(*file, true);
    return std::unexpected(error.wrap(fmt::format("journal: cannot create {}", path)));
  };
  auto direct = fs_.open(path, {.write = true, .direct = true});
  if (!direct) co_return undo(direct.error());
  file->direct_handle = *direct;
  if (auto locked = fs_.lock(file->direct_handle, 0); !locked) co_return undo(locked.error());
  if (auto done = fs_.allocate(file->cached_handle, config_.file_bytes); !done)
    co_return undo(done.error());
  const AlignedBuffer zeros(std::min(kFillBytes, config_.file_bytes));
  for (uint64_t at = 0; at < config_.file_bytes; at += zeros.size()) {
    const uint64_t size = std::min<uint64_t>(zeros.size(), config_.file_bytes - at);
    const int written =
        co_await io_write(reactor_, file->direct_handle, zeros.bytes().first(size), at);
    if (written < 0) co_return undo(Error::from_errno(-written, "zero-filling"));
  }
  if (const int synced = co_await io_sync(reactor_, file->cached_handle); synced < 0)
    co_return undo(Error::from_errno(-synced, "sync"));
  if (auto synced = fs_.sync_directory(config_.directory); !synced) co_return undo(synced.error());
  co_return std::move(file);
}

// Before a recycled file gets another header: should a power cut tear that one, the file must not
// look like one that held a log (see journal_scan.h). A file without a start must have none with
// one below it, or the log would seem to end there: what was removed must not come back.
Task<Result<void>> Journal::wipe_start(JournalFile& file) {
  const AlignedBuffer zeros(kBlock);
  if (auto removed = fs_.sync_directory(config_.directory); !removed) {
    close_file(file, true);
    co_return std::unexpected(removed.error().wrap("journal: directory not synced"));
  }
  int result = co_await io_write(reactor_, file.cached_handle, zeros.bytes(), kBlock);
  if (result >= 0) result = co_await io_sync(reactor_, file.cached_handle);
  if (result >= 0) co_return Result<void>{};
  close_file(file, true);
  co_return fail_errno(-result, "journal: {} not wiped", file.path);
}

// A file with a number and a durable header: a spare if there is one, else a new one.
Task<Result<std::unique_ptr<JournalFile>>> Journal::prepare_file() {
  std::unique_ptr<JournalFile> file;
  if (spares_.empty()) {
    CO_TRY_ASSIGN(file, co_await create_file());
  } else {
    // The lowest number first, so that no older file lies below one that is wiped.
    const auto lowest = std::ranges::min_element(spares_, {}, [](const auto& spare) {
      return std::pair(has_start(*spare), spare->header.file_number);
    });
    file = std::move(*lowest);
    spares_.erase(lowest);
    CO_TRY(co_await wipe_start(*file));
  }
  file->header = {.journal_id = id_,
                  .generation = generation_,
                  .file_number = next_file_number_++,
                  .file_bytes = config_.file_bytes};
  file->seed = journal_format::file_seed(file->header);
  std::vector<std::byte> block(kBlock);
  journal_format::encode_file_header(file->header, block);
  int result = co_await io_write(reactor_, file->cached_handle, block, 0);
  if (result >= 0) result = co_await io_sync(reactor_, file->cached_handle);
  if (result < 0) {
    close_file(*file, true);
    --next_file_number_;
    co_return fail_errno(-result, "journal: header of {} not written", file->path);
  }
  co_return std::move(file);
}

// Where the log before the file ends; durable with the file's records.
Result<void> Journal::write_start(JournalFile& file, uint64_t previous_last_sequence) {
  file.start = {previous_last_sequence + 1, previous_last_sequence};
  file.unsynced = true;
  std::vector<std::byte> block(kBlock);
  journal_format::encode_file_start(file.start, file.seed, block);
  if (auto written = fs_.write(file.cached_handle, ConstBytes(block), kBlock); !written)
    return std::unexpected(written.error().wrap("journal: start of " + file.path));
  return {};
}

// Makes a prepared file the current one.
Result<void> Journal::begin_file(std::unique_ptr<JournalFile> file,
                                 uint64_t previous_last_sequence) {
  file->tail = journal_format::kFirstRecord;
  file->last_sequence = previous_last_sequence;
  file->superseded_by = 0;
  file->entries.clear();
  file->payloads.clear();
  file->sealed = file->poisoned = false;
  auto started = write_start(*file, previous_last_sequence);
  if (!started) file->sealed = file->poisoned = true;
  files_.push_back(std::move(file));
  return started;
}

Task<Result<void>> Journal::roll(uint64_t previous_last_sequence) {
  JournalFile* full = files_.back().get();
  full->sealed = true;
  next_error_.reset();
  while (next_ == nullptr) {
    prepare_next();
    if (gate_.is_closed()) co_return fail(ErrorKind::kCancelled, "journal: stopping");
    if (rescue_waits_) co_return fail(ErrorKind::kBusy, "journal: a failed sync comes first");
    // The attempt may have failed before it ever suspended.
    if (next_ == nullptr && !next_error_) co_await next_ready_.wait();
    if (next_error_) co_return std::unexpected(*next_error_);
  }
  CO_TRY(begin_file(std::move(next_), previous_last_sequence));
  const bool ours = full->header.generation == generation_;
  if (ours && !full->poisoned && !full->entries.empty()) spawn(finish_file(full));
  prepare_next();
  reclaim();
  co_return Result<void>{};
}

// Prepares the next file in the background, so that a roll finds it ready.
void Journal::prepare_next() {
  if (preparing_next_ || next_ != nullptr || gate_.is_closed()) return;
  // One beyond the limit is allowed when nothing else can give the tail a place, and whatever the
  // copies after a failed sync need: until they are made no file can be recycled.
  if (!rescuing_ && spares_.empty() && files_.size() >= config_.max_files + kReservedFiles) {
    call_for_commits();
    return;
  }
  preparing_next_ = true;
  spawn(prepare_next_task());
}

void Journal::call_for_commits() {
  if (!on_pressure_ || pressure_posted_) return;
  auto pass = gate_.enter();
  if (!pass) return;  // stopping: nothing may be posted that outlives the journal
  pressure_posted_ = true;
  reactor_.post([this, pass = std::move(pass)] {
    pressure_posted_ = false;
    on_pressure_();
  });
}

void Journal::set_pressure_handler(std::function<void()> handler) {
  on_pressure_ = std::move(handler);
  if (next_error_) call_for_commits();
}

// A start needs one new file before anything can be recycled, so the space of one is set apart
// while there is some: a daemon must come up again on a disk that has filled up.
Result<void> Journal::keep_reserve() {
  if (reserve_kept_) return {};
  TRY_ASSIGN(const int handle, fs_.open(reserve_path(), {.write = true, .create = true}));
  auto allocated = fs_.allocate(handle, config_.file_bytes);
  fs_.close(handle);
  if (!allocated) {
    if (auto removed = fs_.remove(reserve_path()); !removed)
      LOG_WARN("journal: {}", removed.error().message());
    return std::unexpected(allocated.error().wrap("journal: no space for its reserve"));
  }
  reserve_kept_ = true;
  return {};
}

Task<void> Journal::prepare_next_task() {
  auto pass = gate_.enter();
  Result<std::unique_ptr<JournalFile>> file;
  if (auto kept = spares_.empty() ? keep_reserve() : Result<void>{}; kept) {
    file = co_await prepare_file();
  } else {
    file = std::unexpected(kept.error());
  }
  preparing_next_ = false;
  if (file) {
    next_ = std::move(*file);
    next_failing_ = false;
  } else {
    // Once, not with every write that is refused.
    if (!std::exchange(next_failing_, true)) LOG_WARN("{}", file.error().message());
    next_error_ = file.error();
    call_for_commits();  // what they free is recycled
  }
  next_ready_.wake_all();
}

// Writes the footer once the file's records are durable; a footer that is missing costs start-up a
// scan, so its own errors do not matter.
Task<void> Journal::finish_file(JournalFile* file) {
  auto pass = gate_.enter();
  if (!pass) co_return;
  ++file->pins;
  const uint64_t last = file->last_sequence;
  auto durable = co_await flush();
  if (durable && durable_ >= last && !file->poisoned && !file->entries.empty()) {
    const auto footer = journal_format::encode_footer(file->entries, last, file->seed);
    const int written = co_await io_write(reactor_, file->cached_handle, footer,
                                          config_.file_bytes - footer.size());
    if (written < 0) LOG_WARN("journal: footer of {} not written: errno {}", file->path, -written);
    if (!file->poisoned) file->entries = {};
  }
  --file->pins;
  reclaim();
}

// A file is recycled only once it is durable, although nothing in it is needed any more: after a
// power cut it may still be found under its old number, and the log must not seem to end in it.
// What replaced its content must be durable, too, or a power cut would take both.
void Journal::reclaim() {
  if (gate_.is_closed()) return;  // references vanish with their owners now, not with their data
  // All at once, so that one sync serves all.
  for (size_t i = 0; i + 1 < files_.size(); ++i) {
    JournalFile& file = *files_[i];
    if (file.live == 0 && file.pins == 0 && file.superseded_by == 0) file.superseded_by = landed_;
  }
  bool freed = false;
  while (files_.size() > 1 && files_.front()->live == 0 && files_.front()->pins == 0) {
    const JournalFile& oldest = *files_.front();
    if (oldest.unsynced || durable_ < oldest.superseded_by) {
      if (!sync_running_ && !failed_) spawn(sync_for_reclaim());
      break;
    }
    auto file = std::move(files_.front());
    files_.pop_front();
    file->payloads.clear();
    const bool surplus = files_.size() + spares_.size() >= config_.max_files;
    if (file->poisoned || surplus || file->header.file_bytes != config_.file_bytes ||
        !reserve_kept_) {
      close_file(*file, true);
      if (auto kept = keep_reserve(); !kept) LOG_WARN("{}", kept.error().message());
    } else {
      spares_.push_back(std::move(file));
    }
    freed = true;
  }
  if (freed) {
    freed_ns_ = reactor_.now_ns();
    next_ready_.wake_all();
    admission_.wake_all();
  }
}

// Not flush(): a file may hold unsynced bytes when everything that landed is durable, such as one
// that a daemon without a single write left behind.
Task<void> Journal::sync_for_reclaim() {
  auto pass = gate_.enter();
  if (!pass || sync_running_) co_return;
  sync_running_ = true;
  if (auto synced = co_await sync_round(); !synced) LOG_WARN("{}", synced.error().message());
  sync_running_ = false;
  sync_done_.wake_all();
  reclaim();
}

void Journal::close_file(JournalFile& file, bool remove) {
  if (file.direct_handle >= 0) fs_.close(file.direct_handle);
  if (file.cached_handle >= 0) fs_.close(file.cached_handle);
  file.direct_handle = file.cached_handle = -1;
  if (!remove) return;
  if (auto removed = fs_.remove(file.path); !removed)
    LOG_WARN("journal: {}", removed.error().message());
}

uint64_t Journal::free_bytes() const {
  const uint64_t usable = config_.file_bytes - max_payload_bytes_ - 9 * kBlock;
  const JournalFile& current = *files_.back();
  const uint64_t in_current = current.sealed || current.tail >= usable ? 0 : usable - current.tail;
  const uint64_t limit = config_.max_files - kReservedFiles;
  const uint64_t unused = files_.size() >= limit ? 0 : limit - files_.size();
  return in_current + unused * usable;
}

bool Journal::under_pressure() const {
  // A quarter left is early enough for commits to win the race against a steady writer.
  return free_bytes() < config_.max_files * config_.file_bytes / 4 || !admission_.empty();
}

uint64_t Journal::oldest_file_last_sequence() const {
  return files_.size() > 1 ? files_.front()->last_sequence : 0;
}

Task<Result<void>> Journal::admit(uint64_t payload_bytes) {
  auto pass = gate_.enter();
  const uint64_t cost = admission_cost(payload_bytes);
  const uint64_t since = reactor_.now_ns();
  for (;;) {
    if (!pass || gate_.is_closed() || refusing_)
      co_return fail(ErrorKind::kCancelled, "journal: stopping");
    if (failed_) co_return std::unexpected(*failed_);
    if (under_pressure()) call_for_commits();
    if (free_bytes() >= admitted_bytes_ + cost) break;
    const uint64_t waited_ns = reactor_.now_ns() - std::max(since, freed_ns_);
    if (waited_ns >= config_.stall_ms * 1'000'000)
      co_return fail_errno(
          ENOSPC,
          "journal: full, and nothing could be moved from it to the pool for {} s; "
          "see: squall status",
          waited_ns / 1'000'000'000);
    co_await admission_.wait();
  }
  admitted_bytes_ += cost;
  co_return Result<void>{};
}

void Journal::refuse_admissions() {
  refusing_ = true;
  admission_.wake_all();
}

void Journal::admit_reserved(uint64_t payload_bytes) {
  admitted_bytes_ += admission_cost(payload_bytes);
}

void Journal::return_admission(uint64_t payload_bytes) {
  const uint64_t cost = admission_cost(payload_bytes);
  CHECK(admitted_bytes_ >= cost);
  admitted_bytes_ -= cost;
  if (!admission_.empty()) admission_.wake_one();
}

JournalStats Journal::stats() const {
  JournalStats stats = stats_;
  stats.files = files_.size();
  stats.files_max = config_.max_files;
  return stats;
}

Task<void> Journal::stop() {
  auto closed = gate_.close();
  admission_.wake_all();
  next_ready_.wake_all();
  co_await closed;
  while (writing_ || sync_running_ || preparing_next_) co_await yield_to(reactor_);
}

Journal::~Journal() {
  for (auto& file : files_) close_file(*file, false);
  for (auto& file : spares_) close_file(*file, false);
  for (auto& file : leftovers_) close_file(*file, false);
  if (next_ != nullptr) close_file(*next_, false);
  if (lock_handle_ >= 0) fs_.close(lock_handle_);
}

}  // namespace squall
