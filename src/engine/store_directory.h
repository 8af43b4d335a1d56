// A directory as a store of a pool: its marker file and where its segments lie. Blocking; any
// thread.
#pragma once

#include <string>

#include "base/error.h"
#include "base/uuid.h"
#include "io/file_system.h"

namespace squall {

struct StoreDirectory {
  std::string name;
  std::string path;
};

std::string marker_path(const std::string& store);
std::string segments_path(const std::string& store);

// Makes `directory` a store of that pool: the directories, then the marker, all durable. Doing it
// again is fine. kExists: the directory belongs to another pool or store, or holds segments without
// a marker.
Result<void> create_store_directory(FileSystem& file_system, const Uuid& pool,
                                    const StoreDirectory& directory);
// Ok when `directory` carries the marker of that store of that pool.
Result<void> check_store_directory(FileSystem& file_system, const Uuid& pool,
                                   const StoreDirectory& directory);

}  // namespace squall
