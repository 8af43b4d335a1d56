// The check reads as start-up does, but everything: records that an index spares start-up, and what
// lies behind the log's end. It looks twice: while a daemon writes, what is being written looks
// torn, and a file may be recycled between two reads of it; only what is found at the same place
// both times is a fault.
#include "journal/journal_check.h"

#include <algorithm>
#include <vector>

#include "journal/journal_scan.h"

namespace squall {

using journal_format::IndexEntry;
using journal_format::RecordHeader;
using journal_scan::FileFacts;
using journal_scan::Footer;
using journal_scan::RecordScanner;

namespace {

struct CheckedFile {
  std::string path;
  int handle = -1;
  FileFacts facts;
  // The records without a gap end with `last`, at `end`; a later one in the same or another file
  // says that everything up to `claim` was durable.
  uint64_t last = 0;
  uint64_t end = 0;
  uint64_t claim = 0;
  bool indexed = false;

  uint64_t number() const { return facts.header.file_number; }
};

class Pass {
 public:
  Pass(Reactor& reactor, FileSystem& files) : reactor_(reactor), fs_(files) {}
  Pass(const Pass&) = delete;
  ~Pass() {
    for (const CheckedFile& file : files_) fs_.close(file.handle);
  }

  Task<Result<void>> run(std::string directory) {
    CO_TRY(co_await open_all(std::move(directory)));
    std::ranges::sort(files_, {}, &CheckedFile::number);
    for (size_t i = 0; i < files_.size(); ++i) co_await check_file(files_[i], limit_of(i));
    for (size_t i = 0; i < files_.size(); ++i) check_end(i);
    totals.problems = problems.size();
    co_return Result<void>{};
  }

  JournalCheckTotals totals;
  std::vector<JournalProblem> problems;

 private:
  Task<Result<void>> open_all(std::string directory) {
    if (!fs_.exists(directory)) co_return Result<void>{};
    CO_TRY_ASSIGN(const auto names, fs_.list(directory));
    for (const std::string& name : names) {
      if (!name.starts_with("slot-") || !name.ends_with(".wal")) continue;
      const std::string path = directory + "/" + name;
      auto handle = fs_.open(path, {});
      if (!handle) {
        if (handle.error().kind() != ErrorKind::kNotFound)
          problems.push_back({path, 0, handle.error().message()});
        continue;
      }
      files_.push_back({.path = path, .handle = *handle, .facts = {}});
      auto facts = co_await journal_scan::inspect(reactor_, fs_, *handle, path);
      if (!facts) {
        problems.push_back({path, 0, facts.error().message()});
      } else if (facts->problem) {
        problems.push_back(*facts->problem);
      } else if (facts->is_log && facts->start) {
        files_.back().facts = std::move(*facts);
        ++totals.files;
        continue;
      }
      fs_.close(*handle);
      files_.pop_back();
    }
    co_return Result<void>{};
  }

  // What of a file counts: as start-up sees it.
  uint64_t limit_of(size_t index) const {
    uint64_t limit = ~uint64_t{0};
    for (size_t i = index + 1; i < files_.size(); ++i)
      limit = std::min(limit, files_[i].facts.start->previous_last_sequence);
    return limit;
  }

  Task<void> check_file(CheckedFile& file, uint64_t limit) {
    Footer footer = co_await journal_scan::read_footer(reactor_, file.handle, file.facts.header,
                                                       file.facts.seed);
    file.claim = footer.durable;
    file.last = file.facts.start->previous_last_sequence;
    RecordScanner scanner(reactor_, file.handle, file.facts.header, file.facts.seed);
    if (footer.entries) {
      file.indexed = true;
      co_await compare(file, scanner, *footer.entries);
    } else {
      co_await walk(file, scanner, limit);
    }
    totals.bytes_read += scanner.bytes_read();
  }

