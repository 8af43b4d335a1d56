#include "io/posix_network.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>

namespace squall {

namespace {

// A socket that is closed unless it is released to the caller.
class Socket {
 public:
  explicit Socket(int handle) : handle_(handle) {}
  Socket(Socket&& other) noexcept : handle_(other.release()) {}
  Socket& operator=(Socket&&) = delete;
  ~Socket() {
    if (handle_ >= 0) ::close(handle_);
  }
  int get() const { return handle_; }
  int release() { return std::exchange(handle_, -1); }

 private:
  int handle_;
};

Result<Socket> make_socket(int family, int extra_type, const Endpoint& endpoint) {
  Socket socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | extra_type, 0));
  if (socket.get() < 0) return fail_errno(errno, "creating a socket for {}", endpoint.to_string());
  return socket;
}

Result<sockaddr_un> unix_address(const Endpoint& endpoint) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string& path = endpoint.unix_path;
  if (path.size() >= sizeof address.sun_path)
    return fail(ErrorKind::kInvalid,
                "the socket path '{}' has {} bytes, at most {} are possible: choose a shorter "
                "directory",
                path, path.size(), sizeof address.sun_path - 1);
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

int bind_to(const Socket& socket, const sockaddr_un& address) {
  return ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

constexpr int kProbes = 200;
constexpr std::chrono::milliseconds kProbeInterval{10};

// Removes a socket that nobody listens on any more. The daemon's pool lock keeps two daemons from
// doing this to each other at the same moment.
Result<void> remove_stale_socket(const Endpoint& endpoint, const sockaddr_un& address) {
  struct stat status{};
  if (::lstat(address.sun_path, &status) < 0) {
    if (errno == ENOENT) return {};
    return fail_errno(errno, "reading the status of {}", endpoint.to_string());
  }
  if (!S_ISSOCK(status.st_mode))
    return fail(ErrorKind::kExists, "listening on {}: the path exists and is not a socket",
                endpoint.to_string());
  // The kernel tears down a killed process's io_uring, and with it the socket it listened on, a
  // little after the process itself.
  int refusal = 0;
  for (int attempt = 0;; ++attempt) {
    TRY_ASSIGN(const Socket probe, make_socket(AF_UNIX, SOCK_NONBLOCK, endpoint));
    const int connected =
        ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    refusal = connected == 0 ? 0 : errno;
    // EAGAIN: its backlog is full, so there is somebody.
    if (refusal != 0 && refusal != EAGAIN) break;
    if (attempt == kProbes)
      return fail(ErrorKind::kBusy, "listening on {}: a running process answers there",
                  endpoint.to_string());
    std::this_thread::sleep_for(kProbeInterval);
  }
  if (refusal == ENOENT) return {};
  if (refusal != ECONNREFUSED)
    return fail_errno(refusal, "finding out whether {} is in use", endpoint.to_string());
  if (::unlink(address.sun_path) < 0 && errno != ENOENT)
    return fail_errno(errno, "removing the stale {}", endpoint.to_string());
  return {};
}

Result<int> listen_unix(const Endpoint& endpoint) {
  TRY_ASSIGN(const sockaddr_un address, unix_address(endpoint));
  TRY_ASSIGN(Socket socket, make_socket(AF_UNIX, 0, endpoint));
  int bound = bind_to(socket, address);
  if (bound < 0 && errno == EADDRINUSE) {
    TRY(remove_stale_socket(endpoint, address));
    bound = bind_to(socket, address);
  }
  if (bound < 0) return fail_errno(errno, "binding {}", endpoint.to_string());
  // Nobody can connect before listen(), so the mode is right from the first moment that matters.
  if (::chmod(address.sun_path, 0660) < 0)
    return fail_errno(errno, "setting the mode of {}", endpoint.to_string());
  if (::listen(socket.get(), SOMAXCONN) < 0)
    return fail_errno(errno, "listening on {}", endpoint.to_string());
  return socket.release();
}

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

Result<AddressList> resolve(const Endpoint& endpoint, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const char* host = endpoint.host.empty() ? nullptr : endpoint.host.c_str();
  const int result = ::getaddrinfo(host, std::to_string(endpoint.port).c_str(), &hints, &found);
  if (result == EAI_SYSTEM) return fail_errno(errno, "resolving '{}'", endpoint.host);
  if (result != 0)
    return fail(ErrorKind::kNotFound, "resolving '{}': {}", endpoint.host, ::gai_strerror(result));
  return AddressList(found, &::freeaddrinfo);
}

Result<int> listen_tcp_at(const Endpoint& endpoint, const addrinfo& address) {
  TRY_ASSIGN(Socket socket, make_socket(address.ai_family, 0, endpoint));
  // Without it a restarted daemon would have to wait for its old connections to be forgotten.
  const int on = 1;
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
    return fail_errno(errno, "setting SO_REUSEADDR for {}", endpoint.to_string());
  // The IPv6 wildcard serves IPv4 clients too, whatever the system's default says.
  const int off = 0;
  if (endpoint.host.empty() && address.ai_family == AF_INET6 &&
      ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) < 0)
    return fail_errno(errno, "clearing IPV6_V6ONLY for {}", endpoint.to_string());
  if (::bind(socket.get(), address.ai_addr, address.ai_addrlen) < 0) {
    if (errno == EADDRINUSE)
      return fail(ErrorKind::kBusy, "listening on {}: the port is taken", endpoint.to_string());
    return fail_errno(errno, "binding {}", endpoint.to_string());
  }
  if (::listen(socket.get(), SOMAXCONN) < 0)
    return fail_errno(errno, "listening on {}", endpoint.to_string());
  return socket.release();
}

