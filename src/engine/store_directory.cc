#include "engine/store_directory.h"

#include "format/pool_identity.h"

namespace squall {

namespace {
// More than a marker takes, so that a file that is none is told from one that cannot be read.
constexpr uint64_t kMarkerFileBytesMax = 4096;
}  // namespace

std::string marker_path(const std::string& store) {
  return store + "/squall-store";
}

std::string segments_path(const std::string& store) {
  return store + "/segments";
}

Result<void> check_store_directory(FileSystem& file_system, const Uuid& pool,
                                   const StoreDirectory& directory) {
  auto bytes = file_system.read_file(marker_path(directory.path), kMarkerFileBytesMax);
  if (!bytes)
    return std::unexpected(bytes.error().wrap(fmt::format(
        "store {}: {} is not available (is its disk mounted?)", directory.name, directory.path)));
  auto marker = decode_store_marker(*bytes);
  if (!marker) return std::unexpected(marker.error().wrap(marker_path(directory.path)));
  if (marker->pool == pool && marker->name == directory.name) return {};
  return fail(ErrorKind::kExists,
              "store {}: {} holds store {} of pool {}, not of this pool ({}); mount the right disk "
              "or correct the store's path",
              directory.name, directory.path, marker->name, marker->pool.to_string(),
              pool.to_string());
}

Result<void> create_store_directory(FileSystem& file_system, const Uuid& pool,
                                    const StoreDirectory& directory) {
  const std::string marker = marker_path(directory.path);
  if (auto found = file_system.stat(marker); found || found.error().kind() != ErrorKind::kNotFound)
    return check_store_directory(file_system, pool, directory);
  TRY(file_system.make_directory(segments_path(directory.path)));
  TRY_ASSIGN(const auto segments, file_system.list(segments_path(directory.path)));
  if (!segments.empty())
    return fail(ErrorKind::kExists,
                "store {}: {} holds segments but no marker; use another directory", directory.name,
                directory.path);
  TRY(file_system.sync_directory(directory.path));
  TRY(file_system.sync_directory(parent_directory(directory.path)));
  return file_system.replace_file(marker, encode_store_marker({pool, directory.name}));
}

}  // namespace squall
