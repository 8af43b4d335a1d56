// SimReactor: a Reactor in virtual time over simulated disks and a simulated network.
//
// Every operation takes effect at a random moment between submit and completion, in pieces where
// it is long enough, and completes after a random delay; so operations that nothing orders really
// race. All choices come from the seed: the same program with the same seed runs the same way, byte
// for byte, which trace_hash() lets a test assert.
//
// Virtual time moves only when nothing is left to do at the present moment. run_once() is false
// when nothing is pending at all: whoever still waits then waits for ever.
//
// One thread: post() and stop() too must come from the thread that made the reactor. Disks are the
// test's and outlive the reactor. After a power cut or a kill, operations on that disk complete
// with -EIO. Destroying the reactor closes its handles; operations still pending never complete.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "base/random.h"
#include "io/reactor.h"
#include "sim/sim_disk.h"
#include "sim/sim_file_system.h"
#include "sim/trace.h"

namespace squall::sim {

// Bounds of the random delays, from submit to effect and from effect to completion each.
struct SimTiming {
  uint64_t disk_ns_min = 2'000;
  uint64_t disk_ns_max = 100'000;
  uint64_t sync_ns_max = 1'000'000;
};

class SimReactor final : public Reactor {
 public:
  SimReactor(uint64_t seed, SimDisk& disk, SimTiming timing = {});
  ~SimReactor() override;
  SimReactor(const SimReactor&) = delete;
  SimReactor& operator=(const SimReactor&) = delete;

  SimFileSystem& files() { return *file_systems_.front(); }
  // One more disk's file system on this reactor. The reactor owns it.
  SimFileSystem& mount(SimDisk& disk);

  // A hash of every event so far.
  uint64_t trace_hash() const { return trace_.hash(); }

  void submit(Operation& op) override;
  void cancel(Operation& op) override;
  void arm(Timer& timer, uint64_t deadline_ns) override;
  void disarm(Timer& timer) override;
  void post(std::move_only_function<void()> work) override;
  uint64_t now_ns() const override { return now_ns_; }
  int64_t wall_clock_s() const override;
  void run() override;
  bool run_once() override;
  void stop() override { stopped_ = true; }

 private:
  using OpId = uint64_t;
  // Order of events: by time, at equal times at random, and never by address.
  struct EventKey {
    uint64_t time_ns;
    uint64_t order;
    uint64_t id;
    auto operator<=>(const EventKey&) const = default;
  };
  // A contiguous part of an operation that takes effect at one moment.
  struct Piece {
    uint64_t begin = 0;  // within the operation
    uint64_t length = 0;
    bool landed = false;
    int64_t result = 0;
  };
  struct DiskOp {
    Operation* op = nullptr;
    OpenFileRef file;
    std::vector<Piece> pieces;
    size_t pieces_left = 0;
    uint64_t sync_mark = 0;
  };

  EventKey schedule(uint64_t delay_ns, std::move_only_function<void()> work);
  void complete_later(Operation& op, uint64_t delay_ns, int result);
  void complete(Operation& op, int result);
  uint64_t disk_delay(const DiskOp& disk_op);
  void submit_to_disk(Operation& op, OpId id);
  void cut_into_pieces(DiskOp& disk_op);
  void land(OpId id, size_t piece);
  int64_t apply(DiskOp& disk_op, Piece& piece);
  void finish(OpId id);
  void watch(SimDisk& disk);
  void report_in_flight(const DiskCore* core, std::vector<InFlightWrite>& writes) const;
  bool on_own_thread() const { return std::this_thread::get_id() == thread_; }

  const std::thread::id thread_ = std::this_thread::get_id();
  const SimTiming timing_;
  Random random_;
  Trace trace_;
  uint64_t now_ns_ = 0;
  uint64_t last_id_ = 0;
  bool stopped_ = false;
  std::map<EventKey, std::move_only_function<void()>> events_;
  std::map<uint64_t, EventKey> timers_;  // by the id that an armed timer holds
  std::deque<std::move_only_function<void()>> posted_;
  std::map<OpId, DiskOp> disk_ops_;
  FileTable table_;
  std::vector<std::pair<std::shared_ptr<DiskCore>, uint64_t>> watched_;
  std::vector<std::unique_ptr<SimFileSystem>> file_systems_;
};

}  // namespace squall::sim