Result<int> listen_tcp(const Endpoint& endpoint) {
  TRY_ASSIGN(const AddressList addresses, resolve(endpoint, AI_PASSIVE));
  Result<int> outcome = fail(ErrorKind::kNotFound, "{} has no address", endpoint.to_string());
  // With no host named, IPv6 first: its wildcard covers both families.
  if (endpoint.host.empty()) {
    for (const addrinfo* at = addresses.get(); at != nullptr; at = at->ai_next) {
      if (at->ai_family != AF_INET6) continue;
      outcome = listen_tcp_at(endpoint, *at);
      if (outcome) return outcome;
    }
  }
  for (const addrinfo* at = addresses.get(); at != nullptr; at = at->ai_next) {
    outcome = listen_tcp_at(endpoint, *at);
    if (outcome) return outcome;
  }
  return outcome;
}

// An interrupted connect goes on by itself; its outcome is there when the socket becomes writable.
int finish_interrupted_connect(int handle) {
  pollfd waiting{.fd = handle, .events = POLLOUT, .revents = 0};
  while (::poll(&waiting, 1, -1) < 0)
    if (errno != EINTR) return -1;
  int outcome = 0;
  socklen_t length = sizeof outcome;
  if (::getsockopt(handle, SOL_SOCKET, SO_ERROR, &outcome, &length) < 0) return -1;
  errno = outcome;
  return outcome == 0 ? 0 : -1;
}

Result<int> connect_to(const Endpoint& endpoint, const sockaddr* address, socklen_t length) {
  TRY_ASSIGN(Socket socket, make_socket(address->sa_family, 0, endpoint));
  int connected = ::connect(socket.get(), address, length);
  if (connected < 0 && errno == EINTR) connected = finish_interrupted_connect(socket.get());
  if (connected < 0) return fail_errno(errno, "connecting to {}", endpoint.to_string());
  return socket.release();
}

std::string numeric_host(const sockaddr_storage& address, socklen_t length) {
  std::array<char, NI_MAXHOST> host{};
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), length, host.data(), host.size(),
                    nullptr, 0, NI_NUMERICHOST) != 0)
    return "unknown";
  constexpr std::string_view kMappedPrefix = "::ffff:";
  std::string_view text = host.data();
  if (text.starts_with(kMappedPrefix) && text.contains('.'))
    text.remove_prefix(kMappedPrefix.size());
  return std::string(text);
}

}  // namespace

