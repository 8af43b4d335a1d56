// What hostile clients send: each gets an HTTP error or a closed connection, and the server goes
// on.
#include "api/http_server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>

#include "api/client.h"
#include "api/test_control_server.h"
#include "base/random.h"

namespace squall {
namespace {

class HttpLimits : public ::testing::Test {
 protected:
  static HttpServer::Limits limits() {
    return {.connections = 4,
            .header_bytes = 1024,
            .body_bytes = 4096,
            .idle_ms = 300,
            .request_ms = 300};
  }

  int connect() const {
    return PosixNetwork().connect({.unix_path = server_.socket_path()}).value();
  }

  // Sends bytes and returns everything that comes until the server closes.
  std::string exchange(std::string_view bytes, bool then_shut = true) const {
    const int fd = connect();
    // The server may close before it has read all of it.
    size_t sent = 0;
    while (sent < bytes.size()) {
      const ssize_t n = ::send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) break;
      sent += static_cast<size_t>(n);
    }
    if (then_shut) ::shutdown(fd, SHUT_WR);
    std::string reply;
    char buffer[4096];
    for (ssize_t n; (n = ::recv(fd, buffer, sizeof buffer, 0)) > 0;) {
      reply.append(buffer, static_cast<size_t>(n));
    }
    ::close(fd);
    return reply;
  }

  void expect_alive() const {
    auto client = Client::connect(server_.socket_path());
    ASSERT_TRUE(client);
    const auto volumes = client->list_volumes();
    EXPECT_TRUE(volumes) << volumes.error().message();
  }

  TestControlServer server_{limits()};
};

bool has_status(const std::string& reply, int status) {
  return reply.starts_with("HTTP/1.1 " + std::to_string(status));
}

TEST_F(HttpLimits, KeepsAliveAndAnswersInOrder) {
  const std::string reply = exchange(
      "GET /v1/volumes HTTP/1.1\r\nHost: x\r\n\r\n"
      "GET /v1/none HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(has_status(reply, 200));
  EXPECT_NE(reply.find("HTTP/1.1 404"), std::string::npos);
}

TEST_F(HttpLimits, RefusesWhatIsNotHttp) {
  EXPECT_TRUE(has_status(exchange("hello\r\n\r\n"), 400));
  EXPECT_TRUE(has_status(exchange(std::string(64, '\0')), 400));
  EXPECT_EQ(exchange(""), "");
  EXPECT_EQ(exchange("GET /v1/vol"), "");
  expect_alive();
}

TEST_F(HttpLimits, RefusesTooMuch) {
  const std::string headers(2000, 'a');
  EXPECT_TRUE(has_status(exchange("GET / HTTP/1.1\r\nX: " + headers + "\r\n\r\n"), 431));
  EXPECT_TRUE(has_status(
      exchange("POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n"), 413));
  EXPECT_TRUE(has_status(
      exchange("POST /v1/volumes HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n"),
      400));
  expect_alive();
}

TEST_F(HttpLimits, ClosesTheSilentAndTheSlow) {
  EXPECT_EQ(exchange("", false), "");
  EXPECT_EQ(exchange("POST /v1/volumes HTTP/1.1\r\nContent-Length: 10\r\n\r\n{", false), "");
  expect_alive();
}

TEST_F(HttpLimits, BoundsTheNumberOfConnections) {
  const std::array held = {connect(), connect(), connect(), connect()};
  ::usleep(50'000);
  EXPECT_TRUE(has_status(exchange("", false), 503));
  for (const int fd : held) ::close(fd);
  ::usleep(100'000);
  expect_alive();
}

TEST_F(HttpLimits, AnImportsConnectionIsNotIdle) {
  auto client = Client::connect(server_.socket_path());
  const auto session = client->begin_import({"i", 4096, "stdin", ""});
  ASSERT_TRUE(session);
  ::usleep(600'000);
  EXPECT_TRUE(client->finish_import(session->id));
}

TEST_F(HttpLimits, SurvivesNoise) {
  Random random(11);
  for (int i = 0; i < 200; ++i) {
    std::string bytes = "POST /v1/volumes HTTP/1.1\r\nContent-Length: 9\r\n\r\n{\"a\":\"b\"}";
    for (uint64_t flips = random.between(1, 8); flips > 0; --flips) {
      bytes[random.below(bytes.size())] = static_cast<char>(random());
    }
    exchange(bytes.substr(0, random.between(1, bytes.size())));
  }
  expect_alive();
}

}  // namespace
}  // namespace squall
