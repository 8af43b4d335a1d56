#include "api/client.h"

#include <sys/un.h>

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/url/encode.hpp>
#include <boost/url/rfc/unreserved_chars.hpp>

#include "api/http_stream.h"
#include "api/wire.h"

namespace squall {

namespace beast = boost::beast;
namespace http = boost::beast::http;

namespace {

Result<int> connect_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return fail(ErrorKind::kInvalid, "socket path {} is longer than {} bytes; use a shorter one",
                path, sizeof address.sun_path - 1);
  }
  path.copy(address.sun_path, path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return fail_errno(errno, "cannot make a socket");
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int connect_errno = errno;
    ::close(fd);
    if (connect_errno == ENOENT || connect_errno == ECONNREFUSED) {
      return fail(ErrorKind::kNotFound,
                  "no daemon answers at {}; start it with 'squall serve' or name its socket with "
                  "--socket",
                  path);
    }
    return fail_errno(connect_errno, "cannot connect to the daemon at {}", path);
  }
  return fd;
}

std::string element(std::string_view text) {
  return boost::urls::encode(text, boost::urls::unreserved_chars);
}

Error error_of(unsigned status, const std::string& body) {
  if (auto error = wire::decode<ErrorBody>(body, wire::UnknownFields::kIgnore);
      error && !error->message.empty()) {
    return {wire::parse_error_kind(error->kind), std::move(error->message)};
  }
  return {ErrorKind::kInternal, fmt::format("the daemon answered with HTTP status {}", status)};
}

}  // namespace

class Client::Connection {
 public:
  explicit Connection(int fd) : stream_(fd) {}

  // The reply's body when the status is 2xx.
  Result<std::string> exchange(std::string_view method, const std::string& path, std::string body) {
    http::request<http::string_body> request(http::string_to_verb(method), path, 11);
    request.set(http::field::host, "squalld");
    if (!body.empty()) request.set(http::field::content_type, "application/json");
    request.body() = std::move(body);
    request.prepare_payload();
    boost::system::error_code error;
    http::write(stream_, request, error);
    // A refusal may have been sent before the connection was closed under the request: read on.
    http::response_parser<http::string_body> parser;
    parser.body_limit(boost::none);
    http::read(stream_, buffer_, parser, error);
    if (error) {
      return fail(ErrorKind::kIo, "the daemon closed the connection during {} {} ({}); see its log",
                  method, path, error.message());
    }
    auto response = parser.release();
    if (response.result_int() / 100 != 2) {
      return std::unexpected(error_of(response.result_int(), response.body()));
    }
    return std::move(response.body());
  }

 private:
  internal::FdStream stream_;
  beast::flat_buffer buffer_;
};

