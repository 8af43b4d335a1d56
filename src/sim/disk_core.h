// DiskCore: the inside of a SimDisk, as SimFileSystem and SimReactor use it: operations on open
// files with faults, locks, power state and counting. Tests use sim/sim_disk.h. Results are a
// count or 0, or a negative errno.
//
// What a killed process had in flight is kept in `late_`: the kernel finishes those writes on its
// own time, some operations after the next process has started, but before that process is granted
// a lock on their file (an flock is released only with the last reference to the open file, which
// an operation in flight holds).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/random.h"
#include "io/file_system.h"
#include "sim/disk_faults.h"
#include "sim/disk_image.h"

namespace squall::sim {

class DiskCore;

// An open file description: shared by its handle and by the operations in flight on it. Closes
// itself (and releases its lock) with the last reference.
struct OpenFile {
  OpenFile(std::shared_ptr<DiskCore> core, InodeId inode, std::string path, OpenOptions options);
  ~OpenFile();
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  std::shared_ptr<DiskCore> core;
  uint64_t boot;  // of the disk when it was opened
  uint64_t id;
  InodeId inode;
  std::string path;
  OpenOptions options;
};
using OpenFileRef = std::shared_ptr<OpenFile>;

// Memory that shares its content with a file.
struct Mapping {
  OpenFileRef file;
  Bytes memory;
};

// A write that a killed process leaves to the kernel.
struct InFlightWrite {
  InodeId inode = 0;
  uint64_t offset = 0;
  std::vector<std::byte> data;
};

class DiskCore : public std::enable_shared_from_this<DiskCore> {
 public:
  enum class Power : uint8_t { kOn, kCut, kKilled };
  // Reports writes that were submitted and have not taken effect.
  using InFlightSource = std::function<void(std::vector<InFlightWrite>&)>;

  explicit DiskCore(uint64_t seed) : state_(seed) {}
  std::shared_ptr<DiskCore> clone();
  // A clone as this disk would be after dying now.
  std::shared_ptr<DiskCore> clone_dead(Power how);

  // Names.
  int open(const std::string& path, OpenOptions options, OpenFileRef& file);
  int stat(const std::string& path, FileInfo& info);
  int make_directory(const std::string& path);
  int list(const std::string& path, std::vector<std::string>& names);
  int remove(const std::string& path);
  int rename(const std::string& from, const std::string& to);
  int sync_directory(const std::string& path);
  int space(const std::string& path, SpaceInfo& info);

  // Content. `file` may be of an earlier boot: -EBADF.
  int64_t read(OpenFile& file, uint64_t offset, Bytes to);
  int write(OpenFile& file, uint64_t offset, ConstBytes from);
  int truncate(OpenFile& file, uint64_t size);
  int allocate(OpenFile& file, uint64_t size);
  int punch(OpenFile& file, uint64_t offset, uint64_t length);
  int info(OpenFile& file, FileInfo& info);
  int lock(OpenFile& file);
  // A sync covers what had taken effect when it was submitted: begin_sync() then, sync() later.
  uint64_t begin_sync(OpenFile& file);
  int sync(OpenFile& file, uint64_t last_sequence);
  uint64_t latency_ns(const OpenFile& file) const;
  // False when the process that opened it is dead.
  bool is_alive(const OpenFile& file) const {
    return state_.power == Power::kOn && file.boot == boot_;
  }

  // The mapping's owner keeps it alive until unmap().
  int map(Mapping& mapping);
  void unmap(Mapping& mapping);

  uint64_t add_in_flight_source(InFlightSource source);
  void remove_in_flight_source(uint64_t id) { sources_.erase(id); }

  // What SimDisk offers to tests.
  void set_faults(const std::string& prefix, DiskFaults faults);
  void clear_faults() { state_.faults.clear(); }
  int rot(const std::string& path, uint64_t offset, std::byte mask);
  void set_observer(std::function<void()> observer) { observer_ = std::move(observer); }
  void stop_after(uint64_t changes, Power how);
  void stop(Power how);
  void restart(const LossPolicy& policy);
  Power power() const { return state_.power; }
  uint64_t writes_done() const { return state_.writes_done; }
  uint64_t used_bytes(const std::string& prefix) const;
  uint64_t unsynced_writes();
  uint64_t fingerprint();

 private:
  friend struct OpenFile;
  enum class Access : uint8_t { kName, kRead, kWrite, kSync };
  struct LateWrite {
    InFlightWrite write;
    uint64_t operations_left = 0;
  };
  // All that a clone copies.
  struct State {
    explicit State(uint64_t seed) : random(seed) {}
    DiskImage image;
    Random random;
    std::map<std::string, DiskFaults> faults;
    Power power = Power::kOn;
    uint64_t writes_done = 0;
    uint64_t stop_countdown = 0;  // 0: not armed
    Power stop_how = Power::kCut;
    std::vector<LateWrite> late;
  };

  int admit(const std::string& path, Access access);
  int admit(OpenFile& file, Access access);
  std::string current_path(const OpenFile& file) const;
  int find(const std::string& path, InodeId& inode) const;
  int find_parent(const std::string& path, Place& place) const;
  bool has_room(InodeId inode, uint64_t more_bytes) const;
  // Wraps every change of content: keeps mappings coherent and counts.
  int change_content(OpenFile& file, const std::function<void(DiskImage&)>& change);
  void before_change();
  void count_change();
  void flush_mappings(InodeId inode);
  void flush_all_mappings();
  void refresh_mappings(InodeId inode);
  std::vector<InFlightWrite> in_flight() const;
  void leave_late(std::vector<InFlightWrite> writes);
  void land(const InFlightWrite& write);
  void land_late_writes(bool all_of_inode, InodeId inode);
  void closed(const OpenFile& file);
  void collect();

  State state_;
  uint64_t boot_ = 1;
  uint64_t last_file_id_ = 0;
  uint64_t last_source_id_ = 0;
  std::map<InodeId, uint64_t> open_count_;
  std::map<InodeId, uint64_t> locks_;  // holder's OpenFile::id
  std::vector<Mapping*> mappings_;
  std::map<uint64_t, InFlightSource> sources_;
  std::function<void()> observer_;
};

}  // namespace squall::sim
