// SimReactor: a Reactor in virtual time over simulated disks and a simulated network.
//
// Every operation takes effect at a random moment between submit and completion, in pieces where
// it is long enough, and completes after a random delay; so operations that nothing orders really
// race. All choices come from the seed: the same program with the same seed runs the same way, byte
// for byte, which trace_hash() lets a test assert.
//
// Virtual time moves only when nothing is left to do at the present moment. run_once() is false
// when nothing is pending at all: whoever still waits then waits for ever. run() returns then too.
//
// One thread: post() and stop() too must come from the thread that made the reactor. Disks are the
// test's. After a power cut or a kill, operations on that disk complete with -EIO. Destroying the
// reactor closes its handles; operations still pending never complete.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "io/reactor.h"
#include "sim/disk_operations.h"
#include "sim/event_loop.h"
#include "sim/sim_disk.h"
#include "sim/sim_file_system.h"
#include "sim/sim_network.h"

namespace squall::sim {

class SimReactor final : public Reactor {
 public:
  SimReactor(uint64_t seed, SimDisk& disk, SimTiming timing = {});
  ~SimReactor() override;
  SimReactor(const SimReactor&) = delete;
  SimReactor& operator=(const SimReactor&) = delete;

  SimFileSystem& files() { return *file_systems_.front(); }
  SimNetwork& network() { return network_; }
  // One more disk's file system on this reactor. The reactor owns it.
  SimFileSystem& mount(SimDisk& disk);

  // A hash of every event so far.
  uint64_t trace_hash() { return loop_.trace().hash(); }

  void submit(Operation& op) override;
  void cancel(Operation& op) override;
  void arm(Timer& timer, uint64_t deadline_ns) override;
  void disarm(Timer& timer) override;
  void post(std::move_only_function<void()> work) override;
  uint64_t now_ns() const override { return loop_.now_ns(); }
  int64_t wall_clock_s() const override;
  void run() override;
  bool run_once() override;
  void stop() override { stopped_ = true; }

 private:
  bool on_own_thread() const { return std::this_thread::get_id() == thread_; }

  const std::thread::id thread_ = std::this_thread::get_id();
  EventLoop loop_;
  FileTable files_;
  DiskOperations disk_operations_;
  SimNetwork network_;
  std::vector<std::unique_ptr<SimFileSystem>> file_systems_;
  std::map<uint64_t, EventLoop::Key> timers_;  // by the id that an armed timer holds
  std::deque<std::move_only_function<void()>> posted_;
  bool stopped_ = false;
};

}  // namespace squall::sim
