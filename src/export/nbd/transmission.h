// Transmission: serves the requests of one connection after its handshake. One reader takes
// requests off the stream and starts each as a task of its own; replies go out as they come, in
// any order. Requests in flight are bounded by number and by bytes, per connection and in all.
#pragma once

#include <memory>
#include <string_view>

#include "base/task.h"
#include "export/nbd/context.h"
#include "export/nbd/receiver.h"
#include "export/nbd/reply_queue.h"
#include "format/nbd.h"
#include "io/gate.h"

namespace squall::nbd {

// What a connection has done so far.
struct TransmissionCounters {
  uint64_t requests = 0;
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
};

class Transmission {
 public:
  // All of them outlive run().
  Transmission(const Context& context, Receiver& receiver, const Session& session);

  // Ends when the client has left (or the socket was shut down or its receiving stopped) and
  // nothing is in flight: no disk operation, no reply.
  Task<void> run();
  const TransmissionCounters& counters() const { return counters_; }

 private:
  // A request being served. Its reply carries what it holds until that is sent.
  struct InFlight {
    Request request;
    std::unique_ptr<Reply> reply;
    Gate::Pass pass;
  };
  // Why a request is refused; kOk and empty when it is not.
  struct Refusal {
    WireError error = WireError::kOk;
    std::string_view message;
  };

  Task<bool> next_request();
  Task<std::unique_ptr<Reply>> reserve(uint64_t bytes);
  Task<bool> skip_payload(uint64_t bytes);
  Task<bool> start_write(const Request& request);
  Refusal check(const Request& request) const;
  Refusal check_flags(const Request& request) const;
  Refusal check_range(const Request& request) const;
  uint64_t reply_bytes(const Request& request) const;

  Task<void> serve(InFlight flight);
  Task<Result<void>> read(const Request& request, Reply& reply);
  Task<Result<void>> read_structured(const Request& request, Reply& reply);
  Task<Result<void>> block_status(const Request& request, Reply& reply);
  Task<Result<void>> modify(const Request& request, const Reply& reply);
  void finish(const Request& request, std::unique_ptr<Reply> reply, const Result<void>& result);
  void fill_error(Reply& reply, const Request& request, WireError error, std::string_view message);

  const Context& context_;
  Receiver& receiver_;
  const Session& session_;
  Budget slots_;
  Budget bytes_;
  ReplyQueue replies_;
  Gate gate_;
  TransmissionCounters counters_;
};

}  // namespace squall::nbd
