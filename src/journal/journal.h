// Journal: a host's write log, shared by its volumes (design decision 5).
//
// Fixed-size files, preallocated and zero-filled, recycled oldest first. Records lie in strict
// order of their sequence numbers; a record has *landed* when it and all before it are in memory
// that outlives the daemon (cached path) or accepted by the device (direct path), and is *durable*
// when one sync covered the contiguous log up to it. Each open starts a new generation in a new
// file whose header says where the last one ended; old files are never appended to.
//
// One reactor's thread. Whoever appends has been admitted first, so an append never waits for
// space. Failures: a failed write abandons the file at the last landed record and fails the batch;
// a failed sync is never retried: what was not yet durable is copied into a new file (checked
// against its checksums) or, where that fails, the journal refuses everything from then on.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/task.h"
#include "format/journal.h"
#include "io/file_system.h"
#include "io/gate.h"
#include "io/reactor.h"
#include "io/sync.h"
#include "journal/journal_check.h"
#include "journal/payload_sums.h"

namespace squall {

using JournalRecord = journal_format::RecordHeader;

struct JournalConfig {
  std::string directory;
  uint64_t file_bytes = 64 * kMiB;
  uint64_t max_files = 16;
  uint64_t min_generation = 0;  // the generation opened is higher, whatever the files say
  Uuid id_if_new;               // identity of a journal that does not exist yet
  uint64_t lock_wait_ms = 5000;
  // Who waits for space in a journal that none was freed in for so long gets ENOSPC.
  uint64_t stall_ms = 120'000;
  // Told of what was durable and is damaged, before anything is changed; `id` is the journal's, nil
  // when no file is left that says it. OK: the log goes on without what is lost. Without this
  // function a damaged journal does not open.
  std::function<Task<Result<void>>(Uuid id, std::vector<JournalProblem> damage)> on_damage;

  Result<void> validate() const;
};

// One file of the journal. `live` counts the dirty-map entries that point into it, `pins` the reads
// in flight; a file without either is recycled once it is the oldest.
struct JournalFile {
  std::string path;
  int cached_handle = -1;
  int direct_handle = -1;
  journal_format::FileHeader header;
  journal_format::FileStart start;
  uint64_t seed = 0;
  uint64_t tail = 0;  // where the next record goes
  uint64_t last_sequence = 0;
  uint64_t live = 0;
  uint64_t pins = 0;
  // Set when the file was first found without either: the record up to which the log must be
  // durable before the file may go, because what replaced its content lies there.
  uint64_t superseded_by = 0;
  bool unsynced = false;  // holds bytes that no sync has covered
  bool sealed = false;    // no more appends
  bool poisoned = false;  // a write or sync failed: no footer, and removed instead of recycled
  std::vector<journal_format::IndexEntry> entries;  // for the footer; dropped once that is written
  PayloadSums payloads;                             // what reads are verified against
};

// Whether the file became current once, and has not been wiped since.
inline bool has_start(const JournalFile& file) {
  return file.start.first_sequence != ~uint64_t{0};
}

// Where a record's payload lies. For zero records only the file counts.
struct JournalPlace {
  JournalFile* file = nullptr;
  uint64_t position = 0;
};

enum class JournalPath : uint8_t { kCached, kDirect };

// A volume's side of the journal. Called in sequence order, from inside the journal: no suspension
// (but in record_loss), no calls back into it.
class JournalSink {
 public:
  virtual ~JournalSink() = default;
  virtual void landed(const JournalRecord& record, JournalPlace place) = 0;
  // The record's bytes now lie at `place` instead.
  virtual void relocated(const JournalRecord& record, JournalPlace place) = 0;
  // The record's bytes are gone (failed sync, page dropped). True when the volume needs them: it
  // fails from now on.
  virtual bool lost(const JournalRecord& record) = 0;
  // After such losses: makes them known durably, before the journal hides the gap. Waits for
  // nothing that may wait for the journal.
  virtual Task<Result<void>> record_loss() = 0;
};

struct JournalStats {
  uint64_t files = 0;
  uint64_t files_max = 0;
  uint64_t appended_records = 0;
  uint64_t appended_bytes = 0;
  uint64_t syncs = 0;
  uint64_t replayed_records = 0;
  uint64_t damaged_reads = 0;  // of payloads that failed their checksum
};

class Journal {
 public:
  using ReplayVisitor = std::function<void(const JournalRecord& record, JournalPlace place)>;

