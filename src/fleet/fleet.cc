// The order of steps is what makes them repeatable. up: the record of the fleet is written before
// the first volume is made, the record of its volumes before the first VM starts, a VM's record
// before its process. down: VMs, then volumes, then the record. So whatever a cut-off run leaves is
// named by a record, and the next up or down continues from it. A volume that was made but not
// noted is known by its name, its image and its date.
#include "fleet/fleet.h"

#include <algorithm>
#include <map>
#include <optional>
#include <thread>

#include "fleet/console.h"

namespace squall {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr size_t kConsoleLineMax = 160;

int64_t unix_time_s() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

uint64_t elapsed_ms(Clock::time_point since) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<milliseconds>(Clock::now() - since).count());
}

const FleetRecord::Volume* find_volume(const FleetRecord& record, const std::string& name) {
  const auto found = std::ranges::find(record.volumes, name, &FleetRecord::Volume::name);
  return found == record.volumes.end() ? nullptr : &*found;
}

// Made for this fleet by a run that ended before it could note so.
bool is_unnoted_volume_of(const FleetRecord& record, const VolumeInfo& volume) {
  return volume.parent == record.spec.image && volume.created_s >= record.created_s;
}

// Errors after which it is certain that a request changed nothing.
bool is_refusal(ErrorKind kind) {
  return kind == ErrorKind::kInvalid || kind == ErrorKind::kNotFound ||
         kind == ErrorKind::kExists || kind == ErrorKind::kNoSpace ||
         kind == ErrorKind::kUnsupported;
}

std::string with_console(std::string reason, const std::string& console_log) {
  const std::string line = last_line_of_file(console_log, kConsoleLineMax);
  return reason + (line.empty() ? "; its console is empty" : "; its console's last line: " + line);
}

std::map<std::string, VolumeInfo> by_name(std::vector<VolumeInfo> volumes) {
  std::map<std::string, VolumeInfo> result;
  for (VolumeInfo& volume : volumes) result.emplace(volume.name, std::move(volume));
  return result;
}

}  // namespace

struct FleetManager::Undo {
  bool new_fleet = false;
  bool volumes_unsure = false;  // a request for volumes was cut off
  std::vector<FleetRecord::Volume> volumes;
  std::vector<VmDefinition> vms;
};

struct FleetManager::Watch {
  uint32_t index;
  VmDefinition vm;
  ConsoleWatch console;
  std::optional<Clock::time_point> started;  // by this call
  VmRecord record;
  VmStatus status;
};

Result<FleetStatus> FleetManager::up(const FleetRequest& request, const UpOptions& options) {
  Timing timing;
  TRY_ASSIGN(const FleetLock lock, store_.lock(request.name));
  Undo undo;
  TRY_ASSIGN(FleetRecord record, define(request, undo));
  std::vector<Watch> watches;
  auto run = [&]() -> Result<void> {
    TRY(launcher_.prepare(record.spec));
    TRY(create_volumes(record, undo, timing));
    TRY(options.check_interrupt());
    TRY(start_vms(record, options, watches, timing, undo));
    return wait_until_ready(record, options, watches, timing);
  };
  if (auto done = run(); !done) {
    take_back(record, undo);
    return std::unexpected(done.error());
  }
  return report_of(record, watches, timing);
}

Result<FleetRecord> FleetManager::define(const FleetRequest& request, Undo& undo) {
  FleetRecord record;
  auto existing = store_.load(request.name);
  if (existing) {
    record = *existing;
  } else if (existing.error().kind() == ErrorKind::kNotFound) {
    undo.new_fleet = true;
    record.created_s = unix_time_s();
  } else {
    return std::unexpected(existing.error());
  }
  TRY_ASSIGN(record.spec,
             resolve(request, existing ? std::optional(existing->spec) : std::nullopt));
  TRY(store_.save(record));
  return record;
}

