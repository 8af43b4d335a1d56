// ReplyQueue: sends the replies of one connection, one send at a time; replies that pile up
// meanwhile go out together in the next one. One reactor's thread.
#pragma once

#include <boost/container/small_vector.hpp>
#include <coroutine>
#include <deque>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "base/task.h"
#include "export/budget.h"
#include "export/nbd/socket.h"

namespace squall::nbd {

// One reply and what it holds until it is sent. `pieces` point into `headers` and `data`, in the
// order of the wire; headers are complete before pieces are made, since they may move in memory.
struct Reply {
  boost::container::small_vector<std::byte, 64> headers;
  std::unique_ptr<std::byte[]> data;
  boost::container::small_vector<iovec, 2> pieces;
  Budget::Lease slot;
  Budget::Lease connection_bytes;
  Budget::Lease global_bytes;

  Bytes extend_headers(size_t bytes) {
    headers.resize(headers.size() + bytes);
    return Bytes(headers.data(), headers.size()).last(bytes);
  }
  void add_piece(const std::byte* at, size_t bytes) {
    pieces.push_back({const_cast<std::byte*>(at), bytes});
  }
};

class ReplyQueue {
 public:
  explicit ReplyQueue(Socket& socket) : socket_(socket) {}
  ~ReplyQueue();
  ReplyQueue(const ReplyQueue&) = delete;
  ReplyQueue& operator=(const ReplyQueue&) = delete;

  // Queues; sends at once unless corked. After a failed send the socket is shut down and replies
  // are dropped.
  void push(std::unique_ptr<Reply> reply);
  // While corked, replies gather: the reader corks as long as it has further requests at hand.
  void cork() { corked_ = true; }
  void uncork() {
    corked_ = false;
    start();
  }
  // Ends when everything pushed has been sent or dropped. One caller, after the last push.
  auto drain() {
    struct Awaiter {
      ReplyQueue& queue;
      bool await_ready() const noexcept { return !queue.sending_; }
      void await_suspend(std::coroutine_handle<> h) noexcept { queue.drained_ = h; }
      void await_resume() const noexcept {}
    };
    uncork();
    return Awaiter{*this};
  }

 private:
  void start();
  Task<void> send_all();
  Task<bool> send_batch();

  Socket& socket_;
  std::deque<std::unique_ptr<Reply>> queue_;
  std::vector<std::unique_ptr<Reply>> batch_;  // being sent
  std::vector<iovec> pieces_;
  bool corked_ = false;
  bool sending_ = false;
  bool failed_ = false;
  std::coroutine_handle<> drained_;
};

}  // namespace squall::nbd
