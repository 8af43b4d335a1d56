#include "engine/sqlite_meta_store.h"

namespace squall {
namespace {

Error closed_error() {
  return Error(ErrorKind::kCancelled, "catalog: closed");
}

}  // namespace

SqliteMetaStore::SqliteMetaStore(Reactor& reactor, std::unique_ptr<SqliteDatabase> database,
                                 std::unique_ptr<Executor> executor)
    : reactor_(reactor), database_(std::move(database)), executor_(std::move(executor)) {}

SqliteMetaStore::~SqliteMetaStore() {
  CHECK(gate_.inside() == 0);
}

Task<Result<std::optional<std::string>>> SqliteMetaStore::get(std::string partition,
                                                              std::string key) {
  auto pass = gate_.enter();
  if (!pass) co_return std::unexpected(closed_error());
  Call call{.kind = Call::Kind::kGet, .partition = std::move(partition), .key = std::move(key)};
  co_await CallAwaiter{*this, call};
  if (!call.status) co_return std::unexpected(std::move(call.status).error());
  co_return std::move(call.value);
}

Task<Result<std::vector<MetaEntry>>> SqliteMetaStore::list(std::string partition_prefix,
                                                           std::string key_prefix) {
  auto pass = gate_.enter();
  if (!pass) co_return std::unexpected(closed_error());
  Call call{.kind = Call::Kind::kList,
            .partition = std::move(partition_prefix),
            .key = std::move(key_prefix)};
  co_await CallAwaiter{*this, call};
  if (!call.status) co_return std::unexpected(std::move(call.status).error());
  co_return std::move(call.entries);
}

Task<Result<void>> SqliteMetaStore::commit(MetaTransaction transaction) {
  auto pass = gate_.enter();
  if (!pass) co_return std::unexpected(closed_error());
  CO_TRY(check_transaction(transaction));
  Call call{.kind = Call::Kind::kCommit, .transaction = std::move(transaction)};
  co_await CallAwaiter{*this, call};
  co_return std::move(call.status);
}

Task<Result<std::vector<std::string>>> SqliteMetaStore::check_structure() {
  auto pass = gate_.enter();
  if (!pass) co_return std::unexpected(closed_error());
  Call call{.kind = Call::Kind::kCheck};
  co_await CallAwaiter{*this, call};
  if (!call.status) co_return std::unexpected(std::move(call.status).error());
  co_return std::move(call.problems);
}

Task<void> SqliteMetaStore::close() {
  co_await gate_.close();
  // Behind run_queued on the executor, which may still be checkpointing.
  co_await run_on(*executor_, reactor_, [this] {
    database_.reset();
    return true;
  });
}

void SqliteMetaStore::enqueue(Call& call) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(&call);
    if (std::exchange(scheduled_, true)) return;
  }
  // By way of the event loop, so that all calls of this turn of it are in the queue by then.
  reactor_.post([this] { executor_->run([this] { run_queued(); }); });
}

void SqliteMetaStore::run_queued() {
  std::vector<Call*> calls;
  {
    std::lock_guard lock(mutex_);
    calls.swap(queue_);
    scheduled_ = false;
  }
  run_group(calls);
  reactor_.post([calls = std::move(calls)] {
    for (Call* call : calls) call->waiter.resume();
  });
  database_->checkpoint_if_due();
}

void SqliteMetaStore::run_group(const std::vector<Call*>& calls) {
  auto outcome = database_->begin();
  if (outcome) {
    for (Call* call : calls) {
      outcome = run_call(*call);
      if (!outcome) break;
    }
    if (outcome)
      outcome = database_->commit();
    else
      database_->rollback();
  }
  if (outcome) return;
  // Reads too: they may have seen what did not become durable.
  for (Call* call : calls) call->status = outcome;
}

// Keeps the call's own outcome in it; returns an error only when the whole group must be undone.
Result<void> SqliteMetaStore::run_call(Call& call) {
  switch (call.kind) {
    case Call::Kind::kGet: {
      auto value = database_->get(call.partition, call.key);
      if (value)
        call.value = std::move(*value);
      else
        call.status = std::unexpected(std::move(value).error());
      return {};
    }
    case Call::Kind::kList: {
      auto entries = database_->list(call.partition, call.key);
      if (entries)
        call.entries = std::move(*entries);
      else
        call.status = std::unexpected(std::move(entries).error());
      return {};
    }
    case Call::Kind::kCheck: {
      auto problems = database_->check_structure();
      if (problems)
        call.problems = std::move(*problems);
      else
        call.status = std::unexpected(std::move(problems).error());
      return {};
    }
    case Call::Kind::kCommit:
      // All compares come before the first put, so that a conflict has nothing to undo.
      call.status = database_->compare(call.transaction);
      if (!call.status) return {};
      return database_->put(call.transaction);
  }
  CHECK(false);
}

}  // namespace squall
