#include "format/nbd.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace squall::nbd {
namespace {

std::string hex(ConstBytes bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return text;
}

std::vector<std::byte> unhex(std::string_view text) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2)
    bytes.push_back(
        static_cast<std::byte>(std::stoul(std::string(text.substr(i, 2)), nullptr, 16)));
  return bytes;
}

// The expected bytes below were written from the protocol document, not from this code.
TEST(NbdFormat, Greeting) {
  std::byte bytes[kGreetingBytes];
  encode_greeting(3, bytes);
  EXPECT_EQ(hex(bytes),
            "4e42444d41474943"
            "49484156454f5054"
            "0003");
}

TEST(NbdFormat, Request) {
  const auto bytes = unhex(
      "25609513"
      "0011"
      "0006"
      "0102030405060708"
      "00000000fffff000"
      "00001000");
  const auto request = decode_request(bytes);
  ASSERT_TRUE(request);
  EXPECT_EQ(*request, (Request{.flags = kCommandFlagFua | kCommandFlagFastZero,
                               .command = static_cast<uint16_t>(Command::kWriteZeroes),
                               .cookie = 0x0102030405060708,
                               .offset = 0xfffff000,
                               .length = 4096}));
  std::byte again[kRequestBytes];
  encode_request(*request, again);
  EXPECT_EQ(hex(again), hex(bytes));
  auto wrong = bytes;
  wrong[3] ^= std::byte{1};
  EXPECT_FALSE(decode_request(wrong));
}

TEST(NbdFormat, OptionHeader) {
  const auto bytes = unhex(
      "49484156454f5054"
      "00000007"
      "00000010");
  const auto header = decode_option_header(bytes);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->option, 7U);
  EXPECT_EQ(header->length, 16U);
  auto wrong = bytes;
  wrong[0] = {};
  EXPECT_FALSE(decode_option_header(wrong));
}

TEST(NbdFormat, InfoRequest) {
  const auto bytes = unhex(
      "00000003"
      "766d31"
      "0002"
      "0000"
      "0003");
  const auto request = decode_info_request(bytes);
  ASSERT_TRUE(request);
  EXPECT_EQ(request->name, "vm1");
  EXPECT_EQ(request->items, (std::vector<uint16_t>{0, 3}));
  for (size_t length = 0; length < bytes.size(); ++length)
    EXPECT_FALSE(decode_info_request(ConstBytes(bytes).first(length))) << length;
  EXPECT_FALSE(
      decode_info_request(unhex("00000003"
                                "766d31"
                                "0000"
                                "00")));
  EXPECT_FALSE(
      decode_info_request(unhex("ffffffff"
                                "766d31"
                                "0000")));
  EXPECT_FALSE(
      decode_info_request(unhex("00000003"
                                "760031"
                                "0000")))
      << "a NUL in the name";
}

TEST(NbdFormat, MetaContextRequest) {
  const auto bytes = unhex(
      "00000002"
      "766d"
      "00000002"
      "00000005"
      "626173653a"
      "00000000");
  const auto request = decode_meta_context_request(bytes);
  ASSERT_TRUE(request);
  EXPECT_EQ(request->name, "vm");
  EXPECT_EQ(request->queries, (std::vector<std::string_view>{"base:", ""}));
  for (size_t length = 0; length < bytes.size(); ++length)
    EXPECT_FALSE(decode_meta_context_request(ConstBytes(bytes).first(length))) << length;
  // A count that the data cannot hold must not be believed.
  EXPECT_FALSE(
      decode_meta_context_request(unhex("00000000"
                                        "ffffffff"
                                        "00000000")));
}

