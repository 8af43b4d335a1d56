// FileLogStore: the logs of a `file:` pool, DIR/logs/<volume, 16 hex digits>.<part>. One directory
// listing at open; headers and contents are read when first needed. Same thread and lifetime rules
// as DirectorySegmentStore.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/uuid.h"
#include "engine/executor.h"
#include "engine/handle_cache.h"
#include "engine/log_store.h"
#include "format/log_part.h"
#include "io/file_system.h"
#include "io/sync.h"

namespace squall {

class FileLogStore final : public LogStore {
 public:
  static Result<std::unique_ptr<FileLogStore>> open(Reactor& reactor, FileSystem& file_system,
                                                    Executor& executor, const Uuid& pool,
                                                    std::string directory,
                                                    size_t open_files_max = 256);

  Task<Result<void>> append(uint64_t volume, uint64_t epoch, ConstBytes bytes) override;
  Task<Result<uint64_t>> rotate(uint64_t volume, uint64_t epoch) override;
  Task<Result<std::vector<uint64_t>>> parts(uint64_t volume) override;
  Task<Result<LogPart>> read(uint64_t volume, uint64_t part) override;
  Task<Result<void>> drop_before(uint64_t volume, uint64_t part) override;
  Task<Result<void>> remove(uint64_t volume) override;
  Task<Result<std::vector<uint64_t>>> list() override;

 private:
  struct Log {
    explicit Log(Reactor& reactor) : mutex(reactor) {}
    Mutex mutex;                  // held by every call but parts() and list()
    std::vector<uint64_t> parts;  // ascending
    bool epoch_known = false;
    uint64_t epoch = 0;
    // The newest part takes appends: this process began it and no append to it has failed.
    bool appendable = false;
    uint64_t size_bytes = 0;  // of the newest part, all durable, while appendable
  };

  FileLogStore(Reactor& reactor, FileSystem& file_system, Executor& executor, const Uuid& pool,
               std::string directory, size_t open_files_max)
      : reactor_(reactor),
        file_system_(file_system),
        executor_(executor),
        pool_(pool),
        directory_(std::move(directory)),
        handles_(file_system, open_files_max) {}

  Result<void> read_names();
  std::string path_of(uint64_t volume, uint64_t part) const;
  Log& log_of(uint64_t volume);
  Task<Result<void>> check_epoch(uint64_t volume, Log& log, uint64_t epoch);
  Task<Result<void>> begin_part(uint64_t volume, Log& log, uint64_t epoch);
  Task<Result<void>> write_frame(uint64_t volume, Log& log, ConstBytes bytes);
  Task<Result<void>> remove_parts(uint64_t volume, Log& log, size_t count);

  Reactor& reactor_;
  FileSystem& file_system_;
  Executor& executor_;
  const Uuid pool_;
  const std::string directory_;
  HandleCache handles_;  // of each volume's newest part, by volume
  // Logs stay here once touched, also removed ones: calls may wait for their mutex.
  std::unordered_map<uint64_t, std::unique_ptr<Log>> logs_;
};

}  // namespace squall
