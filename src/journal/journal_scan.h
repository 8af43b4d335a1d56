// Journal files as they lie on the disk: what a file is, and which records are in it. What start-up
// and check share; reads only. One reactor's thread; handles are the caller's.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/task.h"
#include "format/journal.h"
#include "io/file_system.h"
#include "io/reactor.h"
#include "journal/journal_check.h"

namespace squall::journal_scan {

// What header and start say. A file whose header does not decode was never used when its start is
// blank, since a start is wiped, durably, before a header is written; otherwise it is damaged.
struct FileFacts {
  bool is_log = false;  // else never used: nothing lies in it
  journal_format::FileHeader header;
  uint64_t seed = 0;
  std::optional<journal_format::FileStart> start;
  std::optional<JournalProblem> problem;
};
// kUnsupported for a version that this build cannot read.
Task<Result<FileFacts>> inspect(Reactor& reactor, FileSystem& files, int handle, std::string path);

// What lies at a file's end. An index that does not verify is as good as none: a power cut may have
// torn it, and the records can be walked without.
struct Footer {
  std::optional<std::vector<journal_format::IndexEntry>> entries;
  uint64_t durable = 0;  // the last sequence that a valid trailer says is durable; 0: none says so
};
Task<Footer> read_footer(Reactor& reactor, int handle, const journal_format::FileHeader& header,
                         uint64_t seed);

// Walks the records of one file that follow each other without a gap.
class RecordScanner {
 public:
  struct Found {
    journal_format::IndexEntry entry;
    ConstBytes payload;  // valid until the next advance()
  };

  RecordScanner(Reactor& reactor, int handle, const journal_format::FileHeader& header,
                uint64_t seed);

  // Reads on; false when the records have ended.
  Task<bool> advance();
  // Goes on at a known record, behind one that is damaged.
  void resume_at(uint64_t position);
  // What the last advance() found, pads left out.
  const std::vector<Found>& found() const { return found_; }
  // Where the record after the last one found would begin.
  uint64_t position() const { return position_; }
  // The device could not read what lies there.
  bool is_unreadable() const { return unreadable_; }
  uint64_t bytes_read() const { return bytes_read_; }

  // The first record from position() on that says that a record above `last` was durable before
  // it; only records up to `limit` count. None: whatever is missing may never have been durable.
  Task<std::optional<journal_format::IndexEntry>> find_durable_claim(uint64_t last, uint64_t limit);

 private:
  Task<void> read_window(uint64_t start);
  void take_records();
  ConstBytes window_from(uint64_t position) const {
    return ConstBytes(buffer_.data(), held_).subspan(position - start_);
  }

  Reactor& reactor_;
  int handle_;
  uint64_t file_bytes_;
  uint64_t seed_;
  std::vector<std::byte> buffer_;  // holds [start_, start_ + held_) of the file
  uint64_t start_ = 0;
  size_t held_ = 0;
  uint64_t bad_from_ = ~uint64_t{0};  // first block of the window that could not be read
  uint64_t position_ = journal_format::kFirstRecord;
  bool ended_ = false;
  bool unreadable_ = false;
  uint64_t bytes_read_ = 0;
  std::vector<Found> found_;
};

// Reads as much as the device gives: blocks that it cannot read are zeros and the first of them is
// reported in `bad_from`. Returns the bytes up to the end of the file.
Task<size_t> read_what_can_be_read(Reactor& reactor, int handle, Bytes to, uint64_t offset,
                                   uint64_t& bad_from);

}  // namespace squall::journal_scan
