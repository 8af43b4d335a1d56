// What a copy reads from and writes to: disks' content by offset, several transfers in flight.
// One thread drives a source, a sink and the copy between them (block_copy.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"

namespace squall {

// One read or write. The owner keeps it and its bytes alive and in place until it is done.
struct Transfer {
  uint64_t offset = 0;
  Bytes bytes{};
  bool done = false;
  int error = 0;  // an errno once done, 0 for success
};

// A run of a disk that may hold data.
struct DataRun {
  uint64_t offset = 0;
  uint64_t length = 0;
  bool operator==(const DataRun&) const = default;
};

// What to poll() for, for those that transfer in the background; fd -1: nothing to wait for.
struct PollInterest {
  int fd = -1;
  short events = 0;
};

class BlockEndpoint {
 public:
  virtual ~BlockEndpoint() = default;
  // For errors: what this is, and what is known about a failure beyond its errno (may be empty).
  virtual std::string name() const = 0;
  virtual std::string explanation() const { return {}; }
  virtual PollInterest poll_interest() = 0;
  // Makes progress after a poll; transfers that ended are marked done.
  virtual Result<void> on_poll(short revents) = 0;
  // Gives up what is in flight: nothing refers to those transfers afterwards, and the endpoint is
  // good for nothing but destruction.
  virtual void abandon() = 0;
};

class BlockSource : public BlockEndpoint {
 public:
  virtual uint64_t size_bytes() const = 0;
  // In order, not overlapping, inside the size; all else reads as zeros.
  virtual Result<std::vector<DataRun>> data_runs() = 0;
  // Starts reading; may be done when it returns. The range lies inside the size.
  virtual Result<void> start_read(Transfer& transfer) = 0;
};

class BlockSink : public BlockEndpoint {
 public:
  // Starts writing; may be done when it returns.
  virtual Result<void> start_write(Transfer& transfer) = 0;
  // Makes what was written durable; nothing is in flight.
  virtual Result<void> flush() = 0;
};

}  // namespace squall
