// check_journal: whether a journal's files are what they claim to be: headers, starts, record
// indexes and every record with its payload. Changes nothing, needs no lock, and may run beside the
// daemon that writes the journal: what changes under the check is looked at again, and files that
// were recycled meanwhile are left out.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/error.h"
#include "base/task.h"
#include "io/file_system.h"
#include "io/reactor.h"

namespace squall {

// One fault: which file, where in it (bytes), and what is wrong, as one line.
struct JournalProblem {
  std::string file;
  uint64_t offset = 0;
  std::string what;
};

struct JournalCheckTotals {
  uint64_t files = 0;  // that hold a log
  uint64_t records = 0;
  uint64_t bytes_read = 0;
  uint64_t problems = 0;
};

// `visit` is told every fault, file by file. The error is for what kept the check from being made
// (the directory cannot be listed); a directory that does not exist is an empty journal.
Task<Result<JournalCheckTotals>> check_journal(Reactor& reactor, FileSystem& files,
                                               std::string directory,
                                               std::function<void(const JournalProblem&)> visit);

}  // namespace squall
