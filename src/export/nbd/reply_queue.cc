#include "export/nbd/reply_queue.h"

#include <algorithm>

#include "base/check.h"

namespace squall::nbd {
namespace {

constexpr size_t kBatchReplies = 128;
constexpr size_t kSendPieces = 1024;  // IOV_MAX of the kernel

// Drops the first `bytes` of `pieces`.
std::span<iovec> advance(std::span<iovec> pieces, size_t bytes) {
  while (!pieces.empty() && bytes >= pieces.front().iov_len) {
    bytes -= pieces.front().iov_len;
    pieces = pieces.subspan(1);
  }
  if (bytes > 0) {
    CHECK(!pieces.empty());
    pieces.front().iov_base = static_cast<std::byte*>(pieces.front().iov_base) + bytes;
    pieces.front().iov_len -= bytes;
  }
  return pieces;
}

}  // namespace

ReplyQueue::~ReplyQueue() {
  CHECK(!sending_);
}

void ReplyQueue::push(std::unique_ptr<Reply> reply) {
  if (failed_) return;
  queue_.push_back(std::move(reply));
  if (!corked_) start();
}

void ReplyQueue::start() {
  if (sending_ || queue_.empty()) return;
  sending_ = true;
  spawn(send_all(), [this] {
    sending_ = false;
    if (drained_) std::exchange(drained_, {}).resume();
  });
}

Task<void> ReplyQueue::send_all() {
  while (!queue_.empty()) {
    while (!queue_.empty() && batch_.size() < kBatchReplies) {
      const auto& pieces = queue_.front()->pieces;
      pieces_.insert(pieces_.end(), pieces.begin(), pieces.end());
      batch_.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    const bool sent = co_await send_batch();
    batch_.clear();
    pieces_.clear();
    if (!sent) {
      failed_ = true;
      queue_.clear();
      socket_.shut_down();
    }
  }
}

Task<bool> ReplyQueue::send_batch() {
  std::span<iovec> pieces = pieces_;
  while (!pieces.empty()) {
    const int sent = co_await socket_.send(pieces.first(std::min(pieces.size(), kSendPieces)));
    if (sent <= 0) co_return false;
    pieces = advance(pieces, static_cast<size_t>(sent));
  }
  co_return true;
}

}  // namespace squall::nbd