  // Every record that the index names is where it says, whole.
  Task<void> compare(const CheckedFile& file, RecordScanner& scanner,
                     const std::vector<IndexEntry>& entries) {
    size_t next = 0;
    while (next < entries.size()) {
      while (co_await scanner.advance())
        for (const auto& [found, payload] : scanner.found()) {
          for (; next < entries.size() && entries[next].position < found.position; ++next)
            report(file, entries[next]);
          if (next == entries.size() || entries[next].position > found.position) continue;
          RecordHeader record = found.record;
          record.durable_behind = 0;
          if (record != entries[next].record) report(file, entries[next]);
          ++next;
          ++totals.records;
        }
      if (next == entries.size()) break;
      report(file, entries[next++]);
      if (next < entries.size()) scanner.resume_at(entries[next].position);
    }
  }

  Task<void> walk(CheckedFile& file, RecordScanner& scanner, uint64_t limit) {
    bool counts = true;
    while (counts && co_await scanner.advance())
      for (const auto& [found, payload] : scanner.found()) {
        counts = found.record.sequence > file.last && found.record.sequence <= limit;
        if (!counts) break;
        file.last = found.record.sequence;
        file.claim = std::max(file.claim, journal_format::durable_before(found.record));
        ++totals.records;
      }
    file.end = scanner.position();
    if (!counts) co_return;
    if (scanner.is_unreadable()) {
      problems.push_back({file.path, file.end, "the device cannot read the record there"});
      co_return;
    }
    if (auto claim = co_await scanner.find_durable_claim(file.last, limit))
      file.claim = std::max(file.claim, journal_format::durable_before(claim->record));
    if (file.claim > file.last) report_end(file, file.claim);
  }

  // Where a file's records end before those that a later file says were durable.
  void check_end(size_t index) {
    const CheckedFile& file = files_[index];
    if (file.indexed || index + 1 == files_.size()) return;
    const CheckedFile& next = files_[index + 1];
    if (next.number() != file.number() + 1 || next.facts.start->previous_last_sequence <= file.last)
      return;
    uint64_t claim = 0;
    for (size_t i = index + 1; i < files_.size(); ++i) claim = std::max(claim, files_[i].claim);
    claim = std::min(claim, limit_of(index));
    const bool told = std::ranges::any_of(problems, [&](const JournalProblem& p) {
      return p.file == file.path && p.offset == file.end;
    });
    if (claim > file.last && !told) report_end(file, claim);
  }

  void report(const CheckedFile& file, const IndexEntry& entry) {
    problems.push_back({file.path, entry.position,
                        fmt::format("record {} of volume {} ({} bytes at {}) fails its checksum",
                                    entry.record.sequence, entry.record.volume_id,
                                    entry.record.length, entry.record.offset)});
  }
  void report_end(const CheckedFile& file, uint64_t claim) {
    problems.push_back({file.path, file.end,
                        fmt::format("damaged record: the log ends there at {}, but records up to "
                                    "{} were durable",
                                    file.last, claim)});
  }

  Reactor& reactor_;
  FileSystem& fs_;
  std::vector<CheckedFile> files_;
};

}  // namespace

Task<Result<JournalCheckTotals>> check_journal(Reactor& reactor, FileSystem& files,
                                               std::string directory,
                                               std::function<void(const JournalProblem&)> visit) {
  Pass first(reactor, files);
  CO_TRY(co_await first.run(directory));
  JournalCheckTotals totals = first.totals;
  if (first.problems.empty()) co_return totals;
  Pass second(reactor, files);
  CO_TRY(co_await second.run(directory));
  totals.problems = 0;
  for (const JournalProblem& problem : first.problems) {
    const bool again = std::ranges::any_of(second.problems, [&](const JournalProblem& other) {
      return other.file == problem.file && other.offset == problem.offset;
    });
    if (!again) continue;
    ++totals.problems;
    visit(problem);
  }
  co_return totals;
}

}  // namespace squall
