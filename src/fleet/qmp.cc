#include "fleet/qmp.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <chrono>
#include <cstring>

namespace squall {

namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

constexpr size_t kLineBytesMax = 64 * 1024;

class QmpConnection {
 public:
  QmpConnection(int fd, Clock::time_point deadline) : fd_(fd), deadline_(deadline) {}
  QmpConnection(const QmpConnection&) = delete;
  QmpConnection& operator=(const QmpConnection&) = delete;
  ~QmpConnection() { ::close(fd_); }

  Result<void> connect(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path)
      return fail(ErrorKind::kInvalid, "{}: too long for a unix socket", path);
    std::memcpy(address.sun_path, path.data(), path.size());
    if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
      return fail_errno(errno, "cannot reach {}", path);
    return {};
  }

  Result<void> send(const std::string& text) {
    for (size_t at = 0; at < text.size();) {
      TRY(wait(POLLOUT));
      const ssize_t n =
          ::send(fd_, text.data() + at, text.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno != EAGAIN && errno != EINTR) return fail_errno(errno, "writing to QMP");
      if (n > 0) at += static_cast<size_t>(n);
    }
    return {};
  }

  // Lines up to one of the kind wanted; events between are passed over.
  Result<void> expect(QmpLine wanted) {
    for (;;) {
      TRY_ASSIGN(const std::string line, read_line());
      std::string error_text;
      TRY_ASSIGN(const QmpLine kind, parse_qmp_line(line, &error_text));
      if (kind == wanted) return {};
      if (kind == QmpLine::kError) return fail(ErrorKind::kIo, "QEMU refused: {}", error_text);
      if (kind != QmpLine::kEvent) return fail(ErrorKind::kCorrupt, "QMP: an answer out of order");
    }
  }

 private:
  Result<void> wait(short events) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - Clock::now());
    pollfd poll{fd_, events, 0};
    const int ready = left.count() <= 0 ? 0 : ::poll(&poll, 1, static_cast<int>(left.count()));
    if (ready < 0 && errno != EINTR) return fail_errno(errno, "waiting for QMP");
    if (ready == 0) return fail(ErrorKind::kBusy, "QMP: no answer in time");
    return {};
  }

  Result<std::string> read_line() {
    for (;;) {
      const size_t end = buffer_.find('\n');
      if (end != std::string::npos) {
        std::string line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return line;
      }
      if (buffer_.size() > kLineBytesMax) return fail(ErrorKind::kCorrupt, "QMP: endless line");
      TRY(wait(POLLIN));
      char piece[4096];
      const ssize_t n = ::recv(fd_, piece, sizeof piece, MSG_DONTWAIT);
      if (n == 0) return fail(ErrorKind::kIo, "QMP: closed by the other end");
      if (n < 0 && errno != EAGAIN && errno != EINTR) return fail_errno(errno, "reading from QMP");
      if (n > 0) buffer_.append(piece, static_cast<size_t>(n));
    }
  }

  const int fd_;
  const Clock::time_point deadline_;
  std::string buffer_;
};

}  // namespace

Result<QmpLine> parse_qmp_line(std::string_view line, std::string* error_text) {
  boost::system::error_code error;
  const json::value value = json::parse(line, error);
  if (error || !value.is_object()) return fail(ErrorKind::kCorrupt, "QMP: no JSON object");
  const json::object& object = value.get_object();
  if (object.contains("QMP")) return QmpLine::kGreeting;
  if (object.contains("return")) return QmpLine::kReturn;
  if (object.contains("event")) return QmpLine::kEvent;
  const json::value* failure = object.if_contains("error");
  if (failure == nullptr) return fail(ErrorKind::kCorrupt, "QMP: an object of no known kind");
  const json::object* details = failure->if_object();
  const json::value* text = details == nullptr ? nullptr : details->if_contains("desc");
  if (text != nullptr && text->is_string()) error_text->assign(text->get_string());
  return QmpLine::kError;
}

Result<void> qmp_execute(const std::string& socket_path, std::string_view command,
                         uint64_t timeout_ms) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return fail_errno(errno, "cannot make a socket");
  QmpConnection qmp(fd, Clock::now() + std::chrono::milliseconds(timeout_ms));
  TRY(qmp.connect(socket_path));
  TRY(qmp.expect(QmpLine::kGreeting));
  TRY(qmp.send("{\"execute\":\"qmp_capabilities\"}\n"));
  TRY(qmp.expect(QmpLine::kReturn));
  TRY(qmp.send(json::serialize(json::object{{"execute", command}}) + "\n"));
  return qmp.expect(QmpLine::kReturn);
}

}  // namespace squall
