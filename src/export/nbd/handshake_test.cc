#include "export/nbd/handshake.h"

#include "export/nbd/test_support.h"

namespace squall::nbd {
namespace {

using HandshakeTest = ServerTest;

std::vector<std::byte> name_bytes(std::string_view name) {
  const auto bytes = as_bytes(name);
  return {bytes.begin(), bytes.end()};
}

TEST_P(HandshakeTest, ExportNameWithAndWithoutZeroes) {
  for (const bool no_zeroes : {false, true}) {
    auto client = connect();
    client->greet(kFlagFixedNewstyle | (no_zeroes ? kFlagNoZeroes : 0));
    client->send_option(Option::kExportName, name_bytes("disk"));
    const auto reply = client->receive(no_zeroes ? 10 : 134);
    ASSERT_TRUE(reply);
    EXPECT_EQ(load_be<uint64_t>(reply->data()), kDiskBytes);
    const auto flags = load_be<uint16_t>(reply->data() + 8);
    EXPECT_EQ(flags, kFlagHasFlags | kFlagSendFlush | kFlagSendFua | kFlagSendTrim |
                         kFlagSendWriteZeroes | kFlagCanMultiConn | kFlagSendCache |
                         kFlagSendFastZero);
    EXPECT_EQ(client->write(0, pattern(512, 1)), WireError::kOk);
  }
}

TEST_P(HandshakeTest, ExportNameThatCannotBeServedCloses) {
  for (const std::string& name : {std::string("nix"), std::string(), std::string(5000, 'x')}) {
    auto client = connect();
    client->greet();
    client->send_option(Option::kExportName, name_bytes(name));
    EXPECT_TRUE(client->is_closed()) << name;
  }
}

TEST_P(HandshakeTest, ClientsOfPlainNewstyleMaySendOnlyExportName) {
  auto client = connect();
  client->greet(0);
  client->send_option(Option::kList, {});
  EXPECT_TRUE(client->is_closed());
  client = connect();
  client->greet(0);
  client->send_option(Option::kExportName, name_bytes("disk"));
  EXPECT_TRUE(client->receive(134));
}

TEST_P(HandshakeTest, UnknownClientFlagsClose) {
  auto client = connect();
  client->greet(1 << 2);
  EXPECT_TRUE(client->is_closed());
}

TEST_P(HandshakeTest, OptionWithoutMagicCloses) {
  auto client = connect();
  client->greet();
  ASSERT_TRUE(client->send(std::vector<std::byte>(kOptionHeaderBytes)));
  EXPECT_TRUE(client->is_closed());
}

TEST_P(HandshakeTest, GoSendsWhatWasAskedFor) {
  auto client = connect();
  client->greet();
  const auto answers = client->ask(Option::kGo, TestClient::info_data("image", {1, 2, 3, 77}));
  ASSERT_EQ(answers.size(), 5U);
  EXPECT_EQ(load_be<uint64_t>(answers[0].data.data() + 2), kDiskBytes);
  EXPECT_EQ(load_be<uint16_t>(answers[0].data.data() + 10), kFlagHasFlags | kFlagReadOnly |
                                                                kFlagSendFlush | kFlagSendFua |
                                                                kFlagCanMultiConn | kFlagSendCache);
  EXPECT_EQ(as_text(ConstBytes(answers[1].data).subspan(2)), "image");
  EXPECT_EQ(as_text(ConstBytes(answers[2].data).subspan(2)), "image") << "the description";
  EXPECT_EQ(load_be<uint32_t>(answers[3].data.data() + 2), 1U);
  EXPECT_EQ(load_be<uint32_t>(answers[3].data.data() + 6), kPreferredBlockBytes);
  EXPECT_EQ(load_be<uint32_t>(answers[3].data.data() + 10), kMaxPayloadBytes);
  EXPECT_EQ(answers[4].type, OptionReply::kAck);
  EXPECT_TRUE(client->read(0, 512));
}

TEST_P(HandshakeTest, AFailedGoLeavesTheHandshakeGoing) {
  auto client = connect();
  client->greet();
  EXPECT_EQ(client->last(Option::kGo, TestClient::info_data("nix")), OptionReply::kErrUnknown);
  EXPECT_EQ(client->last(Option::kGo, TestClient::info_data("")), OptionReply::kErrUnknown);
  EXPECT_EQ(client->last(Option::kGo, name_bytes("disk")), OptionReply::kErrInvalid);
  EXPECT_EQ(client->last(Option::kInfo, TestClient::info_data("disk")), OptionReply::kAck);
  EXPECT_TRUE(admission_->clients("disk").empty()) << "INFO takes no slot";
  EXPECT_EQ(client->last(Option::kGo, TestClient::info_data("disk")), OptionReply::kAck);
  EXPECT_EQ(admission_->clients("disk").size(), 1U);
}

TEST_P(HandshakeTest, OptionsThatAreNotServed) {
  auto client = connect();
  client->greet();
  EXPECT_EQ(client->last(Option::kStartTls), OptionReply::kErrUnsupported);
  EXPECT_EQ(client->last(Option::kStartTls, name_bytes("x")), OptionReply::kErrInvalid);
  EXPECT_EQ(client->last(static_cast<Option>(11)), OptionReply::kErrUnsupported);
  EXPECT_EQ(client->last(static_cast<Option>(0xdeadbeef), name_bytes("some data")),
            OptionReply::kErrUnsupported);
  EXPECT_EQ(client->last(Option::kList, name_bytes("x")), OptionReply::kErrInvalid);
  EXPECT_EQ(client->last(Option::kStructuredReply, name_bytes("x")), OptionReply::kErrInvalid);
  EXPECT_EQ(client->last(Option::kAbort), OptionReply::kAck);
  EXPECT_TRUE(client->is_closed());
}

TEST_P(HandshakeTest, MetadataContexts) {
  const auto contexts = [](std::vector<std::string_view> queries) {
    return TestClient::context_data("disk", std::move(queries));
  };
  auto client = connect();
  client->greet();
  EXPECT_EQ(client->last(Option::kSetMetaContext, contexts({"base:allocation"})),
            OptionReply::kErrInvalid)
      << "structured replies come first";
  EXPECT_EQ(client->last(Option::kStructuredReply), OptionReply::kAck);
  const auto count = [&](Option option, std::vector<std::string_view> queries) {
    const auto answers = client->ask(option, contexts(std::move(queries)));
    EXPECT_EQ(answers.back().type, OptionReply::kAck);
    for (size_t i = 0; i + 1 < answers.size(); ++i)
      EXPECT_EQ(as_text(ConstBytes(answers[i].data).subspan(4)), kBaseAllocation);
    return answers.size() - 1;
  };
  EXPECT_EQ(count(Option::kListMetaContext, {}), 1U);
  EXPECT_EQ(count(Option::kListMetaContext, {"base:"}), 1U);
  EXPECT_EQ(count(Option::kListMetaContext, {"qemu:", "x-y:z"}), 0U);
  EXPECT_EQ(count(Option::kSetMetaContext, {}), 0U);
  EXPECT_EQ(count(Option::kSetMetaContext, {"base:"}), 0U);
  EXPECT_EQ(count(Option::kSetMetaContext, {"base:allocation", "base:", "base:allocation"}), 1U);
  EXPECT_EQ(client->last(Option::kListMetaContext, TestClient::context_data("nix", {})),
            OptionReply::kErrUnknown);
  EXPECT_EQ(client->last(Option::kListMetaContext, name_bytes("xx")), OptionReply::kErrInvalid);
}

TEST_P(HandshakeTest, AContextHoldsForItsExportOnly) {
  for (const std::string_view chosen : {"disk", "image"}) {
    auto client = connect();
    client->greet();
    EXPECT_EQ(client->last(Option::kStructuredReply), OptionReply::kAck);
    client->ask(Option::kSetMetaContext, TestClient::context_data(chosen, {kBaseAllocation}));
    EXPECT_EQ(client->last(Option::kGo, TestClient::info_data("disk")), OptionReply::kAck);
    const auto status = client->status(0, 4096);
    ASSERT_TRUE(status);
    EXPECT_EQ(status->error, chosen == "disk" ? WireError::kOk : WireError::kInvalid);
  }
}

TEST_P(HandshakeTest, OversizedOptions) {
  auto client = connect();
  client->greet();
  client->send_option(Option::kInfo, std::vector<std::byte>(200'000));
  const auto answer = client->answer();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->type, OptionReply::kErrTooBig);
  EXPECT_EQ(client->last(Option::kList), OptionReply::kAck) << "it goes on behind it";
  std::vector<std::byte> header(kOptionHeaderBytes);
  encode_option_header({static_cast<uint32_t>(Option::kInfo), 2'000'000}, header);
  ASSERT_TRUE(client->send(header));
  EXPECT_TRUE(client->is_closed());
}

TEST_P(HandshakeTest, TheNumberOfOptionsIsBounded) {
  restart({.option_count_max = 10});
  auto client = connect();
  client->greet();
  for (int i = 0; i < 10; ++i)
    EXPECT_EQ(client->last(Option::kStartTls), OptionReply::kErrUnsupported);
  EXPECT_TRUE(client->is_closed());
}

TEST_P(HandshakeTest, AHalfSentHandshakeIsClosedInTime) {
  restart({.handshake_ns_max = 50'000'000});
  auto silent = connect();
  auto half = connect();
  half->greet();
  ASSERT_TRUE(half->send(std::vector<std::byte>(3)));
  auto idle = connect();
  ASSERT_TRUE(idle->go("disk"));
  EXPECT_TRUE(eventually([&] { return server_->stats().connections_open == 1; }));
  EXPECT_TRUE(half->is_closed());
  EXPECT_TRUE(idle->read(0, 512)) << "a connection in use may be silent";
}

TEST_P(HandshakeTest, ListsThousandsOfExports) {
  auto disk = std::make_shared<testing::MemoryDisk>(*reactor_, kMiB);
  for (int i = 0; i < 5000; ++i) disks_.add("vm-" + std::to_string(i), disk);
  auto client = connect();
  client->greet();
  const auto answers = client->ask(Option::kList);
  ASSERT_EQ(answers.size(), 5004U);
  const auto& first = answers[0].data;
  EXPECT_EQ(as_text(ConstBytes(first).subspan(4, 4)), "disk");
  EXPECT_EQ(as_text(ConstBytes(first).subspan(8)), "volume");
  EXPECT_EQ(client->last(Option::kGo, TestClient::info_data("vm-4999")), OptionReply::kAck);
}

TEST_P(HandshakeTest, WithoutAWriteCacheThereIsNothingToFlush) {
  disk_->set_write_cache(false);
  auto client = connect();
  const auto flags = client->go("disk");
  ASSERT_TRUE(flags);
  EXPECT_EQ(*flags & kFlagSendFlush, 0);
  EXPECT_EQ(client->command(Command::kFlush), WireError::kOk) << "but it may ask";
}

INSTANTIATE_IN_ALL_WORLDS(HandshakeTest);

}  // namespace
}  // namespace squall::nbd
