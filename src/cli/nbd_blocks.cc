#include "cli/nbd_blocks.h"

#include <libnbd.h>
#include <poll.h>

#include <algorithm>
#include <array>

#include "base/check.h"
#include "cli/interrupt.h"

namespace squall {

namespace {

constexpr uint32_t kStateZero = LIBNBD_STATE_ZERO;
// One block-status request asks for no more than what 32 bits hold, aligned for every server.
constexpr uint64_t kStatusBytesMax = 4 * kGiB - kMiB;

nbd_completion_callback completion_of(Transfer& transfer) {
  return {.callback =
              [](void* user_data, int* error) {
                auto& done = *static_cast<Transfer*>(user_data);
                done.error = *error;
                done.done = true;
                return 1;  // the command may be forgotten
              },
          .user_data = &transfer,
          .free = nullptr};
}

struct StatusReply {
  uint64_t begin = 0;
  uint64_t end = 0;
  std::vector<DataRun>& runs;
};

// Adds the extents of one reply that are not known to be zeros.
int add_extents(void* user_data, const char* context, uint64_t offset, uint32_t* entries,
                size_t count, int*) {
  auto& reply = *static_cast<StatusReply*>(user_data);
  if (std::string_view(context) != LIBNBD_CONTEXT_BASE_ALLOCATION) return 0;
  for (size_t i = 0; i + 1 < count && offset < reply.end; i += 2) {
    const uint64_t length = std::min<uint64_t>(entries[i], reply.end - offset);
    if ((entries[i + 1] & kStateZero) == 0) {
      if (!reply.runs.empty() && reply.runs.back().offset + reply.runs.back().length == offset) {
        reply.runs.back().length += length;
      } else {
        reply.runs.push_back({offset, length});
      }
    }
    offset += length;
  }
  reply.begin = offset;
  return 0;
}

}  // namespace

std::unexpected<Error> NbdBlocks::error(std::string_view operation) const {
  const char* text = ::nbd_get_error();
  const int code = ::nbd_get_errno();
  return std::unexpected(Error(
      Error::from_errno(code == 0 ? EIO : code, "").kind(),
      fmt::format("{} {}: {}", operation, name_, text == nullptr ? "no reason given" : text)));
}

Result<std::unique_ptr<NbdBlocks>> NbdBlocks::connect(const std::string& socket_path,
                                                      const std::string& export_name,
                                                      std::string name) {
  nbd_handle* handle = ::nbd_create();
  if (handle == nullptr) return fail(ErrorKind::kInternal, "cannot make an NBD handle");
  std::unique_ptr<NbdBlocks> blocks(new NbdBlocks(handle, std::move(name)));
  if (::nbd_set_export_name(handle, export_name.c_str()) != 0 ||
      ::nbd_add_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 ||
      ::nbd_aio_connect_unix(handle, socket_path.c_str()) != 0) {
    return blocks->error("connecting to");
  }
  TRY(blocks->progress_until([handle] { return ::nbd_aio_is_ready(handle) == 1; }));
  const int64_t size = ::nbd_get_size(handle);
  if (size < 0) return blocks->error("asking for the size of");
  blocks->size_bytes_ = static_cast<uint64_t>(size);
  return blocks;
}

NbdBlocks::~NbdBlocks() {
  abandon();
}

void NbdBlocks::abandon() {
  if (handle_ != nullptr) ::nbd_close(handle_);
  handle_ = nullptr;
}

Result<std::vector<DataRun>> NbdBlocks::data_runs() {
  if (::nbd_can_meta_context(handle_, LIBNBD_CONTEXT_BASE_ALLOCATION) != 1) {
    return std::vector<DataRun>{{0, size_bytes_}};
  }
  std::vector<DataRun> runs;
  StatusReply reply{0, size_bytes_, runs};
  while (reply.begin < size_bytes_) {
    const uint64_t begin = reply.begin;
    const nbd_extent_callback callback{
        .callback = add_extents, .user_data = &reply, .free = nullptr};
    Transfer transfer{.offset = begin};
    if (::nbd_aio_block_status(handle_, std::min(kStatusBytesMax, size_bytes_ - begin), begin,
                               callback, completion_of(transfer), 0) < 0) {
      return error("asking for the allocation of");
    }
    TRY(finish(transfer, "asking for the allocation of"));
    if (reply.begin == begin) {
      return fail(ErrorKind::kIo, "the server of {} describes no extent at offset {}", name_,
                  begin);
    }
  }
  return runs;
}

Result<void> NbdBlocks::start_read(Transfer& transfer) {
  CHECK(!transfer.done);
  if (::nbd_aio_pread(handle_, transfer.bytes.data(), transfer.bytes.size(), transfer.offset,
                      completion_of(transfer), 0) < 0) {
    return error("reading");
  }
  return {};
}

Result<void> NbdBlocks::start_write(Transfer& transfer) {
  CHECK(!transfer.done);
  if (::nbd_aio_pwrite(handle_, transfer.bytes.data(), transfer.bytes.size(), transfer.offset,
                       completion_of(transfer), 0) < 0) {
    return error("writing");
  }
  return {};
}

Result<void> NbdBlocks::flush() {
  if (::nbd_can_flush(handle_) != 1) return {};
  Transfer transfer;
  if (::nbd_aio_flush(handle_, completion_of(transfer), 0) < 0) return error("flushing");
  return finish(transfer, "flushing");
}

Result<void> NbdBlocks::disconnect() {
  if (::nbd_shutdown(handle_, 0) != 0) return error("closing");
  abandon();
  return {};
}

PollInterest NbdBlocks::poll_interest() {
  const unsigned direction = ::nbd_aio_get_direction(handle_);
  short events = 0;
  if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) events |= POLLIN;
  if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) events |= POLLOUT;
  return {::nbd_aio_get_fd(handle_), events};
}

Result<void> NbdBlocks::on_poll(short revents) {
  // libnbd wants exactly the notification that poll() gave: told to read when nothing is there, it
  // waits in the middle of a reply and sends nothing any more.
  const unsigned direction = ::nbd_aio_get_direction(handle_);
  int result = 0;
  if ((revents & (POLLIN | POLLHUP | POLLERR)) != 0 &&
      (direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
    result = ::nbd_aio_notify_read(handle_);
  } else if ((revents & (POLLOUT | POLLERR)) != 0 &&
             (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
    result = ::nbd_aio_notify_write(handle_);
  }
  if (result != 0) return error("talking to");
  if (::nbd_aio_is_dead(handle_) == 1 || ::nbd_aio_is_closed(handle_) == 1) {
    return fail(ErrorKind::kIo, "the server of {} closed the connection", name_);
  }
  return {};
}

template <class Done>
Result<void> NbdBlocks::progress_until(Done is_done) {
  while (!is_done()) {
    const PollInterest interest = poll_interest();
    std::array<pollfd, 1> fds{{{interest.fd, interest.events, 0}}};
    TRY(poll_interruptibly(fds));
    TRY(on_poll(fds[0].revents));
  }
  return {};
}

Result<void> NbdBlocks::finish(Transfer& transfer, std::string_view operation) {
  Result<void> progressed = progress_until([&] { return transfer.done; });
  // Until then libnbd would write to the caller's transfer.
  if (!progressed) abandon();
  TRY(std::move(progressed));
  if (transfer.error != 0) return fail_errno(transfer.error, "{} {}", operation, name_);
  return {};
}

}  // namespace squall