Result<void> FleetManager::create_volumes(FleetRecord& record, Undo& undo, Timing& timing) {
  const FleetSpec& spec = record.spec;
  TRY_ASSIGN(auto listed, volumes_.list());
  const auto present = by_name(std::move(listed));
  std::vector<std::string> missing;
  for (uint32_t index = 1; index <= spec.count; ++index) {
    const std::string name = spec.vm_name(index);
    const auto found = present.find(name);
    if (found == present.end()) {
      std::erase_if(record.volumes, [&](const auto& volume) { return volume.name == name; });
      missing.push_back(name);
      continue;
    }
    const FleetRecord::Volume* noted = find_volume(record, name);
    if (noted == nullptr && !undo.new_fleet && is_unnoted_volume_of(record, found->second)) {
      record.volumes.push_back({name, found->second.id});
    } else if (noted == nullptr || noted->id != found->second.id) {
      return fail(
          ErrorKind::kExists,
          "volume {} exists and was not made for fleet {}; remove it, or choose another name", name,
          spec.name);
    }
  }

  CreateVolume create{.from = spec.image, .cache = spec.cache, .stateless = spec.stateless};
  std::vector<CreateVolume> requests;
  if (missing.size() == spec.count && spec.count > 1) {
    requests.push_back(create);
    requests.back().name = spec.name;
    requests.back().count = spec.count;
  } else {
    for (const std::string& name : missing) {
      requests.push_back(create);
      requests.back().name = name;
    }
  }
  const auto begin = Clock::now();
  for (const CreateVolume& one : requests) {
    auto created = volumes_.create(one);
    if (!created) {
      undo.volumes_unsure = !is_refusal(created.error().kind());
      return std::unexpected(created.error().wrap("fleet " + spec.name));
    }
    for (const VolumeInfo& volume : *created) {
      record.volumes.push_back({volume.name, volume.id});
      undo.volumes.push_back(record.volumes.back());
    }
  }
  if (!requests.empty()) {
    timing.create_us = static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin).count());
  }
  return store_.save(record);
}

VmDefinition FleetManager::vm_of(const FleetSpec& fleet, uint32_t index) const {
  const std::string name = fleet.vm_name(index);
  return {
      .name = name, .directory = store_.vm_directory(fleet, index), .volume = name, .fleet = fleet};
}

VmStatus FleetManager::new_status(const VmDefinition& vm) const {
  VmStatus status;
  status.name = vm.name;
  status.console_log = launcher_.console_log(vm);
  status.console_socket = launcher_.console_socket(vm);
  return status;
}

Result<void> FleetManager::start_vms(const FleetRecord& record, const UpOptions& options,
                                     std::vector<Watch>& watches, const Timing& timing,
                                     Undo& undo) {
  const FleetSpec& spec = record.spec;
  for (uint32_t index = 1; index <= spec.count; ++index) {
    VmDefinition vm = vm_of(spec, index);
    ConsoleWatch console(launcher_.console_log(vm), spec.ready_texts());
    Watch watch{index, vm, std::move(console), {}, {}, new_status(vm)};
    watch.status.state = VmState::kStarting;
    if (launcher_.is_running(vm)) {
      TRY_ASSIGN(const auto noted, store_.load_vm(spec, index));
      watch.record = noted.value_or(VmRecord{});
      watch.status.boot_ms = watch.record.boot_ms;
    } else {
      watch.record.started_s = unix_time_s();
      TRY(store_.save_vm(spec, index, watch.record));
      watch.started = Clock::now();
      undo.vms.push_back(vm);
      TRY(launcher_.start(vm));
    }
    watches.push_back(std::move(watch));
    bool changed = false;
    for (Watch& other : watches) changed |= look_at(spec, other);
    if (changed) options.report(report_of(record, watches, timing));
    TRY(options.check_interrupt());
  }
  return {};
}

