// Client, HTTP server and routes together, over a fake VolumeManager.
#include "api/rest.h"

#include <gtest/gtest.h>

#include "api/client.h"
#include "api/test_control_server.h"
#include "api/wire.h"

namespace squall {
namespace {

class Rest : public ::testing::Test {
 protected:
  TestControlServer server_;
  Client client_ = Client::connect(server_.socket_path()).value();
};

TEST_F(Rest, VolumesComeAndGo) {
  CreateVolume request;
  request.name = "vm";
  request.count = 3;
  request.size_bytes = 1 << 20;
  request.cache = CacheMode::kDirectsync;
  request.durability = Durability::kPool;
  request.shared = true;
  const auto made = client_.create_volumes(request);
  ASSERT_TRUE(made) << made.error().message();
  ASSERT_EQ(made->size(), 3u);
  EXPECT_EQ((*made)[2].name, "vm-3");
  EXPECT_EQ((*made)[2].cache, CacheMode::kDirectsync);
  EXPECT_EQ((*made)[2].durability, Durability::kPool);
  EXPECT_TRUE((*made)[2].shared);
  EXPECT_EQ(client_.list_volumes()->size(), 3u);

  EXPECT_EQ(client_.resize_volume("vm-1", 2 << 20)->size_bytes, 2u << 20);
  EXPECT_EQ(client_.show_volume("vm-1")->size_bytes, 2u << 20);
  EXPECT_TRUE(client_.commit_volume("vm-1"));
  EXPECT_EQ(client_.takeover_volume("vm-1", true)->epoch, 1u);
  EXPECT_TRUE(client_.remove_volume("vm-1", false));
  EXPECT_EQ(server_.disconnected(), "");
  EXPECT_TRUE(client_.remove_volume("vm-2", true));
  EXPECT_EQ(server_.disconnected(), "vm-2");
  EXPECT_EQ(client_.list_volumes()->size(), 1u);
}

TEST_F(Rest, Snapshots) {
  ASSERT_TRUE(client_.create_volumes({.name = "v", .size_bytes = 4096}));
  EXPECT_EQ(client_.create_snapshot("v", "a")->volume, "v");
  ASSERT_TRUE(client_.create_snapshot("v", "b"));
  ASSERT_EQ(client_.list_snapshots("v")->size(), 2u);
  ASSERT_TRUE(client_.resize_volume("v", 8192));
  EXPECT_EQ(client_.rollback_volume("v", "a")->size_bytes, 4096u);
  EXPECT_TRUE(client_.remove_snapshot("v", "a"));
  EXPECT_EQ(client_.list_snapshots("v")->size(), 1u);
  EXPECT_EQ(client_.create_image("i", "v@b")->size_bytes, 4096u);
  EXPECT_EQ(client_.show_image("i")->source, "v@b");
  EXPECT_EQ(client_.list_images()->size(), 1u);
  EXPECT_TRUE(client_.remove_image("i"));
}

TEST_F(Rest, ErrorsKeepTheirKind) {
  EXPECT_EQ(client_.show_volume("none").error().kind(), ErrorKind::kNotFound);
  EXPECT_EQ(client_.show_volume("none").error().message(), "volume none does not exist");
  ASSERT_TRUE(client_.create_volumes({.name = "v", .size_bytes = 4096}));
  EXPECT_EQ(client_.create_volumes({.name = "v"}).error().kind(), ErrorKind::kExists);
  EXPECT_EQ(client_.resize_volume("v", 1).error().kind(), ErrorKind::kInvalid);
  EXPECT_EQ(client_.takeover_volume("v", false).error().kind(), ErrorKind::kBusy);
}

TEST_F(Rest, NamesThatNeedEscapingStayOneElement) {
  EXPECT_EQ(client_.show_volume("a/b?c=d %41").error().message(),
            "volume a/b?c=d %41 does not exist");
  EXPECT_EQ(client_.show_volume("").error().kind(), ErrorKind::kNotFound);
}

TEST_F(Rest, WhatIsNotUtf8DoesNotBreakTheAnswer) {
  EXPECT_EQ(client_.show_volume("\xff\xc3\xa4\xed\xa0\x80").error().message(),
            "volume ?\xc3\xa4??? does not exist");
  const auto session = client_.begin_import({"i", 4096, "caf\xe9.raw", ""});
  ASSERT_TRUE(session);
  EXPECT_EQ(client_.finish_import(session->id)->source, "caf?.raw");
}

TEST_F(Rest, StatusAndNodes) {
  const auto status = client_.status();
  ASSERT_TRUE(status) << status.error().message();
  EXPECT_EQ(status->node.name, "here");
  ASSERT_EQ(status->stores.size(), 1u);
  EXPECT_EQ(status->stores[0].available_bytes, 50u);
  EXPECT_EQ(client_.list_nodes()->size(), 1u);
  EXPECT_TRUE(client_.show_node("here"));
  EXPECT_EQ(client_.show_node("there").error().kind(), ErrorKind::kNotFound);
}

TEST_F(Rest, AnImportEndsInAnImage) {
  const auto session = client_.begin_import({"i", 4096, "stdin", ""});
  ASSERT_TRUE(session);
  EXPECT_EQ(server_.open_imports(), 1u);
  EXPECT_EQ(client_.finish_import(session->id)->name, "i");
  EXPECT_EQ(server_.open_imports(), 0u);
  EXPECT_EQ(client_.finish_import(session->id).error().kind(), ErrorKind::kNotFound);
}

TEST_F(Rest, AnImportIsAbortedWithItsConnection) {
  {
    Client other = Client::connect(server_.socket_path()).value();
    const auto session = other.begin_import({"i", 4096, "stdin", ""});
    ASSERT_TRUE(session);
    // It is nobody else's.
    EXPECT_EQ(client_.finish_import(session->id).error().kind(), ErrorKind::kNotFound);
    EXPECT_EQ(client_.abort_import(session->id).error().kind(), ErrorKind::kNotFound);
    EXPECT_EQ(server_.open_imports(), 1u);
  }
  for (int i = 0; i < 1000 && server_.open_imports() > 0; ++i) ::usleep(10'000);
  EXPECT_EQ(server_.open_imports(), 0u);
}

TEST(Client, SaysWhatToDoWithoutADaemon) {
  const auto client = Client::connect("/nonexistent/control.sock");
  ASSERT_FALSE(client);
  EXPECT_NE(client.error().message().find("squall serve"), std::string::npos);
  EXPECT_FALSE(Client::connect("/" + std::string(200, 'x')));
}

// Requests as they arrive, without HTTP around them.
class RestRequests : public ::testing::Test {
 protected:
  HttpResponse ask(std::string method, std::string target, std::string body = "") {
    PostingReactor reactor;
    testing::MemoryVolumeManager manager(reactor);
    IdleRestHost host;
    return make_rest_session({reactor, manager, host})
        ->handle({std::move(method), std::move(target), std::move(body)});
  }

 private:
  // Runs what is posted at once.
  struct PostingReactor : Reactor {
    void submit(Operation&) override { CHECK(false); }
    void cancel(Operation&) override { CHECK(false); }
    void arm(Timer&, uint64_t) override { CHECK(false); }
    void disarm(Timer&) override { CHECK(false); }
    void post(std::move_only_function<void()> work) override { work(); }
    uint64_t now_ns() const override { return 0; }
    int64_t wall_clock_s() const override { return 0; }
    void run() override {}
    bool run_once() override { return false; }
    void stop() override {}
  };
};

TEST_F(RestRequests, UnknownPathsAndMethods) {
  EXPECT_EQ(ask("GET", "/").status, 404);
  EXPECT_EQ(ask("GET", "/v2/volumes").status, 404);
  EXPECT_EQ(ask("GET", "/v1").status, 404);
  EXPECT_EQ(ask("GET", "/v1/volumes/a/b/c/d").status, 404);
  EXPECT_EQ(ask("GET", "*").status, 400);
  EXPECT_EQ(ask("GET", "/v1/%zz").status, 400);
  const HttpResponse wrong = ask("PUT", "/v1/volumes");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.allow, "GET, POST");
  EXPECT_EQ(ask("", "/v1/volumes").status, 405);
}

TEST_F(RestRequests, BadBodies) {
  const auto message = [](const HttpResponse& response) {
    EXPECT_EQ(response.status, 400);
    return wire::decode<ErrorBody>(response.body, wire::UnknownFields::kReject)->message;
  };
  EXPECT_NE(message(ask("POST", "/v1/volumes", "{")).find("not valid JSON"), std::string::npos);
  EXPECT_EQ(message(ask("POST", "/v1/volumes", "[]")), "must be a JSON object");
  EXPECT_EQ(message(ask("POST", "/v1/volumes", R"({"nam": "v"})")), "unknown field 'nam'");
  EXPECT_EQ(message(ask("POST", "/v1/volumes", R"({"name": 1})")),
            "field 'name': must be a string");
  EXPECT_NE(message(ask("POST", "/v1/volumes", R"({"size_bytes": -1})")).find("whole number"),
            std::string::npos);
  EXPECT_NE(message(ask("POST", "/v1/volumes", R"({"size_bytes": 1.5})")).find("whole number"),
            std::string::npos);
  EXPECT_NE(message(ask("POST", "/v1/volumes", R"({"cache": "fast"})")).find("field 'cache'"),
            std::string::npos);
  EXPECT_EQ(message(ask("POST", "/v1/volumes", R"({"shared": "yes"})")),
            "field 'shared': must be true or false");
  EXPECT_NE(message(ask("POST", "/v1/volumes", std::string(100, '['))).find("not valid JSON"),
            std::string::npos);
  EXPECT_NE(message(ask("DELETE", "/v1/volumes/v?force=maybe")).find("unknown query parameter"),
            std::string::npos);
}

TEST_F(RestRequests, ImportIdsThatAreNone) {
  EXPECT_EQ(ask("POST", "/v1/imports/x/finish").status, 404);
  EXPECT_EQ(ask("DELETE", "/v1/imports/99999999999999999999").status, 404);
  EXPECT_EQ(ask("DELETE", "/v1/imports/1").status, 404);
}

}  // namespace
}  // namespace squall
