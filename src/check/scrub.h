// Scrub: verifies the sealed segments of a pool in the background, one after the other, at a low
// rate, pass after pass. Where it is survives restarts in the catalog (partition "pool", key
// "scrub": next segment, pass began, last pass ended; decimal numbers). What it finds is looked up
// in the volumes as a check does, logged, and kept for status().
//
// One reactor's thread; stop() before destruction; what `target` names outlives it.
#pragma once

#include <coroutine>

#include "check/damage.h"
#include "check/pool_check.h"
#include "io/gate.h"

namespace squall {

struct ScrubConfig {
  uint64_t rate_bytes_per_s = 8 * kMiB;  // 0: off
  uint64_t interval_days = 30;           // between the beginnings of two passes
};

struct ScrubStatus {
  bool enabled = false;
  bool running = false;     // a pass is under way
  uint64_t percent = 0;     // of it
  int64_t began_s = 0;      // this pass, or the last one; 0: never
  int64_t ended_s = 0;      // the last whole pass; 0: never
  uint64_t read_bytes = 0;  // since the daemon started, as are the faults
  uint64_t faults = 0;
  std::vector<std::string> lines;  // the first of them
};

class Scrub {
 public:
  Scrub(CheckTarget target, ScrubConfig config);
  ~Scrub();

  // Goes on where the last daemon was.
  void start();
  ScrubStatus status() const;
  Task<void> stop();

 private:
  // What the catalog keeps.
  struct Position {
    SegmentId next = 0;  // 0: no pass is under way
    int64_t began_s = 0;
    int64_t ended_s = 0;
  };

  Task<void> run();
  Task<Result<void>> load();
  Task<Result<void>> save();
  Task<Result<void>> run_pass();
  Task<Result<void>> check_segment(SegmentInfo segment);
  void report(const Fault& fault);
  bool is_due() const;
  Task<void> sleep(uint64_t duration_ns);
  void wake();

  CheckTarget target_;
  const ScrubConfig config_;
  Pacer pacer_;
  SegmentChecker checker_;
  Position position_;
  ScrubStatus status_;
  bool stopping_ = false;
  Timer timer_;
  std::coroutine_handle<> sleeper_;
  Gate gate_;
};

}  // namespace squall