// True when the VM's state has changed.
bool FleetManager::look_at(const FleetSpec& fleet, Watch& watch) {
  VmStatus& status = watch.status;
  if (status.state == VmState::kStopped) return false;
  const bool running = launcher_.is_running(watch.vm);
  const bool ready = status.state == VmState::kReady || watch.console.poll();
  const VmState state = vm_state(true, running, ready);
  if (state == status.state) return false;
  status.state = state;
  if (state == VmState::kStopped)
    status.detail = with_console("its QEMU has ended", launcher_.console_log(watch.vm));
  if (state == VmState::kReady && watch.started) {
    status.boot_ms = watch.record.boot_ms = elapsed_ms(*watch.started);
    // Only a figure for `fleet show`: the console says as well that the VM is ready.
    (void)store_.save_vm(fleet, watch.index, watch.record);
  }
  return true;
}

Result<void> FleetManager::wait_until_ready(const FleetRecord& record, const UpOptions& options,
                                            std::vector<Watch>& watches, const Timing& timing) {
  const auto deadline = Clock::now() + options.timeout;
  auto next_report = Clock::now();
  for (;;) {
    TRY(options.check_interrupt());
    bool changed = false;
    for (Watch& watch : watches) changed |= look_at(record.spec, watch);
    if (changed || Clock::now() >= next_report) {
      options.report(report_of(record, watches, timing));
      next_report = Clock::now() + options.report_interval;
    }
    const bool waiting = std::ranges::any_of(
        watches, [](const Watch& watch) { return watch.status.state == VmState::kStarting; });
    if (!waiting) return {};
    if (Clock::now() >= deadline) break;
    std::this_thread::sleep_for(options.poll_interval);
  }
  for (Watch& watch : watches) {
    if (watch.status.state != VmState::kStarting) continue;
    std::string looked_for;
    for (const std::string& text : record.spec.ready_texts())
      looked_for += (looked_for.empty() ? "\"" : " or \"") + text + "\"";
    watch.status.detail =
        with_console(fmt::format("runs, but wrote no {} to its serial console within {} s",
                                 looked_for, options.timeout.count() / 1000),
                     launcher_.console_log(watch.vm));
  }
  return {};
}

void FleetManager::add_counters(FleetStatus& status) {
  // Without the daemon the figures are missing; the VMs' states are not.
  auto listed = volumes_.list();
  if (!listed) return;
  const auto volumes = by_name(std::move(*listed));
  for (VmStatus& vm : status.vms) {
    const auto found = volumes.find(vm.name);
    if (found == volumes.end()) continue;
    vm.bytes_read = found->second.bytes_read;
    vm.bytes_written = found->second.bytes_written;
  }
}

FleetStatus FleetManager::report_of(const FleetRecord& record, const std::vector<Watch>& watches,
                                    const Timing& timing) {
  FleetStatus status{.spec = record.spec,
                     .created_s = record.created_s,
                     .vms = {},
                     .create_us = timing.create_us,
                     .elapsed_ms = elapsed_ms(timing.begin)};
  for (const Watch& watch : watches) status.vms.push_back(watch.status);
  for (uint32_t index = static_cast<uint32_t>(watches.size()) + 1; index <= record.spec.count;
       ++index) {
    status.vms.push_back(new_status(vm_of(record.spec, index)));
  }
  add_counters(status);
  return status;
}

Result<FleetStatus> FleetManager::status(const std::string& name) {
  TRY_ASSIGN(const FleetRecord record, store_.load(name));
  return status_of(record);
}

Result<std::vector<FleetStatus>> FleetManager::list() {
  std::vector<FleetStatus> result;
  TRY_ASSIGN(const auto names, store_.list());
  for (const std::string& name : names) {
    auto record = store_.load(name);
    if (!record && record.error().kind() == ErrorKind::kNotFound) continue;  // gone meanwhile
    if (!record) return std::unexpected(record.error());
    TRY_ASSIGN(result.emplace_back(), status_of(*record));
  }
  return result;
}

