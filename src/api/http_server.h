// A small HTTP/1.1 server for the control API: a thread per connection, a bounded number of them,
// limits on headers, bodies and time, so that no client can hurt the daemon. It knows nothing of
// what is asked: each connection has an HttpSession that answers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/error.h"

namespace squall {

struct HttpRequest {
  std::string method;  // "GET", in capitals
  std::string target;  // path and query as sent
  std::string body;
};

struct HttpResponse {
  int status = 200;
  std::string body{};   // JSON
  std::string allow{};  // with 405: the methods that exist
};

// One connection's state. Made when a connection is accepted, destroyed when it has ended however
// it ended; used by one thread at a time.
class HttpSession {
 public:
  virtual ~HttpSession() = default;
  virtual HttpResponse handle(const HttpRequest& request) = 0;
  // True while the client's presence means something, so that idleness does not end the connection.
  virtual bool is_kept_open() const = 0;
};

class HttpServer {
 public:
  struct Limits {
    uint32_t connections = 128;
    uint32_t header_bytes = 16 * 1024;
    uint64_t body_bytes = 1024 * 1024;
    uint32_t idle_ms = 60'000;     // between requests
    uint32_t request_ms = 10'000;  // from a request's first byte to its last; for a reply alike
  };
  using MakeSession = std::function<std::unique_ptr<HttpSession>()>;

  // Serves connections accepted on `listen_handle`, a listening socket that it takes over.
  static Result<std::unique_ptr<HttpServer>> start(int listen_handle, Limits limits,
                                                   MakeSession make_session);
  virtual ~HttpServer() = default;
  // Ends every connection (requests being handled are finished and answered) and joins all threads.
  // Called once, before destruction.
  virtual void stop() = 0;
};

}  // namespace squall
