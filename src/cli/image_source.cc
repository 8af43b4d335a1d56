#include "cli/image_source.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/url/parse.hpp>
#include <boost/url/url.hpp>
#include <cstdlib>
#include <filesystem>

#include "base/buffer.h"
#include "cli/block_copy.h"
#include "cli/file_blocks.h"
#include "cli/nbd_blocks.h"
#include "cli/qemu_img.h"

namespace squall {

namespace {

// Listens on `path`; the mode of its directory keeps others out.
Result<int> listen_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return fail(ErrorKind::kInvalid, "socket path {} is too long; set TMPDIR to a shorter one",
                path);
  }
  path.copy(address.sun_path, path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd, 8) != 0) {
    const int listen_errno = errno;
    if (fd >= 0) ::close(fd);
    return fail_errno(listen_errno, "cannot listen on {}", path);
  }
  return fd;
}

// Connects to a helper's disk; when something fails, the helper's own words tell why. The helper
// outlives the disk.
Result<std::unique_ptr<NbdBlocks>> connect_helper(const NbdHelper& helper,
                                                  const std::string& name) {
  auto blocks = NbdBlocks::connect(helper.socket_path(), "", name);
  if (blocks) {
    (*blocks)->set_explanation([&helper] { return helper.error_text(); });
    return blocks;
  }
  if (blocks.error().kind() == ErrorKind::kCancelled) return blocks;
  const std::string text = helper.error_text();
  if (text.empty()) return blocks;
  return fail(ErrorKind::kIo, "cannot open {}: {}", name, text);
}

Result<void> open_with_qemu_nbd(ImageSource& source, const std::string& target) {
  std::vector<std::string> argv = {"qemu-nbd", "--read-only", "--format=" + source.format, target};
  TRY_ASSIGN(auto helper, NbdHelper::start(std::move(argv), {.package = "qemu-utils"}));
  TRY_ASSIGN(source.blocks, connect_helper(*helper, source.description));
  helper->hide();
  source.helpers.push_back(std::move(helper));
  return {};
}

// Finds out the format of `raw`, which qemu-img reaches as `target`.
Result<void> find_format(ImageSource& source, BlockSource& raw, const std::string& target) {
  AlignedBuffer head(std::min<uint64_t>(kHeadBytes, raw.size_bytes()));
  TRY(read_block(raw, 0, head.bytes()));
  if (!may_be_container(head.bytes())) {
    source.format = "raw";
    return {};
  }
  auto info = probe_image(target);
  if (!info) {
    return std::unexpected(info.error().wrap(
        fmt::format("cannot tell the format of {}; name it with --format", source.description)));
  }
  source.format = is_container_format(info->format) ? info->format : "raw";
  source.backing_file = info->backing_file;
  return {};
}

Result<void> open_file(ImageSource& source, const std::string& path) {
  TRY_ASSIGN(auto file, FileSource::open(path));
  // An absolute path, because qemu takes what stands before a colon for a protocol.
  source.description = std::filesystem::absolute(path).lexically_normal().string();
  if (source.format.empty()) TRY(find_format(source, *file, source.description));
  if (source.format != "raw") return open_with_qemu_nbd(source, source.description);
  source.blocks = std::move(file);
  return {};
}

Result<void> open_stdin(ImageSource& source, uint64_t size_bytes, Progress& spooling) {
  source.description = "stdin";
  if (!source.format.empty() && source.format != "raw") {
    return fail(ErrorKind::kInvalid, "only raw can be read from stdin; give {} as a file",
                source.format);
  }
  source.format = "raw";
  struct stat info{};
  if (::fstat(STDIN_FILENO, &info) == 0 && S_ISREG(info.st_mode) &&
      ::lseek(STDIN_FILENO, 0, SEEK_CUR) == 0) {
    TRY_ASSIGN(source.blocks, FileSource::from_fd(::dup(STDIN_FILENO), "stdin"));
    return {};
  }
  if (size_bytes > 0) {
    source.blocks = std::make_unique<StreamSource>(STDIN_FILENO, "stdin", size_bytes);
    source.can_reread = false;
    return {};
  }
  TRY_ASSIGN(const int fd, spool(STDIN_FILENO, spooling));
  TRY_ASSIGN(source.blocks, FileSource::from_fd(fd, "stdin"));
  return {};
}