Result<int> PosixNetwork::listen(const Endpoint& endpoint) {
  return endpoint.is_unix() ? listen_unix(endpoint) : listen_tcp(endpoint);
}

Result<uint16_t> PosixNetwork::bound_port(int handle) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(handle, reinterpret_cast<sockaddr*>(&address), &length) < 0)
    return fail_errno(errno, "reading the address of socket {}", handle);
  if (address.ss_family == AF_INET)
    return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  if (address.ss_family == AF_INET6)
    return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  return fail(ErrorKind::kInvalid, "socket {} is not TCP and has no port", handle);
}

Result<int> PosixNetwork::connect(const Endpoint& endpoint) {
  if (endpoint.is_unix()) {
    TRY_ASSIGN(const sockaddr_un address, unix_address(endpoint));
    return connect_to(endpoint, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
  TRY_ASSIGN(const AddressList addresses, resolve(endpoint, 0));
  Result<int> outcome = fail(ErrorKind::kNotFound, "{} has no address", endpoint.to_string());
  for (const addrinfo* at = addresses.get(); at != nullptr; at = at->ai_next) {
    outcome = connect_to(endpoint, at->ai_addr, at->ai_addrlen);
    if (outcome) return outcome;
  }
  return outcome;
}

Result<PeerIdentity> PosixNetwork::peer(int handle) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getpeername(handle, reinterpret_cast<sockaddr*>(&address), &length) < 0)
    return fail_errno(errno, "reading the peer of socket {}", handle);
  if (address.ss_family != AF_UNIX) return PeerIdentity{.address = numeric_host(address, length)};
  ucred credentials{};
  length = sizeof credentials;
  if (::getsockopt(handle, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
    return fail_errno(errno, "reading the peer's credentials of socket {}", handle);
  return PeerIdentity{.is_unix = true, .pid = credentials.pid, .uid = credentials.uid};
}

bool PosixNetwork::is_hung_up(int handle) {
  pollfd status{.fd = handle, .events = POLLRDHUP, .revents = 0};
  while (::poll(&status, 1, 0) < 0)
    if (errno != EINTR) return true;
  return (status.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

void PosixNetwork::set_no_delay(int handle) {
  const int on = 1;
  // Refused by unix sockets, which have no such delay.
  (void)::setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// Probes begin after half of the time, three of them in the rest. TCP_USER_TIMEOUT is the same for
// a reply that is not acknowledged, which would otherwise be sent again for a quarter of an hour.
void PosixNetwork::give_up_after(int handle, uint64_t silence_s) {
  const auto set = [handle](int level, int option, uint64_t value) {
    const int number = static_cast<int>(value);
    (void)::setsockopt(handle, level, option, &number, sizeof number);  // refused by unix sockets
  };
  set(IPPROTO_TCP, TCP_KEEPIDLE, std::max<uint64_t>(1, silence_s / 2));
  set(IPPROTO_TCP, TCP_KEEPINTVL, std::max<uint64_t>(1, silence_s / 6));
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, silence_s * 1000);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
}

// After SHUT_RD the kernel still hands out what it had received, so that is drained here; nothing
// can follow it, because TCP answers later data with a reset and a unix peer's send fails.
void PosixNetwork::shutdown(int handle) {
  (void)::shutdown(handle, SHUT_RDWR);  // fails when the other end was faster: just as well
  std::array<std::byte, 16 * 1024> unread;
  while (true) {
    const ssize_t count = ::recv(handle, unread.data(), unread.size(), MSG_DONTWAIT);
    if (count == 0 || (count < 0 && errno != EINTR)) return;
  }
}

void PosixNetwork::close(int handle) {
  ::close(handle);
}

}  // namespace squall