Result<FleetStatus> FleetManager::status_of(const FleetRecord& record) {
  const FleetSpec& spec = record.spec;
  FleetStatus status;
  status.spec = spec;
  status.created_s = record.created_s;
  for (uint32_t index = 1; index <= spec.count; ++index) {
    const VmDefinition vm = vm_of(spec, index);
    TRY_ASSIGN(const auto noted, store_.load_vm(spec, index));
    const bool running = launcher_.is_running(vm);
    const bool ready =
        running && ((noted && noted->boot_ms) ||
                    ConsoleWatch(launcher_.console_log(vm), spec.ready_texts()).poll());
    VmStatus& entry = status.vms.emplace_back(new_status(vm));
    entry.state = vm_state(noted.has_value(), running, ready);
    if (noted) entry.boot_ms = noted->boot_ms;
  }
  add_counters(status);
  return status;
}

Result<void> FleetManager::down(const std::string& name, const DownOptions& options) {
  TRY_ASSIGN(const FleetLock lock, store_.lock(name));
  TRY_ASSIGN(const FleetRecord record, store_.load(name));
  std::vector<VmDefinition> vms;
  for (uint32_t index = 1; index <= record.spec.count; ++index)
    vms.push_back(vm_of(record.spec, index));
  stop_vms(vms, options);
  for (const VmDefinition& vm : vms) {
    if (launcher_.is_running(vm))
      return fail(ErrorKind::kBusy, "VM {} cannot be stopped; its volume is kept", vm.name);
  }
  if (options.keep_volumes) return {};
  TRY_ASSIGN(const auto present, volumes_.list());
  std::vector<FleetRecord::Volume> volumes;
  for (const VolumeInfo& volume : present) {
    const bool named = std::ranges::find(vms, volume.name, &VmDefinition::name) != vms.end();
    const FleetRecord::Volume* noted = find_volume(record, volume.name);
    const bool ours =
        noted != nullptr ? noted->id == volume.id : named && is_unnoted_volume_of(record, volume);
    if (ours) volumes.push_back({volume.name, volume.id});
  }
  TRY(remove_volumes(volumes));
  return store_.remove(name);
}

void FleetManager::stop_vms(const std::vector<VmDefinition>& vms, const DownOptions& options) {
  auto ask = [&](StopHow how, milliseconds limit) {
    for (const VmDefinition& vm : vms) launcher_.stop(vm, how);
    return wait_for_end(vms, limit);
  };
  if (options.keep_volumes && ask(StopHow::kPowerDown, options.power_down)) return;
  if (ask(StopHow::kQuit, options.patience)) return;
  if (ask(StopHow::kTerminate, options.patience)) return;
  ask(StopHow::kKill, options.patience);
}

bool FleetManager::wait_for_end(const std::vector<VmDefinition>& vms, milliseconds limit) {
  const auto deadline = Clock::now() + limit;
  for (;;) {
    const bool running =
        std::ranges::any_of(vms, [&](const VmDefinition& vm) { return launcher_.is_running(vm); });
    if (!running || Clock::now() >= deadline) return !running;
    std::this_thread::sleep_for(milliseconds(20));
  }
}

Result<void> FleetManager::remove_volumes(const std::vector<FleetRecord::Volume>& volumes) {
  // The daemon may take a moment to see that a VM's connection is gone.
  constexpr milliseconds kPatience(5'000);
  const auto deadline = Clock::now() + kPatience;
  for (const FleetRecord::Volume& volume : volumes) {
    for (;;) {
      auto removed = volumes_.remove(volume.name);
      if (removed || removed.error().kind() == ErrorKind::kNotFound) break;
      if (removed.error().kind() != ErrorKind::kBusy || Clock::now() >= deadline)
        return std::unexpected(removed.error());
      std::this_thread::sleep_for(milliseconds(20));
    }
  }
  return {};
}

void FleetManager::take_back(const FleetRecord& record, const Undo& undo) {
  stop_vms(undo.vms, DownOptions{});
  const bool removed = remove_volumes(undo.volumes).has_value() && !undo.volumes_unsure;
  // With something left over the record stays, so that `fleet down` can try again.
  if (undo.new_fleet && removed) (void)store_.remove(record.spec.name);
}

}  // namespace squall
