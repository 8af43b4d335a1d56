// Receiver: a connection's incoming byte stream through one small buffer, so that a run of small
// requests costs one receive, and a large payload goes straight to where it belongs.
#pragma once

#include <memory>

#include "base/bytes.h"
#include "base/task.h"
#include "export/nbd/socket.h"

namespace squall::nbd {

class Receiver {
 public:
  static constexpr size_t kBufferBytes = 32 * kKiB;

  explicit Receiver(Socket& socket);
  Socket& socket() { return socket_; }

  // Bytes received and not yet taken; none once receiving was stopped.
  ConstBytes buffered() const {
    return socket_.is_receiving_stopped() ? ConstBytes()
                                          : ConstBytes(&buffer_[begin_], end_ - begin_);
  }
  void consume(size_t bytes) { begin_ += bytes; }

  // False: the stream ended (or was stopped) first. fill makes `bytes` (at most kBufferBytes)
  // available in buffered(); read_into takes to.size() bytes; skip drops `bytes`.
  Task<bool> fill(size_t bytes);
  Task<bool> read_into(Bytes to);
  Task<bool> skip(uint64_t bytes);

 private:
  Task<bool> receive_more();
  size_t take(Bytes to);

  Socket& socket_;
  std::unique_ptr<std::byte[]> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

}  // namespace squall::nbd
