// Control requests are few and handlers wait for the reactor, so a blocking thread per connection
// is the simplest thing that works; the connections' number is bounded. Every wait is a poll() with
// a deadline and the server's stop event, hence no thread can hang.
#include "api/http_server.h"

#include <sys/eventfd.h>

#include <atomic>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <list>
#include <thread>

#include "api/http_stream.h"
#include "api/types.h"
#include "api/wire.h"
#include "base/log.h"

namespace squall {

namespace beast = boost::beast;
namespace http = boost::beast::http;

namespace {

HttpResponse protocol_error(int status, std::string message) {
  return {status, wire::encode(ErrorBody{"invalid", std::move(message)})};
}

class Server : public HttpServer {
 public:
  Server(int listen_handle, int stop_fd, Limits limits, MakeSession make_session)
      : listen_handle_(listen_handle),
        stop_fd_(stop_fd),
        limits_(limits),
        make_session_(std::move(make_session)),
        acceptor_([this] { accept_all(); }) {}
  ~Server() override { CHECK(!acceptor_.joinable()); }

  void stop() override {
    CHECK(::eventfd_write(stop_fd_, 1) == 0);
    acceptor_.join();
    connections_.clear();  // joins
    ::close(stop_fd_);
    ::close(listen_handle_);
  }

 private:
  struct Connection {
    std::atomic<bool> ended = false;
    std::jthread thread;  // last: joined before `ended` goes away
  };
  using Stream = internal::FdStream;

  static Stream::Clock::time_point after_ms(uint32_t ms) {
    return Stream::Clock::now() + std::chrono::milliseconds(ms);
  }

  void accept_all() {
    for (;;) {
      std::array<pollfd, 2> fds{{{listen_handle_, POLLIN, 0}, {stop_fd_, POLLIN, 0}}};
      if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return;
      if (fds[1].revents != 0) return;
      if (fds[0].revents == 0) continue;
      const int fd = ::accept4(listen_handle_, nullptr, nullptr, SOCK_CLOEXEC);
      std::erase_if(connections_, [](const Connection& c) { return c.ended.load(); });
      if (fd >= 0) {
        start_connection(fd);
      } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
        // The connection stays in the backlog; try again when something may have been freed.
        LOG_WARN("api: cannot accept a connection: {}", std::strerror(errno));
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      }
    }
  }

  void start_connection(int fd) {
    if (connections_.size() >= limits_.connections) {
      Stream stream(fd);
      stream.set_deadline(Stream::Clock::now());
      send(stream, {503, wire::encode(ErrorBody{"busy", "too many control connections"})}, false);
      return;
    }
    Connection& connection = connections_.emplace_back();
    connection.thread = std::jthread([this, fd, &connection] {
      serve(fd);
      connection.ended = true;
    });
  }

  void serve(int fd) {
    Stream stream(fd, stop_fd_);
    try {
      const std::unique_ptr<HttpSession> session = make_session_();
      beast::flat_buffer buffer(limits_.header_bytes + limits_.body_bytes);
      while (serve_request(stream, buffer, *session)) {
      }
    } catch (const std::exception& e) {
      LOG_ERROR("api: a control connection ended by an exception: {}", e.what());
    }
  }

  // Reads, handles and answers one request; false when the connection is to be closed.
  bool serve_request(Stream& stream, beast::flat_buffer& buffer, HttpSession& session) {
    boost::system::error_code error;
    if (buffer.size() == 0) {
      stream.set_deadline(session.is_kept_open() ? std::nullopt
                                                 : std::optional(after_ms(limits_.idle_ms)));
      if (!stream.wait_readable(error)) return false;
    }
    stream.set_deadline(after_ms(limits_.request_ms));
    http::request_parser<http::string_body> parser;
    parser.header_limit(limits_.header_bytes);
    parser.body_limit(limits_.body_bytes);
    http::read(stream, buffer, parser, error);
    if (error) {
      refuse(stream, error);
      return false;
    }
    auto message = parser.release();
    const HttpRequest request{std::string(message.method_string()), std::string(message.target()),
                              std::move(message.body())};
    const HttpResponse response = session.handle(request);
    stream.set_deadline(after_ms(limits_.request_ms));
    return send(stream, response, message.keep_alive());
  }

  void refuse(Stream& stream, const boost::system::error_code& error) {
    if (error == http::error::body_limit) {
      send(stream, protocol_error(413, "request body too large"), false);
    } else if (error == http::error::header_limit || error == http::error::buffer_overflow) {
      send(stream, protocol_error(431, "request headers too large"), false);
    } else if (error.category() == http::make_error_code(http::error::bad_method).category() &&
               error != http::error::end_of_stream && error != http::error::partial_message) {
      send(stream, protocol_error(400, "not HTTP: " + error.message()), false);
    }
  }

  bool send(Stream& stream, const HttpResponse& from, bool keep_alive) {
    http::response<http::string_body> response(static_cast<http::status>(from.status), 11);
    response.set(http::field::server, "squalld");
    response.set(http::field::content_type, "application/json");
    if (!from.allow.empty()) response.set(http::field::allow, from.allow);
    response.keep_alive(keep_alive);
    response.body() = from.body;
    response.prepare_payload();
    boost::system::error_code error;
    http::write(stream, response, error);
    return !error && keep_alive;
  }

  const int listen_handle_;
  const int stop_fd_;
  const Limits limits_;
  const MakeSession make_session_;
  std::list<Connection> connections_;  // the acceptor's; stop()'s once that has ended
  std::thread acceptor_;               // last: starts when all else is there
};

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::start(int listen_handle, Limits limits,
                                                      MakeSession make_session) {
  const int stop_fd = ::eventfd(0, EFD_CLOEXEC);
  if (stop_fd < 0) return fail_errno(errno, "cannot make the control server's stop event");
  return std::make_unique<Server>(listen_handle, stop_fd, limits, std::move(make_session));
}

}  // namespace squall
