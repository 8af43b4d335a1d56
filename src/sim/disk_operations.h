// DiskOperations: the file half of SimReactor: takes reads, writes, syncs and punches through their
// lives: cut into pieces, each piece lands at a moment of its own, then the whole completes.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "io/reactor.h"
#include "sim/disk_core.h"
#include "sim/event_loop.h"
#include "sim/sim_disk.h"
#include "sim/sim_file_system.h"

namespace squall::sim {

// Bounds of the random delays, from submit to effect and from effect to completion each.
struct SimTiming {
  uint64_t disk_ns_min = 2'000;
  uint64_t disk_ns_max = 100'000;
  uint64_t sync_ns_max = 1'000'000;
};

class DiskOperations {
 public:
  DiskOperations(EventLoop& loop, FileTable& files, SimTiming timing)
      : loop_(loop), files_(files), timing_(timing) {}
  ~DiskOperations();
  DiskOperations(const DiskOperations&) = delete;
  DiskOperations& operator=(const DiskOperations&) = delete;

  // Lets a kill of this disk's process ask what is in flight.
  void watch(const std::shared_ptr<DiskCore>& core);
  void submit(Operation& op);
  // False when the operation is none of this object's.
  bool cancel(Operation& op);

 private:
  using OpId = uint64_t;
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

  uint64_t delay(const DiskOp& disk_op);
  void cut_into_pieces(DiskOp& disk_op);
  void land(OpId id, size_t index);
  int64_t apply(DiskOp& disk_op, const Piece& piece);
  void finish(OpId id);
  void report_in_flight(const DiskCore* core, std::vector<InFlightWrite>& writes) const;

  EventLoop& loop_;
  FileTable& files_;
  const SimTiming timing_;
  std::map<OpId, DiskOp> ops_;
  std::vector<std::pair<std::shared_ptr<DiskCore>, uint64_t>> watched_;
};

}  // namespace squall::sim
