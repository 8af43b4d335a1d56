// FdStream: a connected socket as the synchronous stream that Boost.Beast reads and writes, with
// deadlines and a stop signal, which Asio's blocking sockets lack. For http_server.cc and client.cc
// only (it pulls in Asio's buffers). One thread.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <chrono>
#include <optional>

namespace squall::internal {

class FdStream {
 public:
  using Clock = std::chrono::steady_clock;

  // Takes `fd`. `stop_fd`, when readable, ends reads (-1: none).
  explicit FdStream(int fd, int stop_fd = -1) : fd_(fd), stop_fd_(stop_fd) {}
  ~FdStream() { ::close(fd_); }
  FdStream(const FdStream&) = delete;
  FdStream& operator=(const FdStream&) = delete;

  void set_deadline(std::optional<Clock::time_point> deadline) { deadline_ = deadline; }

  // Waits until there is something to read or the other end has closed.
  bool wait_readable(boost::system::error_code& error) { return wait(POLLIN, stop_fd_, error); }

  template <class MutableBuffers>
  size_t read_some(const MutableBuffers& buffers, boost::system::error_code& error) {
    iovec iov = first_buffer<boost::asio::mutable_buffer>(buffers);
    if (iov.iov_len == 0 || !wait(POLLIN, stop_fd_, error)) return 0;
    const ssize_t n = ::recv(fd_, iov.iov_base, iov.iov_len, 0);
    if (n == 0) error = boost::asio::error::eof;
    return done(n, error);
  }
  template <class ConstBuffers>
  size_t write_some(const ConstBuffers& buffers, boost::system::error_code& error) {
    iovec iov = first_buffer<boost::asio::const_buffer>(buffers);
    if (iov.iov_len == 0 || !wait(POLLOUT, -1, error)) return 0;
    return done(::send(fd_, iov.iov_base, iov.iov_len, MSG_NOSIGNAL | MSG_DONTWAIT), error);
  }
  // Beast's stream concept wants the throwing forms to exist; nothing here calls them.
  template <class MutableBuffers>
  size_t read_some(const MutableBuffers& buffers) {
    boost::system::error_code error;
    const size_t n = read_some(buffers, error);
    if (error) throw boost::system::system_error(error);
    return n;
  }
  template <class ConstBuffers>
  size_t write_some(const ConstBuffers& buffers) {
    boost::system::error_code error;
    const size_t n = write_some(buffers, error);
    if (error) throw boost::system::system_error(error);
    return n;
  }

 private:
  template <class Buffer, class Buffers>
  static iovec first_buffer(const Buffers& buffers) {
    for (auto it = boost::asio::buffer_sequence_begin(buffers);
         it != boost::asio::buffer_sequence_end(buffers); ++it) {
      const Buffer buffer(*it);
      if (buffer.size() > 0)
        return {const_cast<void*>(static_cast<const void*>(buffer.data())), buffer.size()};
    }
    return {};
  }

  size_t done(ssize_t n, boost::system::error_code& error) {
    if (n >= 0) return static_cast<size_t>(n);
    // Spurious readiness: an empty transfer makes the caller try again.
    if (errno != EAGAIN && errno != EINTR) {
      error.assign(errno, boost::system::system_category());
    }
    return 0;
  }

  bool wait(short events, int stop_fd, boost::system::error_code& error) {
    error = {};
    for (;;) {
      int timeout_ms = -1;
      if (deadline_) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline_ - Clock::now());
        timeout_ms = static_cast<int>(std::max<int64_t>(left.count(), 0));
      }
      std::array<pollfd, 2> fds{{{fd_, events, 0}, {stop_fd, POLLIN, 0}}};
      const int ready = ::poll(fds.data(), stop_fd < 0 ? 1 : 2, timeout_ms);
      if (ready < 0 && errno == EINTR) continue;
      if (ready < 0) error.assign(errno, boost::system::system_category());
      if (ready == 0) error = boost::asio::error::timed_out;
      if (ready > 0 && fds[1].revents != 0) error = boost::asio::error::operation_aborted;
      return !error;
    }
  }

  const int fd_;
  const int stop_fd_;
  std::optional<Clock::time_point> deadline_;
};

}  // namespace squall::internal
