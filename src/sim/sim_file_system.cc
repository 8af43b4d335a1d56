#include "sim/sim_file_system.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

namespace squall::sim {

int check_direct(const OpenFile& file, std::span<const iovec> iov, uint64_t offset) {
  if (!file.options.direct) return 0;
  uint64_t bits = offset;
  for (const iovec& part : iov) {
    bits |= part.iov_len | reinterpret_cast<uintptr_t>(part.iov_base);
  }
  return bits % kDirectAlignment == 0 ? 0 : -EINVAL;
}

SimFileSystem::SimFileSystem(SimDisk& disk, FileTable& table, Trace& trace)
    : core_(disk.core()), table_(table), trace_(trace) {}

SimFileSystem::~SimFileSystem() {
  for (const auto& mapping : mappings_) core_->unmap(mapping->mapping);
}

Result<OpenFileRef> SimFileSystem::find(int handle, const char* operation) const {
  OpenFileRef file = table_.find(handle);
  if (file == nullptr) return fail_errno(EBADF, "{}: handle {} is not open", operation, handle);
  return file;
}

Result<void> SimFileSystem::answer(int64_t result, const char* operation, const std::string& path,
                                   uint64_t offset) {
  trace_.add(as_bytes(operation));
  trace_.add(as_bytes(path));
  trace_.add({offset, static_cast<uint64_t>(result)});
  if (result >= 0) return {};
  return fail_errno(static_cast<int>(-result), "{} {} at offset {}", operation, path, offset);
}

Result<int> SimFileSystem::open(const std::string& path, OpenOptions options) {
  OpenFileRef file;
  TRY(answer(core_->open(path, options, file), "open", path));
  const int handle = ++table_.last_handle;
  table_.files.emplace(handle, std::move(file));
  return handle;
}

void SimFileSystem::close(int handle) {
  table_.files.erase(handle);
}

Result<size_t> SimFileSystem::read(int handle, Bytes to, uint64_t offset) {
  TRY_ASSIGN(const OpenFileRef file, find(handle, "read"));
  const iovec iov{to.data(), to.size()};
  int64_t result = check_direct(*file, std::span(&iov, 1), offset);
  if (result == 0) result = core_->read(*file, offset, to);
  TRY(answer(result, "read", file->path, offset));
  return static_cast<size_t>(result);
}

Result<void> SimFileSystem::write(int handle, std::span<const iovec> from, uint64_t offset) {
  TRY_ASSIGN(const OpenFileRef file, find(handle, "write"));
  int result = check_direct(*file, from, offset);
  std::vector<std::byte> data;
  for (const iovec& part : from) {
    const auto* begin = static_cast<const std::byte*>(part.iov_base);
    data.insert(data.end(), begin, begin + part.iov_len);
  }
  if (result == 0) result = core_->write(*file, offset, data);
  trace_.add(data);
  return answer(result, "write", file->path, offset);
}

Result<void> SimFileSystem::sync(int handle) {
  TRY_ASSIGN(const OpenFileRef file, find(handle, "sync"));
  return answer(core_->sync(*file, core_->begin_sync(*file)), "sync", file->path);
}

Result<void> SimFileSystem::truncate(int handle, uint64_t size) {
  TRY_ASSIGN(const OpenFileRef file, find(handle, "truncate"));
  return answer(core_->truncate(*file, size), "truncate", file->path, size);
}

Result<void> SimFileSystem::allocate(int handle, uint64_t size) {
  TRY_ASSIGN(const OpenFileRef file, find(handle, "allocate"));
  return answer(core_->allocate(*file, size), "allocate", file->path, size);
}

Result<void> SimFileSystem::punch(int handle, uint64_t offset, uint64_t length) {
  TRY_ASSIGN(const OpenFileRef file, find(handle, "punch"));
  return answer(core_->punch(*file, offset, length), "punch", file->path, offset);
}

Result<FileInfo> SimFileSystem::info(int handle) {
  TRY_ASSIGN(const OpenFileRef file, find(handle, "info"));
  FileInfo info;
  TRY(answer(core_->info(*file, info), "info", file->path));
  return info;
}

Result<void> SimFileSystem::lock(int handle, uint64_t wait_ms) {
  TRY_ASSIGN(const OpenFileRef file, find(handle, "lock"));
  return answer(core_->lock(*file), "lock", file->path);
}

Result<Bytes> SimFileSystem::map(int handle, uint64_t size) {
  TRY_ASSIGN(const OpenFileRef file, find(handle, "map"));
  auto owned = std::make_unique<OwnedMapping>();
  owned->memory = AlignedBuffer(size);
  owned->mapping = {.file = file, .memory = owned->memory.bytes()};
  TRY(answer(core_->map(owned->mapping), "map", file->path, size));
  mappings_.push_back(std::move(owned));
  return mappings_.back()->memory.bytes();
}

void SimFileSystem::unmap(Bytes mapping) {
  const auto found = std::ranges::find_if(
      mappings_, [&](const auto& owned) { return owned->memory.data() == mapping.data(); });
  CHECK(found != mappings_.end());
  core_->unmap((*found)->mapping);
  mappings_.erase(found);
}

Result<FileInfo> SimFileSystem::stat(const std::string& path) {
  FileInfo info;
  TRY(answer(core_->stat(path, info), "stat", path));
  return info;
}

Result<void> SimFileSystem::make_directory(const std::string& path) {
  return answer(core_->make_directory(path), "make directory", path);
}

Result<std::vector<std::string>> SimFileSystem::list(const std::string& directory) {
  std::vector<std::string> names;
  TRY(answer(core_->list(directory, names), "list", directory));
  return names;
}

Result<void> SimFileSystem::remove(const std::string& path) {
  return answer(core_->remove(path), "remove", path);
}

Result<void> SimFileSystem::rename(const std::string& from, const std::string& to) {
  trace_.add(as_bytes(to));
  return answer(core_->rename(from, to), "rename", from);
}

Result<void> SimFileSystem::sync_directory(const std::string& path) {
  return answer(core_->sync_directory(path), "sync directory", path);
}

Result<SpaceInfo> SimFileSystem::space(const std::string& path) {
  SpaceInfo info;
  TRY(answer(core_->space(path, info), "space of", path));
  return info;
}

}  // namespace squall::sim
