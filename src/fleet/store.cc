#include "fleet/store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "fleet/process.h"

namespace squall {

namespace {

constexpr size_t kFleetFileBytesMax = 2 * 1024 * 1024;
constexpr size_t kVmFileBytesMax = 4096;

Result<void> check_name(const std::string& name) {
  if (!is_valid_name(name)) return fail(ErrorKind::kInvalid, "\"{}\" is no fleet's name", name);
  return {};
}

bool is_same_file(int fd, const std::string& path) {
  struct stat held{};
  struct stat named{};
  return ::fstat(fd, &held) == 0 && ::stat(path.c_str(), &named) == 0 &&
         held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

}  // namespace

FleetLock::FleetLock(FleetLock&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

FleetLock::~FleetLock() {
  if (fd_ < 0) return;
  ::unlink(path_.c_str());  // while it is held: who waits for it sees that it is another file
  ::close(fd_);
}

Result<FleetLock> FleetStore::lock(const std::string& name) {
  TRY(check_name(name));
  std::error_code error;
  std::filesystem::create_directories(directory_, error);
  if (error) return fail_errno(error.value(), "cannot create {}", directory_);
  // No fleet's name begins with a dot.
  const std::string path = directory_ + "/." + name + ".lock";
  for (;;) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return fail_errno(errno, "cannot create {}", path);
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      ::close(fd);
      return fail(ErrorKind::kBusy, "another command works on fleet {}; wait for it", name);
    }
    if (is_same_file(fd, path)) return FleetLock(path, fd);
    ::close(fd);
  }
}

Result<std::vector<std::string>> FleetStore::list() const {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory_, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename();
    if (is_valid_name(name) && ::access((it->path() / "fleet.json").c_str(), F_OK) == 0)
      names.push_back(name);
  }
  if (error && error != std::errc::no_such_file_or_directory)
    return fail_errno(error.value(), "cannot list {}", directory_);
  std::ranges::sort(names);
  return names;
}

Result<FleetRecord> FleetStore::load(const std::string& name) const {
  TRY(check_name(name));
  const std::string path = directory_ + "/" + name + "/fleet.json";
  auto content = read_small_file(path, kFleetFileBytesMax);
  if (!content && content.error().kind() == ErrorKind::kNotFound)
    return fail(ErrorKind::kNotFound, "there is no fleet {}", name);
  if (!content) return std::unexpected(content.error());
  auto record = decode_fleet_record(*content);
  if (!record) return std::unexpected(record.error().wrap(path));
  if (record->spec.name != name)
    return fail(ErrorKind::kCorrupt, "{}: this is the definition of another fleet", path);
  return record;
}

Result<void> FleetStore::save(const FleetRecord& record) {
  const std::string directory = directory_ + "/" + record.spec.name;
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return fail_errno(error.value(), "cannot create {}", directory);
  return write_file_atomically(directory + "/fleet.json", encode_fleet_record(record));
}

Result<void> FleetStore::remove(const std::string& name) {
  TRY(check_name(name));
  std::error_code error;
  std::filesystem::remove_all(directory_ + "/" + name, error);
  if (error) return fail_errno(error.value(), "cannot remove {}/{}", directory_, name);
  return {};
}

std::string FleetStore::vm_directory(const FleetSpec& fleet, uint32_t index) const {
  return fmt::format("{}/{}/vm-{}", directory_, fleet.name, index);
}

Result<std::optional<VmRecord>> FleetStore::load_vm(const FleetSpec& fleet, uint32_t index) const {
  const std::string path = vm_directory(fleet, index) + "/vm.json";
  auto content = read_small_file(path, kVmFileBytesMax);
  if (!content && content.error().kind() == ErrorKind::kNotFound) return std::optional<VmRecord>();
  if (!content) return std::unexpected(content.error());
  auto record = decode_vm_record(*content);
  if (!record) return std::unexpected(record.error().wrap(path));
  return std::optional(*record);
}

Result<void> FleetStore::save_vm(const FleetSpec& fleet, uint32_t index, const VmRecord& record) {
  const std::string directory = vm_directory(fleet, index);
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return fail_errno(error.value(), "cannot create {}", directory);
  return write_file_atomically(directory + "/vm.json", encode_vm_record(record));
}

}  // namespace squall