Result<void> open_url(ImageSource& source, const std::string& text) {
  auto url = boost::urls::parse_uri(text);
  if (!url) return fail(ErrorKind::kInvalid, "'{}' is not a URL", text);
  // A user and password go another way, out of argument lists and messages.
  boost::urls::url address(*url);
  address.remove_userinfo();
  source.description = address.buffer();
  std::vector<std::string> argv = {"nbdkit",
                                   "--foreground",
                                   "--readonly",
                                   "curl",
                                   "url=" + source.description,
                                   "protocols=http,https"};
  if (url->has_userinfo()) {
    argv.push_back("user=" + url->user());
    argv.push_back(fmt::format("password=-{}", ChildProcess::kSecretFd));
  }
  TRY_ASSIGN(auto http,
             NbdHelper::start(std::move(argv), {.secret = url->password(), .package = "nbdkit"}));
  TRY_ASSIGN(auto raw, connect_helper(*http, source.description));
  const std::string uri = "nbd+unix:///?socket=" + http->socket_path();
  if (source.format.empty()) TRY(find_format(source, *raw, uri));
  if (source.format != "raw") {
    TRY(raw->disconnect());
    TRY(open_with_qemu_nbd(source, uri));
  } else {
    source.blocks = std::move(raw);
  }
  http->hide();
  source.helpers.push_front(std::move(http));
  return {};
}

}  // namespace

NbdHelper::NbdHelper(ChildProcess child, std::string directory, std::string socket_path)
    : child_(std::move(child)),
      directory_(std::move(directory)),
      socket_path_(std::move(socket_path)) {}

Result<std::unique_ptr<NbdHelper>> NbdHelper::start(std::vector<std::string> argv,
                                                    ChildProcess::Options options) {
  const char* set = std::getenv("TMPDIR");
  std::string directory =
      std::string(set != nullptr && *set != '\0' ? set : "/tmp") + "/squall-XXXXXX";
  if (::mkdtemp(directory.data()) == nullptr) {
    return fail_errno(errno, "cannot make a temporary directory {}", directory);
  }
  const std::string socket_path = directory + "/nbd.sock";
  const auto listening = listen_unix(socket_path);
  options.listen_fd = listening ? *listening : -1;
  Result<ChildProcess> child = listening ? ChildProcess::start(std::move(argv), options)
                                         : std::unexpected(listening.error());
  if (listening) ::close(*listening);
  if (!child) {
    ::unlink(socket_path.c_str());
    ::rmdir(directory.c_str());
    return std::unexpected(child.error());
  }
  return std::unique_ptr<NbdHelper>(
      new NbdHelper(std::move(*child), std::move(directory), socket_path));
}

void NbdHelper::hide() {
  if (directory_.empty()) return;
  ::unlink(socket_path_.c_str());
  ::rmdir(directory_.c_str());
  directory_.clear();
}

Result<ImageSource> open_image_source(const std::string& source, const ImageSourceOptions& options,
                                      Progress& spooling) {
  ImageSource opened;
  opened.format = options.format;
  if (source == "-") {
    TRY(open_stdin(opened, options.size_bytes, spooling));
  } else if (options.size_bytes > 0) {
    return fail(ErrorKind::kInvalid, "--size is for stdin; {} knows its own size", source);
  } else if (source.starts_with("http://") || source.starts_with("https://")) {
    TRY(open_url(opened, source));
  } else {
    TRY(open_file(opened, source));
  }
  return opened;
}

}  // namespace squall
