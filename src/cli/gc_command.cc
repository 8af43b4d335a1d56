#include <chrono>
#include <thread>

#include "api/units.h"
#include "api/wire.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/table.h"

namespace squall {

namespace {

// Waits until the daemon has done what `ticket` stands for. Ctrl-C cancels the collection.
Result<CollectorStatus> wait_for(Client& client, uint64_t ticket, bool quiet) {
  constexpr auto kPollInterval = std::chrono::milliseconds(100);
  StatusLine line(!quiet);
  catch_interrupts();
  for (;;) {
    TRY_ASSIGN(CollectorStatus status, client.gc_status());
    if (status.ticket >= ticket) return status;
    line.show(fmt::format("garbage collection: {} {}%", status.phase, status.percent));
    if (!check_interrupt()) {
      TRY(client.cancel_gc());
      return fail(ErrorKind::kCancelled,
                  "garbage collection was cancelled; what it had freed stays free");
    }
    std::this_thread::sleep_for(kPollInterval);
  }
}

Result<void> collect(Context& context) {
  TRY_ASSIGN(Client * client, context.client());
  TRY_ASSIGN(const GcStarted started, client->start_gc());
  TRY_ASSIGN(const CollectorStatus status,
             wait_for(*client, started.ticket, context.options.quiet));
  if (!status.error.empty()) return fail(ErrorKind::kIo, "{}", status.error);
  const CollectionReport& report = status.last;
  if (context.options.json) {
    context.print(wire::encode(report));
    return {};
  }
  if (context.options.quiet) return {};
  FieldList fields;
  fields.add("freed",
             fmt::format("{} in {} records, {} whole segments", context.size(report.freed_bytes),
                         report.freed_records, report.removed_segments));
  fields.add("moved", context.size(report.moved_bytes));
  fields.add("live",
             fmt::format("{} in {} records", context.size(report.live_bytes), report.live_records));
  fields.add("held", context.size(report.held_bytes));
  if (report.unreadable_segments > 0)
    fields.add("unreadable", fmt::format("{} segments have no valid footer and were left alone; "
                                         "run: squall check",
                                         report.unreadable_segments));
  fields.add("took", format_duration(report.duration_ms));
  context.print(fields.to_string());
  return {};
}

}  // namespace

void add_gc_command(CLI::App& app, Context& context) {
  app.add_subcommand("gc", "Give back the space that nothing uses any more")->callback([&context] {
    context.run([&] { return collect(context); });
  });
}

}  // namespace squall
