// SqliteMetaStore: the catalog of a `file:` pool: one SQLite database, run on an executor.
//
// Group commit: whatever is queued when the executor gets to it, at least all calls of one turn of
// the event loop, runs in one SQLite transaction with one sync; calls complete in the order they
// were made, after that sync. A failed compare fails only its own transaction. If the group's
// commit fails, every call of the group gets that error. Belongs to one reactor's thread; close()
// (or no call in flight) before destruction.
#pragma once

#include <coroutine>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/executor.h"
#include "engine/meta_store.h"
#include "engine/sqlite_database.h"
#include "io/gate.h"

namespace squall {

class SqliteMetaStore final : public MetaStore {
 public:
  SqliteMetaStore(Reactor& reactor, std::unique_ptr<SqliteDatabase> database,
                  std::unique_ptr<Executor> executor);
  ~SqliteMetaStore() override;

  Task<Result<std::optional<std::string>>> get(std::string partition, std::string key) override;
  Task<Result<std::vector<MetaEntry>>> list(std::string partition_prefix,
                                            std::string key_prefix) override;
  Task<Result<void>> commit(MetaTransaction transaction) override;
  Task<Result<std::vector<std::string>>> check_structure() override;

  // Waits for the calls in flight, then closes the database. Later calls fail with kCancelled.
  Task<void> close();

 private:
  // One call; lives in its coroutine's frame until it is resumed.
  struct Call {
    enum class Kind { kGet, kList, kCommit, kCheck };
    Kind kind;
    MetaTransaction transaction;  // kCommit
    std::string partition, key;   // kGet; prefixes for kList
    Result<void> status = {};
    std::optional<std::string> value;
    std::vector<MetaEntry> entries;
    std::vector<std::string> problems;  // kCheck
    std::coroutine_handle<> waiter;
  };
  struct CallAwaiter {
    SqliteMetaStore& store;
    Call& call;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) {
      call.waiter = waiter;
      store.enqueue(call);
    }
    void await_resume() const noexcept {}
  };

  void enqueue(Call& call);
  // On the executor.
  void run_queued();
  void run_group(const std::vector<Call*>& calls);
  Result<void> run_call(Call& call);

  Reactor& reactor_;
  Gate gate_;
  std::mutex mutex_;
  std::vector<Call*> queue_;  // guarded by mutex_
  bool scheduled_ = false;    // guarded by mutex_: run_queued is on its way
  std::unique_ptr<SqliteDatabase> database_;
  std::unique_ptr<Executor> executor_;  // last: its thread uses the members above
};

}  // namespace squall
