#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>

#include "api/units.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/table.h"
#include "fleet/fleet.h"
#include "fleet/qemu_launcher.h"

namespace squall {

namespace {

// What a fleet's verb works with.
struct FleetContext {
  FleetContext(const Context& context, const std::string& nbd_socket)
      : store(context.paths().home + "/fleets"),
        volumes([&context] { return context.connect(); }),
        launcher(context.paths().run_dir, nbd_socket),
        manager(store, volumes, launcher) {}
  FleetStore store;
  DaemonVolumes volumes;
  QemuLauncher launcher;
  FleetManager manager;
};

std::string seconds(std::optional<uint64_t> ms) {
  return ms ? fmt::format("{:.1f} s", static_cast<double>(*ms) / 1000) : "-";
}

std::string vm_table(const Context& context, const FleetStatus& status, size_t rows_max) {
  Table table({"VM", "STATE", ">BOOT", ">READ", ">WRITTEN"});
  const size_t rows = std::min(status.vms.size(), rows_max);
  for (size_t i = 0; i < rows; ++i) {
    const VmStatus& vm = status.vms[i];
    table.add({vm.name, std::string(to_string(vm.state)), seconds(vm.boot_ms),
               context.size(vm.bytes_read), context.size(vm.bytes_written)});
  }
  std::string text = table.to_string();
  if (rows < status.vms.size()) text += fmt::format("... and {} more\n", status.vms.size() - rows);
  return text;
}

std::string summary(const Context& context, const FleetStatus& status) {
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
  for (const VmStatus& vm : status.vms) {
    read_bytes += vm.bytes_read;
    written_bytes += vm.bytes_written;
  }
  std::string text =
      fmt::format("{} of {} VMs ready", status.vms_in(VmState::kReady), status.spec.count);
  if (status.elapsed_ms) text += " after " + seconds(status.elapsed_ms);
  return text + fmt::format("; {} read, {} written", context.size(read_bytes),
                            context.size(written_bytes));
}

// Shows the boot: a table that is drawn over itself on a terminal, otherwise a line per event.
class UpReport {
 public:
  explicit UpReport(const Context& context)
      : context_(context),
        enabled_(!context.options.quiet && !context.options.json),
        terminal_(::isatty(STDOUT_FILENO) == 1) {}

  void operator()(const FleetStatus& status) {
    if (!enabled_) return;
    if (terminal_)
      draw(status);
    else
      tell_changes(status);
  }

 private:
  void draw(const FleetStatus& status) {
    winsize size{};
    const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0;
    constexpr size_t kOtherLines = 4;  // header, "more", summary, the cursor's own
    const size_t rows_max =
        known ? std::max<size_t>(size.ws_row, kOtherLines + 1) - kOtherLines : 20;
    const std::string text =
        vm_table(context_, status, rows_max) + summary(context_, status) + "\n";
    // Up to the first line of the last drawing, and clear from there on.
    if (lines_ > 0) fmt::print("\x1b[{}A\x1b[J", lines_);
    context_.print(text);
    std::fflush(stdout);
    lines_ = std::ranges::count(text, '\n');
  }

  void tell_changes(const FleetStatus& status) {
    for (const VmStatus& vm : status.vms) {
      auto [known, added] = states_.try_emplace(vm.name, VmState::kDefined);
      if (known->second == vm.state) continue;
      known->second = vm.state;
      context_.print(fmt::format("{} {}{}{}", vm.name, to_string(vm.state),
                                 vm.boot_ms ? " after " + seconds(vm.boot_ms) : "",
                                 vm.detail.empty() ? "" : ": " + vm.detail));
    }
    std::fflush(stdout);
  }

