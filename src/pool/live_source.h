// LiveSource: what garbage collection wants of those who refer to a pool's records. The pool knows
// neither index nor volumes; whoever does implements this.
#pragma once

#include <cstdint>
#include <functional>

#include "base/error.h"
#include "base/task.h"
#include "pool/marks.h"
#include "pool/pacer.h"

namespace squall {

class LiveSource {
 public:
  virtual ~LiveSource() = default;

  // Marks every record that is reachable. What is reachable is taken before the first suspension:
  // everything that is published from then on comes from it, from records appended later, or from
  // deduplication hits that set marks. Calls `pacer` often; tells
  // `progress` how many of how many parts are done. After an error the marks are not complete.
  using Progress = std::function<void(uint64_t done, uint64_t all)>;
  virtual Task<Result<void>> mark_live(Marks& marks, Pacer& pacer, const Progress& progress) = 0;

  // Copies the records that `leaves` names to new places, in as many trees as possible, and has the
  // trees refer to those instead. Returns how many bytes were written. The old places are left for
  // the next collection, which alone knows whether something still refers to them.
  using Leaves = std::function<bool(Address)>;
  virtual Task<Result<uint64_t>> relocate(Leaves leaves, Pacer& pacer,
                                          const Progress& progress) = 0;

  // How many images, volumes and snapshots have been removed since the start.
  virtual uint64_t removals() const = 0;
};

}  // namespace squall
