#include "export/nbd/receiver.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"

namespace squall::nbd {

Receiver::Receiver(Socket& socket)
    : socket_(socket), buffer_(std::make_unique_for_overwrite<std::byte[]>(kBufferBytes)) {}

Task<bool> Receiver::receive_more() {
  if (socket_.is_receiving_stopped()) co_return false;  // what is left in the buffer does not count
  if (begin_ == end_) begin_ = end_ = 0;
  CHECK(end_ < kBufferBytes);
  const iovec iov{&buffer_[end_], kBufferBytes - end_};
  const int received = co_await socket_.receive({&iov, 1});
  if (received <= 0) co_return false;
  end_ += static_cast<size_t>(received);
  co_return true;
}

Task<bool> Receiver::fill(size_t bytes) {
  CHECK(bytes <= kBufferBytes);
  if (begin_ + bytes > kBufferBytes) {
    std::memmove(&buffer_[0], &buffer_[begin_], end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  while (buffered().size() < bytes) {
    // Half a header obliges the client; between requests it may be silent as long as it likes.
    socket_.set_expecting(begin_ != end_);
    const bool more = co_await receive_more();
    socket_.set_expecting(false);
    if (!more) co_return false;
  }
  co_return true;
}

size_t Receiver::take(Bytes to) {
  const size_t bytes = std::min(to.size(), buffered().size());
  if (bytes == 0) return 0;
  std::memcpy(to.data(), buffered().data(), bytes);
  consume(bytes);
  return bytes;
}

Task<bool> Receiver::read_into(Bytes to) {
  to = to.subspan(take(to));
  while (!to.empty()) {
    // What follows the payload lands in the buffer by the same receive.
    begin_ = end_ = 0;
    const std::array<iovec, 2> iov{iovec{to.data(), to.size()}, iovec{&buffer_[0], kBufferBytes}};
    socket_.set_expecting(true);
    const int received = co_await socket_.receive(iov);
    socket_.set_expecting(false);
    if (received <= 0) co_return false;
    const size_t payload = std::min(to.size(), static_cast<size_t>(received));
    end_ = static_cast<size_t>(received) - payload;
    to = to.subspan(payload);
  }
  co_return true;
}

Task<bool> Receiver::skip(uint64_t bytes) {
  while (true) {
    const size_t now = std::min<uint64_t>(bytes, buffered().size());
    consume(now);
    bytes -= now;
    if (bytes == 0) co_return true;
    socket_.set_expecting(true);
    const bool more = co_await receive_more();
    socket_.set_expecting(false);
    if (!more) co_return false;
  }
}

}  // namespace squall::nbd
