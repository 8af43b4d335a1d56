// LogStore: the pool's side of durability scope `pool`: an append-only log per volume, in parts,
// that survives the loss of the writing host. It knows nothing of what the bytes mean.
//
// Each append carries its writer's epoch and is refused with kFenced once a higher one was seen, so
// that a writer that lost its lease can acknowledge nothing more. Volumes are named by their
// never-reused ids. One reactor's thread; calls for one volume run one after another, in the order
// made, so whoever has several appends waiting joins them into one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/task.h"

namespace squall {

struct LogPart {
  uint64_t epoch = 0;  // of the writer of this part
  std::vector<std::vector<std::byte>> appends;
};

class LogStore {
 public:
  virtual ~LogStore() = default;

  // Durable when it returns; begins the log when there is none. `bytes` stay the caller's until
  // then. After an error the append may or may not be found later; nothing that follows it is
  // lost by that.
  virtual Task<Result<void>> append(uint64_t volume, uint64_t epoch, ConstBytes bytes) = 0;
  // Begins a new part and returns its number: later appends lie in it or behind it, earlier ones
  // before it. Durable: from then on lower epochs are fenced.
  virtual Task<Result<uint64_t>> rotate(uint64_t volume, uint64_t epoch) = 0;
  // The numbers of a volume's parts, ascending; empty when it has no log.
  virtual Task<Result<std::vector<uint64_t>>> parts(uint64_t volume) = 0;
  // All appends of one part in order. kCorrupt when one that was acknowledged is damaged.
  virtual Task<Result<LogPart>> read(uint64_t volume, uint64_t part) = 0;
  // Deletes the parts before `part`. The newest part stays in any case: it keeps the epoch.
  virtual Task<Result<void>> drop_before(uint64_t volume, uint64_t part) = 0;
  // Deletes the whole log, the memory of its epoch included.
  virtual Task<Result<void>> remove(uint64_t volume) = 0;
  // The volumes that have a log, ascending.
  virtual Task<Result<std::vector<uint64_t>>> list() = 0;
};

}  // namespace squall
