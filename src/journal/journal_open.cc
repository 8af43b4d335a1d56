// Start-up: which files form the log, and what of them counts.
//
// The log is the longest run of consecutive file numbers that ends at the highest one: headers are
// made durable one by one, in order, each before its file is used. Lower leftovers are recycled
// files whose records are all in the pool. A file counts up to the smallest previous_last_sequence
// of the files after it (a failed write or sync may have left remnants beyond). Where the records
// found end short of what a later file's header says came before it, or in the middle of a file,
// either the host lost unsynced data, and nothing beyond was acknowledged as durable; or the disk
// damaged what was. Records and indexes further on that say how much was durable tell which.
// Damage, there or in a header or start, is for the owner to judge (JournalConfig::on_damage):
// until then nothing is changed.
#include <algorithm>

#include "base/hash.h"
#include "base/log.h"
#include "journal/journal.h"
#include "journal/journal_scan.h"

namespace squall {

using journal_format::kBlock;
using journal_format::kRecordHeaderBytes;
using journal_scan::RecordScanner;

Result<void> JournalConfig::validate() const {
  if (file_bytes % kBlock != 0 || file_bytes < 16 * kBlock || file_bytes > 4 * kGiB)
    return fail(ErrorKind::kInvalid,
                "journal file size {} is not a multiple of 4096 between 64 KiB and 4 GiB",
                file_bytes);
  if (max_files < 4 || max_files > 4096)
    return fail(ErrorKind::kInvalid, "journal has {} files; give 4 to 4096", max_files);
  return {};
}

Journal::Journal(Reactor& reactor, FileSystem& files, JournalConfig config)
    : reactor_(reactor),
      fs_(files),
      config_(std::move(config)),
      max_payload_bytes_(
          std::min(journal_format::kMaxPayloadBytes, round_down(config_.file_bytes / 4, kBlock))),
      next_ready_(reactor),
      idle_(reactor),
      sync_done_(reactor),
      admission_(reactor) {}

Task<Result<std::unique_ptr<Journal>>> Journal::open(Reactor& reactor, FileSystem& files,
                                                     JournalConfig config, ReplayVisitor visit) {
  CO_TRY(config.validate());
  std::unique_ptr<Journal> journal(new Journal(reactor, files, std::move(config)));
  CO_TRY(journal->lock_directory());
  CO_TRY_ASSIGN(auto existing, co_await journal->open_existing());
  const bool id_known = !existing.empty();
  journal->id_ = id_known ? existing.back()->header.journal_id : journal->config_.id_if_new;
  for (auto& file : existing) journal->files_.push_back(std::move(file));
  CO_TRY_ASSIGN(const uint64_t last, co_await journal->replay(visit));
  CO_TRY(co_await journal->settle_damage(id_known));
  if (auto started = co_await journal->start_generation(last); !started) {
    co_await journal->stop();
    co_return std::unexpected(started.error());
  }
  co_return std::move(journal);
}

Result<void> Journal::lock_directory() {
  TRY(fs_.make_directory_durably(config_.directory));
  const std::string path = config_.directory + "/LOCK";
  TRY_ASSIGN(lock_handle_, fs_.open(path, {.write = true, .create = true}));
  if (auto locked = fs_.lock(lock_handle_, config_.lock_wait_ms); !locked)
    return std::unexpected(locked.error().wrap(fmt::format(
        "journal: {} is in use by another squalld; stop it or choose another SQUALL_HOME",
        config_.directory)));
  return {};
}

// False for a file that never held anything, or that is damaged, which is noted.
Task<Result<bool>> Journal::load_file(JournalFile& file) {
  CO_TRY_ASSIGN(file.cached_handle, fs_.open(file.path, {.write = true}));
  CO_TRY_ASSIGN(file.direct_handle, fs_.open(file.path, {.write = true, .direct = true}));
  // The lock is on the handle that direct writes go through: it is free only once the last write
  // of a killed daemon has finished.
  CO_TRY(fs_.lock(file.direct_handle, config_.lock_wait_ms));
  CO_TRY_ASSIGN(auto facts,
                co_await journal_scan::inspect(reactor_, fs_, file.cached_handle, file.path));
  if (!facts.is_log) {
    LOG_INFO("journal: {} was never used, removed", file.path);
    close_file(file, true);
    co_return false;
  }
  if (facts.problem) {
    damage_.push_back(std::move(*facts.problem));
    co_return false;
  }
  file.header = facts.header;
  file.seed = facts.seed;
  // Without a start nothing was written to it, or nothing of it was ever durable: it constrains
  // nothing and holds nothing.
  constexpr uint64_t kNone = ~uint64_t{0};
  file.start = facts.start.value_or(journal_format::FileStart{kNone, kNone});
  file.sealed = true;
  file.unsynced = true;  // the page cache may hold more than the disk
  co_return true;
}

// The log's files by number. The rest, which are recycled ones or were being made when the daemon
// died, are kept apart until it is clear that nothing is damaged.
Task<Result<Journal::OpenedFiles>> Journal::open_existing() {
  CO_TRY_ASSIGN(const auto names, fs_.list(config_.directory));
  OpenedFiles found;
  for (const std::string& name : names) {
    if (!name.starts_with("slot-") || !name.ends_with(".wal")) continue;
    next_slot_ = std::max<uint64_t>(next_slot_, std::strtoull(name.c_str() + 5, nullptr, 10) + 1);
    auto file = std::make_unique<JournalFile>();
    file->path = config_.directory + "/" + name;
    const auto loaded = co_await load_file(*file);
    if (!loaded || !*loaded) close_file(*file, false);
    if (!loaded) {
      for (auto& other : found) close_file(*other, false);
      co_return std::unexpected(loaded.error().wrap("journal: " + file->path));
    }
    if (*loaded) found.push_back(std::move(file));
  }
  keep_the_run(found);
  for (const auto& file : found) {
    generation_ = std::max(generation_, file->header.generation);
    next_file_number_ = file->header.file_number + 1;
  }
  co_return found;
}

void Journal::keep_the_run(OpenedFiles& found) {
  std::ranges::sort(found, {}, [](const auto& file) {
    return std::pair(file->header.file_number, !has_start(*file));
  });
  // A number is given again when its file could not be prepared; that one was never used.
  OpenedFiles by_number;
  for (auto& file : found) {
    const bool again =
        !by_number.empty() && by_number.back()->header.file_number == file->header.file_number;
    (again ? leftovers_ : by_number).push_back(std::move(file));
  }
  size_t first = by_number.size();
  while (first > 0) {
    const auto& file = *by_number[first - 1];
    const bool chained = first == by_number.size() ||
                         (file.header.file_number + 1 == by_number[first]->header.file_number &&
                          file.header.journal_id == by_number[first]->header.journal_id);
    if (!chained) break;
    --first;
  }
  const auto run = by_number.begin() + static_cast<ptrdiff_t>(first);
  std::move(by_number.begin(), run, std::back_inserter(leftovers_));
  found.assign(std::make_move_iterator(run), std::make_move_iterator(by_number.end()));
}

// Where the records end.
struct Journal::LogEnd {
  size_t file = 0;
  uint64_t position = 0;  // in that file; 0: its index names all there is
  uint64_t last = 0;      // sequence
  bool unreadable = false;
};

// Returns the last sequence that counts.
Task<Result<uint64_t>> Journal::replay(const ReplayVisitor& visit) {
  const size_t count = files_.size();
  std::vector<uint64_t> limits(count, ~uint64_t{0});  // what of file i counts
  for (size_t i = count; i-- > 1;)
    limits[i - 1] = std::min(limits[i], files_[i]->start.previous_last_sequence);
  LogEnd end;
  bool begun = false;
  for (size_t i = 0; i < count; ++i) {
    JournalFile& file = *files_[i];
    const uint64_t expected = std::min(file.start.previous_last_sequence, limits[i]);
    if (!has_start(file)) continue;
    // Not more than counts: the run may begin with a file that copies behind it replace.
    if (!begun) end.last = expected;
    begun = true;
    if (end.last < expected) {
      LOG_WARN("journal: {} continues after record {}, but the log before it ends at {}", file.path,
               expected, end.last);
      cut_short_ = true;
      break;
    }
    end.file = i;
    end.position = 0;
    end.unreadable = false;
    file.last_sequence = end.last;
    if (file.start.first_sequence <= limits[i]) co_await replay_file(file, limits[i], visit, end);
    end.last = std::max(end.last, file.last_sequence);
  }
  if (begun) co_await look_beyond(end, std::move(limits));
  co_return end.last;
}

Task<void> Journal::replay_file(JournalFile& file, uint64_t limit, const ReplayVisitor& visit,
                                LogEnd& end) {
  const auto footer =
      co_await journal_scan::read_footer(reactor_, file.cached_handle, file.header, file.seed);
  if (!footer.entries) co_return co_await replay_by_scan(file, limit, visit, end);
  for (const auto& entry : *footer.entries) {
    if (entry.record.sequence > limit) break;
    file.last_sequence = entry.record.sequence;
    ++stats_.replayed_records;
    const uint64_t payload = entry.position + kRecordHeaderBytes;
    if (entry.record.payload_bytes > 0)
      file.payloads.add_unverified(payload, entry.record.payload_bytes);
    visit(entry.record, {&file, payload});
  }
  // A footer is written only when the log up to it is durable.
  durable_ = std::max(durable_, file.last_sequence);
}

Task<void> Journal::replay_by_scan(JournalFile& file, uint64_t limit, const ReplayVisitor& visit,
                                   LogEnd& end) {
  RecordScanner scanner(reactor_, file.cached_handle, file.header, file.seed);
  bool counts = true;
  while (counts && co_await scanner.advance()) {
    for (const auto& [entry, content] : scanner.found()) {
      counts = entry.record.sequence > file.last_sequence && entry.record.sequence <= limit;
      if (!counts) break;
      file.last_sequence = entry.record.sequence;
      file.entries.push_back(entry);
      file.tail = entry.position + journal_format::record_bytes(entry.record.payload_bytes);
      ++stats_.replayed_records;
      const uint64_t payload = entry.position + kRecordHeaderBytes;
      if (!content.empty()) file.payloads.add(payload, content);
      visit(entry.record, {&file, payload});
    }
  }
  end.position = scanner.position();
  end.unreadable = scanner.is_unreadable();
}

// Whether anything behind the log's end says that more of it was durable.
Task<void> Journal::look_beyond(LogEnd end, std::vector<uint64_t> limits) {
  const JournalFile& ended = *files_[end.file];
  const uint64_t place = end.position > 0 ? end.position : journal_format::kFirstRecord;
  if (end.unreadable) {
    damage_.push_back({ended.path, place, "the device cannot read the record there"});
    co_return;
  }
  for (size_t i = end.file; i < files_.size(); ++i) {
    const JournalFile& file = *files_[i];
    const auto footer =
        co_await journal_scan::read_footer(reactor_, file.cached_handle, file.header, file.seed);
    uint64_t claim = std::min(footer.durable, limits[i]);
    if (claim <= end.last && !footer.entries) {
      RecordScanner scanner(reactor_, file.cached_handle, file.header, file.seed);
      if (i == end.file) scanner.resume_at(place);
      // The next file, made ready ahead of need, holds nothing at all.
      const bool used = has_start(file) || co_await scanner.advance();
      if (i != end.file) scanner.resume_at(journal_format::kFirstRecord);
      if (!used) continue;
      if (const auto record = co_await scanner.find_durable_claim(end.last, limits[i]))
        claim = journal_format::durable_before(record->record);
    }
    if (claim <= end.last) continue;
    damage_.push_back(
        {ended.path, place,
         fmt::format("the log ends in a damaged record after {}, but records up to {} were durable",
                     end.last, claim)});
    co_return;
  }
}

// Asks the owner about damage. What is not of the log goes: recycled files, and damaged ones, those
// under another name, for who wants to look into them.
Task<Result<void>> Journal::settle_damage(bool id_known) {
  const bool damaged = !damage_.empty();
  for (const JournalProblem& problem : damage_)
    LOG_ERROR("journal: {} at {}: {}", problem.file, problem.offset, problem.what);
  if (damaged) {
    if (!config_.on_damage)
      co_return fail(ErrorKind::kCorrupt, "journal: {} at {}: {}", damage_[0].file,
                     damage_[0].offset, damage_[0].what);
    CO_TRY(co_await config_.on_damage(id_known ? id_ : Uuid{}, damage_));
  }
  for (const auto& file : leftovers_) close_file(*file, !damaged);
  if (!damaged) {
    leftovers_.clear();
    co_return Result<void>{};
  }
  std::vector<std::string> apart;
  for (const auto& file : leftovers_) apart.push_back(file->path);
  leftovers_.clear();
  for (const JournalProblem& problem : damage_)
    if (std::ranges::none_of(files_, [&](const auto& f) { return f->path == problem.file; }))
      apart.push_back(problem.file);
  for (const std::string& path : apart) {
    const std::string name = path.substr(config_.directory.size() + 1);
    const std::string aside =
        fmt::format("{}/damaged-{}-{}", config_.directory, generation_ + 1, name);
    LOG_WARN("journal: {} is kept as {}", path, aside);
    CO_TRY(fs_.rename(path, aside));
  }
  damage_.clear();
  co_return fs_.sync_directory(config_.directory);
}

// Files that were made ready and never used are used now, under the same numbers. One file stays in
// any case: it says which journal this is.
void Journal::take_back_unused() {
  while (files_.size() > 1 && !has_start(*files_.back()) && files_.back()->live == 0 &&
         files_.back()->pins == 0) {
    auto file = std::move(files_.back());
    files_.pop_back();
    next_file_number_ = file->header.file_number;
    keep_as_spare(std::move(file));
  }
}

void Journal::keep_as_spare(std::unique_ptr<JournalFile> file) {
  file->payloads.clear();
  if (file->header.file_bytes != config_.file_bytes || spares_.size() + 2 >= config_.max_files)
    return close_file(*file, true);
  spares_.push_back(std::move(file));
}

// A log that nobody needs anything of gives its files to its successor, so that starting again and
// again takes no more space. The newest stays until the successor is there: the run ends with it.
// A log that was cut short keeps its files until then: without the first of them, the next start
// would count the records behind the gap.
Task<void> Journal::recycle_idle_log() {
  if (cut_short_) co_return;
  for (const auto& file : files_)
    if (file->live > 0 || file->pins > 0) co_return;
  for (const auto& file : files_) {
    if (co_await io_sync(reactor_, file->cached_handle) < 0) co_return;
    file->unsynced = false;
  }
  while (files_.size() > 1) {
    keep_as_spare(std::move(files_.front()));
    files_.pop_front();
  }
}

Task<Result<void>> Journal::start_generation(uint64_t previous_last_sequence) {
  generation_ = std::max(generation_, config_.min_generation) + 1;
  next_sequence_ = (generation_ << journal_format::kGenerationShift) + 1;
  landed_ = previous_last_sequence;
  take_back_unused();
  if (!files_.empty()) {
    // The newest file's header may still be in the page cache only; the next one must not outlive
    // it.
    const JournalFile& newest = *files_.back();
    if (const int synced = co_await io_sync(reactor_, newest.cached_handle); synced < 0)
      co_return fail_errno(-synced, "journal: sync of {} failed", newest.path);
  }
  co_await recycle_idle_log();
  auto prepared = co_await prepare_file();
  if (!prepared && prepared.error().os_errno() == ENOSPC && fs_.exists(reserve_path())) {
    LOG_WARN("{}; taking the reserve", prepared.error().message());
    CO_TRY(fs_.remove(reserve_path()));
    prepared = co_await prepare_file();
  }
  if (!prepared && prepared.error().os_errno() == ENOSPC && !files_.empty()) {
    // What the log holds can be read and committed all the same, which makes room: the generation's
    // first file is made by the first append for which there is space.
    LOG_WARN("{}; no write is taken until there is space", prepared.error().message());
    files_.back()->last_sequence = previous_last_sequence;
    next_failing_ = true;
    reclaim();
    co_return Result<void>{};
  }
  CO_TRY_ASSIGN(auto file, std::move(prepared));
  CO_TRY(begin_file(std::move(file), previous_last_sequence));
  JournalFile& current = *files_.back();
  current.unsynced = false;
  if (const int synced = co_await io_sync(reactor_, current.cached_handle); synced < 0)
    co_return fail_errno(-synced, "journal: sync of {} failed", current.path);
  if (auto kept = keep_reserve(); !kept) LOG_WARN("{}", kept.error().message());
  reclaim();
  prepare_next();
  co_return Result<void>{};
}

}  // namespace squall
