#include "cli/export.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <filesystem>

#include "cli/block_copy.h"
#include "cli/child_process.h"
#include "cli/file_blocks.h"
#include "cli/interrupt.h"
#include "cli/nbd_blocks.h"

namespace squall {

namespace {

Result<void> export_raw(BlockSource& disk, const ExportOptions& options, Progress& progress) {
  TRY_ASSIGN(auto file, FileSink::create(options.file, disk.size_bytes(), options.force));
  TRY(copy_blocks(disk, *file, progress));
  return file->commit();
}

// qemu's option syntax: a comma in a value is doubled.
std::string option_value(std::string_view text) {
  std::string value;
  for (const char c : text) value.append(c == ',' ? 2 : 1, c);
  return value;
}

// Follows qemu-img's "    (12.34/100%)\r" on `fd` until it closes it.
Result<void> follow_percent(int fd, uint64_t size_bytes, Progress& progress) {
  progress.set_total(size_bytes);
  std::array<char, 512> buffer{};
  for (;;) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    TRY(check_interrupt());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return {};
    const std::string_view text(buffer.data(), static_cast<size_t>(n));
    const size_t open = text.rfind('(');
    if (open == std::string_view::npos) continue;
    double percent = 0;
    std::from_chars(text.data() + open + 1, text.data() + text.size(), percent);
    const auto done = static_cast<uint64_t>(percent / 100 * static_cast<double>(size_bytes));
    if (done > progress.done_bytes()) progress.add(done - progress.done_bytes());
  }
}

Result<void> sync_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const int result = fd < 0 ? -1 : ::fsync(fd);
  const int sync_errno = errno;
  if (fd >= 0) ::close(fd);
  if (result != 0) return fail_errno(sync_errno, "writing {} to disk", path);
  return {};
}

class TemporaryFile {
 public:
  explicit TemporaryFile(std::string path) : path_(std::move(path)) {}
  ~TemporaryFile() { ::unlink(path_.c_str()); }  // gone already when it was moved
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

Result<void> export_qcow2(const std::string& nbd_socket, uint64_t size_bytes,
                          const ExportOptions& options, Progress& progress) {
  TRY_ASSIGN(std::string temporary_path, temporary_beside(options.file, options.force));
  const TemporaryFile temporary(std::move(temporary_path));
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) return fail_errno(errno, "cannot start qemu-img");
  auto child = ChildProcess::start(
      {"qemu-img", "convert", "-p", "--image-opts",
       fmt::format("driver=nbd,export={},server.type=unix,server.path={}",
                   option_value(options.disk), option_value(nbd_socket)),
       "-O", "qcow2", "--", std::filesystem::absolute(temporary.path()).string()},
      {.stdout_fd = pipe[1], .package = "qemu-utils"});
  ::close(pipe[1]);
  Result<void> ended =
      child ? follow_percent(pipe[0], size_bytes, progress) : std::unexpected(child.error());
  ::close(pipe[0]);
  TRY(std::move(ended));
  if (Result<void> exited = child->wait(); !exited) {
    return std::unexpected(exited.error().wrap(fmt::format("cannot write {}", options.file)));
  }
  TRY(sync_file(temporary.path()));  // qemu-img leaves it to the page cache
  return move_into_place(temporary.path(), options.file, options.force);
}

Result<std::string> choose_format(const ExportOptions& options) {
  if (options.format.empty()) return options.file.ends_with(".qcow2") ? "qcow2" : "raw";
  if (options.format == "raw" || options.format == "qcow2") return options.format;
  return fail(ErrorKind::kInvalid, "cannot export to format '{}'; use raw or qcow2",
              options.format);
}

}  // namespace

Result<void> export_disk(Context& context, const ExportOptions& options) {
  TRY_ASSIGN(const std::string format, choose_format(options));
  catch_interrupts();
  TRY_ASSIGN(Client * client, context.client());
  TRY_ASSIGN(const StatusInfo status, client->status());
  TRY_ASSIGN(auto disk,
             NbdBlocks::connect(status.node.nbd_socket, options.disk, "disk " + options.disk));
  Progress progress("export " + options.disk, !context.options.quiet);
  if (format == "raw") {
    TRY(export_raw(*disk, options, progress));
    return disk->disconnect();
  }
  const uint64_t size_bytes = disk->size_bytes();
  TRY(disk->disconnect());
  return export_qcow2(status.node.nbd_socket, size_bytes, options, progress);
}

}  // namespace squall
