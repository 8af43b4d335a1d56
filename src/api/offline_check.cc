#include "api/offline_check.h"

#include "engine/file_engine.h"
#include "io/posix_file_system.h"
#include "io/run_task.h"
#include "io/uring_reactor.h"

namespace squall {

Result<CheckReport> check_offline(const Config& config, CheckOptions options) {
  PosixFileSystem files;
  TRY_ASSIGN(const auto reactor, UringReactor::create());
  auto engine = open_file_engine(*reactor, files, config.pool.directory);
  if (!engine && engine.error().kind() == ErrorKind::kCorrupt) {
    CheckReport report;
    report.faults.push_back({.kind = FaultKind::kPool,
                             .object = "pool " + config.pool.directory,
                             .problem = engine.error().message(),
                             .advice = "put a copy of the damaged file back; nothing else could "
                                       "be verified"});
    return report;
  }
  if (!engine) return std::unexpected(engine.error());
  const auto executor = make_thread_executor(*reactor, "squall-check");
  auto report = run_task(*reactor, check_pool({.reactor = *reactor,
                                               .executor = *executor,
                                               .segments = *engine->segments,
                                               .catalog = *engine->meta,
                                               .logs = *engine->logs,
                                               .pool = engine->identity.id,
                                               .files = &files,
                                               .journal_directory = config.journal_directory},
                                              std::move(options)));
  run_task(*reactor, engine->close());
  return report;
}

}  // namespace squall