TEST(NbdFormat, OptionReplies) {
  std::vector<std::byte> out;
  append_option_reply(out, 5, OptionReply::kErrUnsupported, {});
  EXPECT_EQ(hex(out),
            "0003e889045565a9"
            "00000005"
            "80000001"
            "00000000");
  out.clear();
  append_server_reply(out, 3, "a", "bc");
  EXPECT_EQ(hex(out),
            "0003e889045565a9"
            "00000003"
            "00000002"
            "00000007"
            "00000001"
            "61"
            "6263");
  out.clear();
  append_info_export(out, 7, 0x100000000, 0x0103);
  EXPECT_EQ(hex(out),
            "0003e889045565a9"
            "00000007"
            "00000003"
            "0000000c"
            "0000"
            "0000000100000000"
            "0103");
  out.clear();
  append_info_text(out, 6, Info::kDescription, "x");
  EXPECT_EQ(hex(out),
            "0003e889045565a9"
            "00000006"
            "00000003"
            "00000003"
            "0002"
            "78");
  out.clear();
  append_info_block_size(out, 7, 1, 4096, 0x2000000);
  EXPECT_EQ(hex(out),
            "0003e889045565a9"
            "00000007"
            "00000003"
            "0000000e"
            "0003"
            "00000001"
            "00001000"
            "02000000");
  out.clear();
  append_meta_context(out, 10, 1, "base:allocation");
  EXPECT_EQ(hex(out),
            "0003e889045565a9"
            "0000000a"
            "00000004"
            "00000013"
            "00000001"
            "626173653a616c6c6f636174696f6e");
  out.clear();
  append_export_name_reply(out, 512, 1, false);
  EXPECT_EQ(hex(out),
            "0000000000000200"
            "0001");
  out.clear();
  append_export_name_reply(out, 512, 1, true);
  EXPECT_EQ(hex(out),
            "0000000000000200"
            "0001" +
                std::string(248, '0'));
}

TEST(NbdFormat, Replies) {
  std::vector<std::byte> to(kSimpleReplyBytes);
  encode_simple_reply(WireError::kNoSpace, 0x1122, to);
  EXPECT_EQ(hex(to),
            "67446698"
            "0000001c"
            "0000000000001122");
  to.resize(kDataChunkBytes);
  encode_data_chunk(kChunkFlagDone, 0x1122, 0x1000, 512, to);
  EXPECT_EQ(hex(to),
            "668e33ef"
            "0001"
            "0001"
            "0000000000001122"
            "00000208"
            "0000000000001000");
  to.resize(kHoleChunkBytes);
  encode_hole_chunk(0, 0x1122, 0x1000, 512, to);
  EXPECT_EQ(hex(to),
            "668e33ef"
            "0000"
            "0002"
            "0000000000001122"
            "0000000c"
            "0000000000001000"
            "00000200");
  to.resize(kErrorChunkBytes);
  encode_error_chunk(0x1122, WireError::kIo, 3, to);
  EXPECT_EQ(hex(to),
            "668e33ef"
            "0001"
            "8001"
            "0000000000001122"
            "00000009"
            "00000005"
            "0003");
  to.resize(kStatusChunkBytes);
  encode_status_chunk(0x1122, 1, 2, to);
  EXPECT_EQ(hex(to),
            "668e33ef"
            "0001"
            "0005"
            "0000000000001122"
            "00000014"
            "00000001");
  to.resize(kStatusDescriptorBytes);
  encode_status_descriptor(4096, kStateHole | kStateZero, to);
  EXPECT_EQ(hex(to),
            "00001000"
            "00000003");
}

TEST(NbdFormat, ErrorsOfTheSystemBecomeErrorsOfTheProtocol) {
  EXPECT_EQ(wire_error(0), WireError::kOk);
  EXPECT_EQ(wire_error(EROFS), WireError::kPerm);
  EXPECT_EQ(wire_error(EDQUOT), WireError::kNoSpace);
  EXPECT_EQ(wire_error(EOPNOTSUPP), WireError::kNotSupported);
  EXPECT_EQ(wire_error(ESHUTDOWN), WireError::kShutdown);
  EXPECT_EQ(wire_error(EBUSY), WireError::kIo) << "whatever the protocol has no number for";
}

}  // namespace
}  // namespace squall::nbd
