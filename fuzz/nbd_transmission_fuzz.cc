// Whatever a client sends in the transmission phase, the server survives and leaks nothing. The
// first byte of the input chooses: bit 0 structured replies, bit 1 the read-only export.
#include <string_view>
#include <vector>

#include "format/nbd.h"
#include "nbd_session.h"

namespace {

void append_option(std::vector<std::byte>& out, squall::nbd::Option option, std::string_view data) {
  std::array<std::byte, squall::nbd::kOptionHeaderBytes> header;
  squall::nbd::encode_option_header(
      {static_cast<uint32_t>(option), static_cast<uint32_t>(data.size())}, header);
  out.insert(out.end(), header.begin(), header.end());
  const auto bytes = squall::as_bytes(data);
  out.insert(out.end(), bytes.begin(), bytes.end());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using squall::nbd::Option;
  using namespace std::string_view_literals;
  if (size == 0) return 0;
  std::vector<std::byte> stream{{}, {}, {}, std::byte{3}};  // the client's flags
  if ((data[0] & 1) != 0) {
    append_option(stream, Option::kStructuredReply, {});
    append_option(stream, Option::kSetMetaContext, "\0\0\0\1d\0\0\0\1\0\0\0\17base:allocation"sv);
  }
  append_option(stream, Option::kGo, (data[0] & 2) != 0 ? "\0\0\0\1i\0\0"sv : "\0\0\0\1d\0\0"sv);
  const auto requests = std::as_bytes(std::span(data + 1, size - 1));
  stream.insert(stream.end(), requests.begin(), requests.end());
  squall::run_nbd_session(stream);
  return 0;
}