  const Context& context_;
  const bool enabled_;
  const bool terminal_;
  ptrdiff_t lines_ = 0;
  std::map<std::string, VmState> states_;
};

Result<void> all_ready(const FleetStatus& status) {
  const uint32_t ready = status.vms_in(VmState::kReady);
  if (ready == status.spec.count) return {};
  const auto failed = std::ranges::find_if(
      status.vms, [](const VmStatus& vm) { return vm.state != VmState::kReady; });
  return fail(ErrorKind::kIo,
              "fleet {}: {} of {} VMs are not ready; {}: {} (`squall fleet down {}` takes it down)",
              status.spec.name, status.spec.count - ready, status.spec.count, failed->name,
              failed->detail, status.spec.name);
}

Result<void> fleet_up(Context& context, const FleetRequest& request,
                      FleetManager::UpOptions options) {
  catch_interrupts();
  TRY_ASSIGN(Client * client, context.client());
  TRY_ASSIGN(const StatusInfo daemon, client->status());
  FleetContext fleet(context, daemon.node.nbd_socket);
  UpReport report(context);
  options.report = [&report](const FleetStatus& status) { report(status); };
  options.check_interrupt = [] { return check_interrupt(); };
  TRY_ASSIGN(const FleetStatus status, fleet.manager.up(request, options));
  report(status);
  if (context.options.json) {
    context.print(encode_fleet_status(status));
  } else if (!context.options.quiet) {
    if (status.create_us)
      context.print(fmt::format("{} volumes created in {:.1f} ms", status.spec.count,
                                static_cast<double>(*status.create_us) / 1000));
    if (::isatty(STDOUT_FILENO) != 1) context.print(summary(context, status));
  }
  return all_ready(status);
}

Result<void> fleet_down(Context& context, const std::string& name,
                        const FleetManager::DownOptions& options) {
  FleetContext fleet(context, "");
  TRY(fleet.manager.down(name, options));
  if (!context.options.quiet && !context.options.json)
    context.print(fmt::format("fleet {} is down{}", name,
                              options.keep_volumes ? "; its volumes are kept" : ""));
  return {};
}

Result<void> fleet_list(Context& context) {
  FleetContext fleet(context, "");
  TRY_ASSIGN(const auto fleets, fleet.manager.list());
  if (context.options.json) {
    context.print(encode_fleet_statuses(fleets));
    return {};
  }
  Table table({"NAME", "IMAGE", ">VMS", ">READY", ">STARTING", ">STOPPED", "CREATED"});
  for (const FleetStatus& status : fleets) {
    table.add({status.spec.name, status.spec.image, std::to_string(status.spec.count),
               std::to_string(status.vms_in(VmState::kReady)),
               std::to_string(status.vms_in(VmState::kStarting)),
               std::to_string(status.vms_in(VmState::kStopped)), format_time(status.created_s)});
  }
  context.print(table.to_string());
  return {};
}

Result<void> fleet_show(Context& context, const std::string& name) {
  FleetContext fleet(context, "");
  TRY_ASSIGN(const FleetStatus status, fleet.manager.status(name));
  if (context.options.json) {
    context.print(encode_fleet_status(status));
    return {};
  }
  const FleetSpec& spec = status.spec;
  FieldList fields;
  fields.add("name", spec.name);
  fields.add("image", spec.image);
  fields.add("created", format_time(status.created_s));
  fields.add("volumes", spec.stateless ? "stateless" : std::string(to_string(spec.cache)));
  fields.add("VM", fmt::format("{} MiB, {} cpus, {}", spec.memory_mib, spec.cpus,
                               to_string(spec.accelerator)));
  fields.add("boot", spec.kernel.empty() ? "the image's boot loader" : spec.kernel);
  fields.add("logs", context.paths().home + "/fleets/" + spec.name + "/vm-*/console.log");
  context.print(fields.to_string() + "\n" + vm_table(context, status, status.vms.size()));
  return {};
}

// An option that is only set when given.
template <class T>
void add_optional(CLI::App& command, const std::string& name, std::optional<T>& to,
                  const std::string& description) {
  command.add_option_function<T>(name, [&to](const T& value) { to = value; }, description);
}

void add_up(CLI::App& group, Context& context) {
  struct Arguments {
    FleetRequest request;
    uint32_t timeout_s = 300;
  };
  auto arguments = std::make_shared<Arguments>();
  FleetRequest& request = arguments->request;
  auto* command = group.add_subcommand(
      "up", "Make a volume per VM, start the VMs, wait until all are ready; may be repeated");
  command->add_option("name", request.name, "The fleet; its VMs are NAME-1 ... NAME-N")->required();
  add_optional(*command, "--image", request.image, "The image to clone; needed for a new fleet");
  add_optional(*command, "--count", request.count, "How many VMs; needed for a new fleet");
  add_optional(*command, "--kernel", request.kernel,
               "Boot this kernel rather than the image's own boot loader");
  add_optional(*command, "--initrd", request.initrd, "With --kernel: its initial RAM disk");
  add_optional(*command, "--append", request.append, "With --kernel: its command line");
  add_optional(*command, "--memory", request.memory_mib, "MiB per VM (512)");
  add_optional(*command, "--cpus", request.cpus, "CPUs per VM (1)");
  add_optional(*command, "--ready", request.ready_text,
               "What on the serial console says that a VM is up (a login prompt)");
  add_parsed(*command, "--accel", request.accelerator, parse_accelerator,
             "auto (default: KVM where a guest really runs on it), kvm or tcg");
  add_parsed(
      *command, "--cache", request.cache, parse_cache_mode,
      "The volumes' cache mode: writeback (default), none, writethrough, directsync, unsafe");
  command->add_flag("--stateless", request.stateless, "Volumes that forget what is written");
  command->add_option("--timeout", arguments->timeout_s, "Seconds to wait for all VMs (300)");
  command->callback([&context, arguments] {
    FleetManager::UpOptions options;
    options.timeout = std::chrono::seconds(arguments->timeout_s);
    context.run([&] { return fleet_up(context, arguments->request, options); });
  });
}

void add_down(CLI::App& group, Context& context) {
  auto name = std::make_shared<std::string>();
  auto keep = std::make_shared<bool>(false);
  auto* command = group.add_subcommand("down", "Stop a fleet's VMs and remove its volumes");
  command->add_option("name", *name, "The fleet")->required();
  command->add_flag(
      "--keep-volumes", *keep,
      "Power the guests down and keep their disks; `fleet up NAME` starts them again");
  command->callback([&context, name, keep] {
    FleetManager::DownOptions options;
    options.keep_volumes = *keep;
    context.run([&] { return fleet_down(context, *name, options); });
  });
}

}  // namespace

void add_fleet_commands(CLI::App& app, Context& context) {
  auto& fleet = *app.add_subcommand("fleet", "VMs that boot together")->require_subcommand(1);
  add_up(fleet, context);
  add_down(fleet, context);
  fleet.add_subcommand("list", "List fleets")->callback([&context] {
    context.run([&] { return fleet_list(context); });
  });
  auto name = std::make_shared<std::string>();
  auto* show = fleet.add_subcommand("show", "Show a fleet and its VMs");
  show->add_option("name", *name, "The fleet")->required();
  show->callback([&context, name] { context.run([&] { return fleet_show(context, *name); }); });
}

}  // namespace squall