  // Locks the directory, replays what is there through `visit` in sequence order, and opens a new
  // generation durably. A visitor keeps a record by counting it in place.file->live.
  static Task<Result<std::unique_ptr<Journal>>> open(Reactor& reactor, FileSystem& files,
                                                     JournalConfig config, ReplayVisitor visit);
  ~Journal();

  // Appends need an admission of at least their size first; it is spent by the append.
  // admit waits until there is space; kNoSpace when none came for long, kCancelled when stopping.
  Task<Result<void>> admit(uint64_t payload_bytes);
  // Lets those who wait in admit see how long they have waited; called now and then.
  void recheck_admissions() { admission_.wake_all(); }
  // Ends every admit that waits, and all later ones, with kCancelled.
  void refuse_admissions();
  // Whether a writer waits in admit.
  bool is_short_of_space() const { return !admission_.empty(); }
  // For copies of what the journal holds already: from the part kept back from admit.
  void admit_reserved(uint64_t payload_bytes);
  void return_admission(uint64_t payload_bytes);  // admitted, but not appended after all

  // Returns the record's sequence once it has landed; by then `sink` was told. The sequence is
  // taken at the call, so calls' order is the log's. `payload` stays the caller's until it returns.
  Task<Result<uint64_t>> append(journal_format::RecordType type, uint64_t volume_id, uint64_t epoch,
                                uint64_t offset, uint64_t length, ConstBytes payload,
                                JournalPath path);
  // The contiguous log up to everything landed before the call is durable when it returns.
  Task<Result<void>> flush();

  // Part of one record's payload, verified: kCorrupt when it is not what was written.
  Task<Result<void>> read(JournalPlace place, Bytes to);

  // The sinks of volumes with records here; a record of a volume without one is forgotten.
  void attach(uint64_t volume_id, JournalSink* sink) { sinks_[volume_id] = sink; }
  void detach(uint64_t volume_id, JournalSink* sink) {
    if (auto it = sinks_.find(volume_id); it != sinks_.end() && it->second == sink)
      sinks_.erase(it);
  }

  // Recycles the oldest files that nothing refers to; call after dropping references in bulk.
  void reclaim();

  // Called (posted) when space runs low: the owner commits volumes, oldest first.
  void set_pressure_handler(std::function<void()> handler);
  bool under_pressure() const;
  // Records at or below this sequence keep the oldest file from being recycled.
  uint64_t oldest_file_last_sequence() const;
  const JournalFile* oldest_file() const { return files_.empty() ? nullptr : files_.front().get(); }

  const Uuid& id() const { return id_; }
  uint64_t generation() const { return generation_; }
  // Every sequence given out so far is at or below this.
  uint64_t last_sequence() const { return next_sequence_ - 1; }
  uint64_t max_payload_bytes() const { return max_payload_bytes_; }
  JournalStats stats() const;

  Task<void> stop();

 private:
  struct Pending {
    JournalRecord header;
    ConstBytes payload;
    JournalPath path;
    uint64_t position = 0;
    std::coroutine_handle<> waiter;
    std::optional<Error> error;
    bool done = false;
  };

  Journal(Reactor& reactor, FileSystem& files, JournalConfig config);

  // journal_open.cc
  Result<void> lock_directory();
  struct LogEnd;
  using OpenedFiles = std::vector<std::unique_ptr<JournalFile>>;
  Task<Result<OpenedFiles>> open_existing();
  Task<Result<bool>> load_file(JournalFile& file);
  void keep_the_run(OpenedFiles& found);
  Task<Result<uint64_t>> replay(const ReplayVisitor& visit);
  Task<void> replay_file(JournalFile& file, uint64_t limit, const ReplayVisitor& visit,
                         LogEnd& end);
  Task<void> replay_by_scan(JournalFile& file, uint64_t limit, const ReplayVisitor& visit,
                            LogEnd& end);
  Task<void> look_beyond(LogEnd end, std::vector<uint64_t> limits);
  Task<Result<void>> settle_damage(bool id_known);
  void take_back_unused();
  Task<void> recycle_idle_log();
  void keep_as_spare(std::unique_ptr<JournalFile> file);
  Task<Result<void>> start_generation(uint64_t previous_last_sequence);

