#include "io/file_system.h"

#include <utility>

namespace squall {

namespace {

// Closes on every way out.
class OpenFile {
 public:
  OpenFile(FileSystem& fs, int handle) : fs_(fs), handle_(handle) {}
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() { fs_.close(handle_); }
  int handle() const { return handle_; }

 private:
  FileSystem& fs_;
  int handle_;
};

Result<void> write_new_content(FileSystem& fs, const std::string& path, ConstBytes content) {
  TRY_ASSIGN(const int handle, fs.open(path, {.write = true, .create = true}));
  const OpenFile file(fs, handle);
  TRY(fs.truncate(handle, 0));  // an earlier attempt may have left more
  TRY(fs.write(handle, content, 0));
  return fs.sync(handle);
}

}  // namespace

Result<std::vector<std::byte>> FileSystem::read_file(const std::string& path, uint64_t max_bytes) {
  TRY_ASSIGN(const int handle, open(path, {}));
  const OpenFile file(*this, handle);
  TRY_ASSIGN(const FileInfo status, info(handle));
  if (status.size > max_bytes)
    return fail(ErrorKind::kInvalid, "reading '{}': it has {} bytes, at most {} are expected", path,
                status.size, max_bytes);
  std::vector<std::byte> content(status.size);
  TRY_ASSIGN(const size_t length, read(handle, content, 0));
  content.resize(length);
  return content;
}

// The temporary name is fixed, so that a crash leaves at most one behind, which the next
// replacement overwrites. Replacing one file from two places at once is the callers' to exclude.
Result<void> FileSystem::make_directory_durably(const std::string& path) {
  std::string existing = path;
  while (existing != "/" && !existing.empty() && !exists(existing))
    existing = parent_directory(existing);
  TRY(make_directory(path));
  for (std::string made = path; made.size() > existing.size(); made = parent_directory(made))
    TRY(sync_directory(parent_directory(made)));
  return {};
}

Result<void> FileSystem::replace_file(const std::string& path, ConstBytes content) {
  const std::string temporary = path + ".new";
  auto written = write_new_content(*this, temporary, content);
  if (written) written = rename(temporary, path);
  if (!written) {
    (void)remove(temporary);
    return std::unexpected(std::move(written).error().wrap("replacing '" + path + "'"));
  }
  return sync_directory(parent_directory(path));
}

std::string parent_directory(const std::string& path) {
  size_t end = path.find_last_not_of('/');
  if (end == std::string::npos) return path.empty() ? "." : "/";
  end = path.rfind('/', end);
  if (end == std::string::npos) return ".";
  end = path.find_last_not_of('/', end);
  return end == std::string::npos ? "/" : path.substr(0, end + 1);
}

}  // namespace squall
