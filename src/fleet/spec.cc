#include "fleet/spec.h"

#include <algorithm>
#include <filesystem>

namespace squall {

Result<Accelerator> parse_accelerator(std::string_view text) {
  for (const Accelerator a : {Accelerator::kAuto, Accelerator::kKvm, Accelerator::kTcg}) {
    if (text == to_string(a)) return a;
  }
  return fail(ErrorKind::kInvalid, "accelerator \"{}\": it is auto, kvm or tcg", text);
}

std::string_view to_string(Accelerator accelerator) {
  switch (accelerator) {
    case Accelerator::kAuto:
      return "auto";
    case Accelerator::kKvm:
      return "kvm";
    case Accelerator::kTcg:
      return "tcg";
  }
  return "?";
}

std::string_view to_string(VmState state) {
  switch (state) {
    case VmState::kDefined:
      return "defined";
    case VmState::kStarting:
      return "starting";
    case VmState::kReady:
      return "ready";
    case VmState::kStopped:
      return "stopped";
  }
  return "?";
}

std::vector<std::string> FleetSpec::ready_texts() const {
  if (!ready_text.empty()) return {ready_text};
  return {std::begin(kDefaultReadyTexts), std::end(kDefaultReadyTexts)};
}

namespace {

constexpr size_t kTextBytesMax = 4096;  // of a path, a kernel command line, a readiness text

Result<void> validate_text(std::string_view field, const std::string& text) {
  const bool printable =
      std::ranges::none_of(text, [](unsigned char c) { return c < 0x20 || c == 0x7f; });
  if (text.size() > kTextBytesMax || !printable) {
    return fail(ErrorKind::kInvalid, "{}: at most {} bytes, no control characters", field,
                kTextBytesMax);
  }
  return {};
}

Result<void> validate_range(std::string_view field, uint32_t value, uint32_t min, uint32_t max) {
  if (value < min || value > max)
    return fail(ErrorKind::kInvalid, "{} {}: it is {} to {}", field, value, min, max);
  return {};
}

std::string absolute(const std::string& path) {
  std::error_code ignored;
  return path.empty() ? path : std::filesystem::absolute(path, ignored).lexically_normal().string();
}

}  // namespace

Result<void> validate(const FleetSpec& spec) {
  // VMs' names must be valid, too.
  if (!is_valid_name(spec.name) || !is_valid_name(spec.vm_name(kFleetCountMax))) {
    return fail(ErrorKind::kInvalid,
                "fleet name \"{}\": 1 to {} of A-Z a-z 0-9 . _ -, not starting with . or -",
                spec.name, 64 - std::to_string(kFleetCountMax).size() - 1);
  }
  if (!is_valid_name(spec.image))
    return fail(ErrorKind::kInvalid, "image \"{}\" of fleet {} is no image's name", spec.image,
                spec.name);
  TRY(validate_range("count", spec.count, 1, kFleetCountMax));
  TRY(validate_range("memory (MiB)", spec.memory_mib, 16, kMemoryMibMax));
  TRY(validate_range("cpus", spec.cpus, 1, kCpusMax));
  TRY(validate_text("kernel", spec.kernel));
  TRY(validate_text("initrd", spec.initrd));
  TRY(validate_text("append", spec.append));
  TRY(validate_text("ready text", spec.ready_text));
  if (spec.kernel.empty() && !(spec.initrd.empty() && spec.append.empty())) {
    return fail(ErrorKind::kInvalid,
                "an initrd or a kernel command line needs a kernel: give --kernel as well");
  }
  return {};
}

namespace {

// Takes `asked`, or leaves `value`; with an existing fleet they must agree.
template <class T>
Result<void> settle(T& value, const std::optional<T>& asked, bool exists, std::string_view field,
                    const std::string& fleet) {
  if (!asked || *asked == value) return {};
  if (exists) {
    return fail(ErrorKind::kExists,
                "fleet {} exists with another {}; take it down first, or choose another name",
                fleet, field);
  }
  value = *asked;
  return {};
}

}  // namespace

Result<FleetSpec> resolve(const FleetRequest& request, const std::optional<FleetSpec>& existing) {
  const bool exists = existing.has_value();
  FleetSpec spec = existing.value_or(FleetSpec{});
  spec.name = request.name;
  auto file = [](std::optional<std::string> path) {
    if (path) path = absolute(*path);
    return path;
  };
  const std::string& name = request.name;
  TRY(settle(spec.image, request.image, exists, "image", name));
  TRY(settle(spec.kernel, file(request.kernel), exists, "kernel", name));
  TRY(settle(spec.initrd, file(request.initrd), exists, "initrd", name));
  TRY(settle(spec.append, request.append, exists, "kernel command line", name));
  TRY(settle(spec.ready_text, request.ready_text, exists, "readiness text", name));
  TRY(settle(spec.memory_mib, request.memory_mib, exists, "memory size", name));
  TRY(settle(spec.cpus, request.cpus, exists, "number of cpus", name));
  TRY(settle(spec.accelerator, request.accelerator, exists, "accelerator", name));
  TRY(settle(spec.cache, request.cache, exists, "cache mode", name));
  if (request.stateless)
    TRY(settle(spec.stateless, std::optional(true), exists, "kind of volumes", name));
  if (exists && request.count && *request.count < spec.count) {
    return fail(ErrorKind::kExists, "fleet {} has {} VMs already; take it down to make it smaller",
                name, spec.count);
  }
  spec.count = request.count.value_or(spec.count);
  if (!exists && spec.image.empty())
    return fail(ErrorKind::kInvalid, "there is no fleet {} yet: name its image with --image", name);
  if (!exists && spec.count == 0)
    return fail(ErrorKind::kInvalid, "there is no fleet {} yet: say how many with --count", name);
  TRY(validate(spec));
  return spec;
}

VmState vm_state(bool started, bool running, bool ready) {
  if (running) return ready ? VmState::kReady : VmState::kStarting;
  return started ? VmState::kStopped : VmState::kDefined;
}

uint32_t FleetStatus::vms_in(VmState state) const {
  return static_cast<uint32_t>(std::ranges::count(vms, state, &VmStatus::state));
}

}  // namespace squall
