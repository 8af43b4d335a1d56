#include <chrono>
#include <memory>
#include <thread>

#include "api/offline_check.h"
#include "api/units.h"
#include "api/wire.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/progress.h"

namespace squall {

namespace {

struct CheckArguments {
  uint64_t rate_bytes_per_s = CheckRequest{}.rate_bytes_per_s;
  bool repair = false;
};

std::string describe(const CheckProgress& progress) {
  return fmt::format("check: {} {}%, {} read{}", progress.phase, progress.percent,
                     format_size(progress.read_bytes),
                     progress.faults == 0 ? "" : fmt::format(", {} suspects", progress.faults));
}

// By the daemon; leaving ends the connection, and with it the check.
Result<CheckReport> check_online(Context& context, Client& client, uint64_t rate_bytes_per_s) {
  constexpr auto kPollInterval = std::chrono::milliseconds(100);
  TRY_ASSIGN(const uint64_t id, client.start_check({rate_bytes_per_s}));
  StatusLine line(!context.options.quiet);
  for (;;) {
    TRY_ASSIGN(CheckStatus status, client.check_status(id));
    if (status.done && !status.error.empty()) return fail(ErrorKind::kIo, "{}", status.error);
    if (status.done) return std::move(status.report);
    line.show(describe(status.progress));
    TRY(check_interrupt());
    std::this_thread::sleep_for(kPollInterval);
  }
}

Result<CheckReport> check_without_daemon(Context& context, bool repair) {
  TRY_ASSIGN(const Config config, load_config(context.config_file(), context.paths()));
  StatusLine line(!context.options.quiet);
  CheckOptions options;
  options.cancelled = [] { return !check_interrupt(); };
  options.on_progress = [&line](const CheckProgress& progress) { line.show(describe(progress)); };
  return check_offline(config, std::move(options), repair);
}

void print(const Context& context, const CheckReport& report) {
  if (context.options.json) {
    context.print(wire::encode(report));
    return;
  }
  for (const std::string& action : report.actions) context.print("repaired: " + action);
  for (const Fault& fault : report.faults) context.print(fault.to_line());
  if (context.options.quiet) return;
  context.print(fmt::format(
      "verified {} in {} segments: {} volumes, snapshots and images, {} index pages, {} records",
      context.size(report.read_bytes), report.segments, report.roots, report.pages,
      report.records));
}

Result<void> check(Context& context, const CheckArguments& arguments) {
  catch_interrupts();
  auto client = context.connect();
  if (!client && client.error().kind() != ErrorKind::kNotFound)
    return std::unexpected(client.error());
  if (client && arguments.repair)
    return fail(ErrorKind::kBusy, "squalld is running; stop it, then run: squall check --repair");
  auto report = client ? check_online(context, *client, arguments.rate_bytes_per_s)
                       : check_without_daemon(context, arguments.repair);
  if (!report) return std::unexpected(report.error());
  print(context, *report);
  const uint64_t faults = report->faults.size() + report->faults_left_out;
  if (faults == 0) return {};
  return fail(ErrorKind::kCorrupt, "check: {} fault{} {}", faults, faults == 1 ? "" : "s",
              arguments.repair ? "cannot be repaired" : "found");
}

}  // namespace

void add_check_command(CLI::App& app, Context& context) {
  auto arguments = std::make_shared<CheckArguments>();
  auto* command = app.add_subcommand("check", "Verify everything that the pool holds");
  add_size(*command, "--rate", arguments->rate_bytes_per_s,
           "Bytes a second that a running daemon reads for it; 0: as fast as it goes");
  command->add_flag("--repair", arguments->repair,
                    "Make good what can be made good; squalld must not be running");
  command->callback(
      [&context, arguments] { context.run([&] { return check(context, *arguments); }); });
}

}  // namespace squall