  // journal_files.cc: the life of files
  Task<Result<std::unique_ptr<JournalFile>>> create_file();
  Task<Result<void>> roll(uint64_t previous_last_sequence);
  Task<Result<void>> wipe_start(JournalFile& file);
  Task<Result<std::unique_ptr<JournalFile>>> prepare_file();
  Result<void> begin_file(std::unique_ptr<JournalFile> file, uint64_t previous_last_sequence);
  Result<void> write_start(JournalFile& file, uint64_t previous_last_sequence);
  void prepare_next();
  Task<void> prepare_next_task();
  Task<void> finish_file(JournalFile* file);
  Task<void> sync_for_reclaim();
  void call_for_commits();
  std::string reserve_path() const { return config_.directory + "/RESERVE"; }
  Result<void> keep_reserve();
  void close_file(JournalFile& file, bool remove);
  uint64_t free_bytes() const;

  // journal_read.cc
  Task<Result<void>> read_verified(JournalFile& file, uint64_t position, Bytes to);
  Task<Result<void>> learn_payload(JournalFile& file, size_t payload);
  Error damaged(const JournalFile& file, uint64_t position);

  // journal.cc: appends and syncs
  bool fits(const JournalFile& file, uint64_t bytes, uint64_t records) const;
  Result<void> write_cached(std::span<Pending*> batch);
  Task<Result<void>> write_direct(std::span<Pending*> batch);
  Task<void> run_queue();
  std::vector<Pending*> take_batch(bool& direct);
  bool tail_is_owned() const { return writing_ || rescue_waits_; }
  void place(std::span<Pending*> batch, JournalFile& file, uint64_t position);
  void claim_durable(Pending& pending) const;
  void land(std::span<Pending*> batch);
  void fail_batch(std::span<Pending*> batch, const Error& error);
  Task<Result<void>> sync_round();

  // journal_rescue.cc
  Task<Result<void>> rescue(Error error);
  Task<void> take_the_tail();
  void give_back_the_tail();
  using CopyFiles = std::vector<std::pair<JournalFile*, uint64_t>>;  // and what comes before each
  Task<Result<void>> copy_beyond(uint64_t keep_from, const std::vector<JournalFile*>& old);
  Task<Result<void>> begin_copy_file(uint64_t previous_last_sequence, CopyFiles& copies);
  Task<Result<void>> copy_record(JournalFile& from, const journal_format::IndexEntry& entry,
                                 CopyFiles& copies);

  Reactor& reactor_;
  FileSystem& fs_;
  JournalConfig config_;
  Uuid id_;
  int lock_handle_ = -1;
  uint64_t generation_ = 0;
  uint64_t next_sequence_ = 0;
  uint64_t next_file_number_ = 1;
  uint64_t next_slot_ = 0;
  uint64_t max_payload_bytes_ = 0;
  uint64_t landed_ = 0;
  uint64_t durable_ = 0;
  // The last record that is durable and still there: what new records say of the log before them.
  // Unlike durable_ never the number of a record that was given up.
  uint64_t proven_ = 0;

  std::deque<std::unique_ptr<JournalFile>> files_;  // by number; the last one is current
  std::unique_ptr<JournalFile> next_;  // with a durable header: the file that a roll takes
  std::vector<std::unique_ptr<JournalFile>> spares_;  // to be made the next one
  bool preparing_next_ = false;
  std::optional<Error> next_error_;
  WaitQueue next_ready_;

  std::deque<Pending*> queue_;
  bool writing_ = false;       // the queue's runner (or a rescue) owns the tail
  bool rescue_waits_ = false;  // and will own it next
  bool rescuing_ = false;
  WaitQueue idle_;
  bool sync_running_ = false;
  WaitQueue sync_done_;
  std::optional<Error> failed_;  // for good

  uint64_t admitted_bytes_ = 0;
  WaitQueue admission_;
  uint64_t freed_ns_ = 0;  // when a file was last recycled
  bool refusing_ = false;
  std::function<void()> on_pressure_;
  bool pressure_posted_ = false;
  bool reserve_kept_ = false;
  bool next_failing_ = false;

  std::unordered_map<uint64_t, JournalSink*> sinks_;
  std::set<uint64_t> volumes_with_losses_;  // during a rescue
  // Between open_existing and start_generation: what is wrong, and files that are not of the log.
  std::vector<JournalProblem> damage_;
  bool cut_short_ = false;  // replay found a gap: the files behind it count for nothing
  OpenedFiles leftovers_;
  JournalStats stats_;
  Gate gate_;
};

}  // namespace squall