Client::Client(std::unique_ptr<Connection> connection) : connection_(std::move(connection)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

Result<Client> Client::connect(const std::string& socket_path) {
  TRY_ASSIGN(const int fd, connect_unix(socket_path));
  return Client(std::make_unique<Connection>(fd));
}

Result<void> Client::call(std::string_view method, const std::string& path, std::string body) {
  TRY(connection_->exchange(method, path, std::move(body)));
  return {};
}

template <class Response>
Result<Response> Client::call(std::string_view method, const std::string& path, std::string body) {
  TRY_ASSIGN(const std::string reply, connection_->exchange(method, path, std::move(body)));
  auto response = wire::decode<Response>(reply, wire::UnknownFields::kIgnore);
  if (!response) {
    return std::unexpected(response.error().wrap(
        fmt::format("cannot understand the daemon's answer to {} {}", method, path)));
  }
  return response;
}

Result<GcStarted> Client::start_gc() {
  return call<GcStarted>("POST", "/v1/gc", "{}");
}
Result<CollectorStatus> Client::gc_status() {
  return call<CollectorStatus>("GET", "/v1/gc");
}
Result<void> Client::cancel_gc() {
  return call("DELETE", "/v1/gc");
}

Result<StatusInfo> Client::status() {
  return call<StatusInfo>("GET", "/v1/status");
}

Result<std::vector<NodeInfo>> Client::list_nodes() {
  return call<std::vector<NodeInfo>>("GET", "/v1/nodes");
}

Result<NodeInfo> Client::show_node(const std::string& name) {
  return call<NodeInfo>("GET", "/v1/nodes/" + element(name));
}

Result<std::vector<ImageInfo>> Client::list_images() {
  return call<std::vector<ImageInfo>>("GET", "/v1/images");
}

Result<ImageInfo> Client::show_image(const std::string& name) {
  return call<ImageInfo>("GET", "/v1/images/" + element(name));
}

Result<ImageInfo> Client::create_image(const std::string& name, const std::string& from) {
  return call<ImageInfo>("POST", "/v1/images", wire::encode(CreateImageRequest{name, from}));
}

Result<void> Client::remove_image(const std::string& name) {
  return call("DELETE", "/v1/images/" + element(name));
}

Result<std::vector<VolumeInfo>> Client::list_volumes() {
  return call<std::vector<VolumeInfo>>("GET", "/v1/volumes");
}

Result<VolumeInfo> Client::show_volume(const std::string& name) {
  return call<VolumeInfo>("GET", "/v1/volumes/" + element(name));
}

Result<std::vector<VolumeInfo>> Client::create_volumes(const CreateVolume& request) {
  return call<std::vector<VolumeInfo>>("POST", "/v1/volumes", wire::encode(request));
}

Result<void> Client::remove_volume(const std::string& name, bool force) {
  return call("DELETE", "/v1/volumes/" + element(name) + (force ? "?force=true" : ""));
}

Result<VolumeInfo> Client::resize_volume(const std::string& name, uint64_t size_bytes) {
  return call<VolumeInfo>("POST", "/v1/volumes/" + element(name) + "/resize",
                          wire::encode(ResizeRequest{size_bytes}));
}

Result<VolumeInfo> Client::rollback_volume(const std::string& name, const std::string& snapshot) {
  return call<VolumeInfo>("POST", "/v1/volumes/" + element(name) + "/rollback",
                          wire::encode(RollbackRequest{snapshot}));
}

Result<VolumeInfo> Client::takeover_volume(const std::string& name, bool lose_data) {
  return call<VolumeInfo>("POST", "/v1/volumes/" + element(name) + "/takeover",
                          wire::encode(TakeoverRequest{lose_data}));
}

Result<void> Client::commit_volume(const std::string& name) {
  return call("POST", "/v1/volumes/" + element(name) + "/commit");
}

Result<std::vector<SnapshotInfo>> Client::list_snapshots(const std::string& volume) {
  return call<std::vector<SnapshotInfo>>("GET", "/v1/volumes/" + element(volume) + "/snapshots");
}

Result<SnapshotInfo> Client::create_snapshot(const std::string& volume, const std::string& name) {
  return call<SnapshotInfo>("POST", "/v1/volumes/" + element(volume) + "/snapshots",
                            wire::encode(CreateSnapshotRequest{name}));
}

Result<void> Client::remove_snapshot(const std::string& volume, const std::string& name) {
  return call("DELETE", "/v1/volumes/" + element(volume) + "/snapshots/" + element(name));
}

Result<uint64_t> Client::start_check(const CheckRequest& request) {
  TRY_ASSIGN(const auto started, call<CheckStarted>("POST", "/v1/checks", wire::encode(request)));
  return started.id;
}

Result<CheckStatus> Client::check_status(uint64_t id) {
  return call<CheckStatus>("GET", fmt::format("/v1/checks/{}", id));
}

Result<void> Client::cancel_check(uint64_t id) {
  return call("DELETE", fmt::format("/v1/checks/{}", id));
}

Result<ImportSession> Client::begin_import(const ImportRequest& request) {
  return call<ImportSession>("POST", "/v1/imports", wire::encode(request));
}

Result<ImageInfo> Client::finish_import(uint64_t session) {
  return call<ImageInfo>("POST", fmt::format("/v1/imports/{}/finish", session));
}

Result<void> Client::abort_import(uint64_t session) {
  return call("DELETE", fmt::format("/v1/imports/{}", session));
}

}  // namespace squall
