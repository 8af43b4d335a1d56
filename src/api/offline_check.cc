#include "api/offline_check.h"

#include "check/repair.h"
#include "engine/file_engine.h"
#include "io/posix_file_system.h"
#include "io/run_task.h"
#include "io/uring_reactor.h"

namespace squall {

namespace {

// The report of a pool so damaged that it cannot be opened.
CheckReport report_of(const Config& config, const Error& error) {
  CheckReport report;
  report.faults.push_back(
      {.kind = FaultKind::kPool,
       .object = "pool " + config.pool.directory,
       .problem = error.message(),
       .advice = "put a copy of the damaged file back; nothing else could be verified"});
  return report;
}

Task<Result<CheckReport>> check_and_repair(CheckTarget target, CheckOptions options) {
  CO_TRY_ASSIGN(CheckReport before, co_await check_pool(target, options));
  CO_TRY_ASSIGN(auto actions, co_await repair_pool(target, std::move(before)));
  CO_TRY_ASSIGN(CheckReport after, co_await check_pool(target, std::move(options)));
  after.actions = std::move(actions);
  co_return after;
}

}  // namespace

Result<CheckReport> check_offline(const Config& config, CheckOptions options, bool repair) {
  PosixFileSystem files;
  TRY_ASSIGN(const auto reactor, UringReactor::create());
  auto engine = open_file_engine(*reactor, files, config.pool.directory);
  if (!engine && engine.error().kind() == ErrorKind::kCorrupt)
    return report_of(config, engine.error());
  if (!engine) return std::unexpected(engine.error());
  const auto executor = make_thread_executor(*reactor, "squall-check");
  const CheckTarget target{.reactor = *reactor,
                           .executor = *executor,
                           .segments = *engine->segments,
                           .catalog = *engine->meta,
                           .logs = *engine->logs,
                           .pool = engine->identity.id,
                           .files = &files,
                           .journal_directory = config.journal_directory};
  auto report = repair ? run_task(*reactor, check_and_repair(target, std::move(options)))
                       : run_task(*reactor, check_pool(target, std::move(options)));
  run_task(*reactor, engine->close());
  return report;
}

}  // namespace squall
