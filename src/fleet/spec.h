// What a fleet is: its definition, as asked for and as recorded in SQUALL_HOME/fleets/NAME, and the
// state of its VMs. Plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "format/pool_identity.h"
#include "volume/manager.h"

namespace squall {

enum class Accelerator : uint8_t { kAuto, kKvm, kTcg };
Result<Accelerator> parse_accelerator(std::string_view text);
std::string_view to_string(Accelerator accelerator);

// The rule for every name: of fleets, VMs, images, volumes and stores alike.
inline bool is_valid_name(std::string_view name) {
  return is_store_name(name);
}

// What tells on a serial console that a guest is up, unless a fleet names its own text: what the
// template of packaging/make-template writes, or a getty's prompt.
inline constexpr std::string_view kDefaultReadyTexts[] = {"squall-ready uptime=", "login:"};

constexpr uint32_t kFleetCountMax = 10'000;
constexpr uint32_t kMemoryMibMax = 1024 * 1024;
constexpr uint32_t kCpusMax = 255;

struct FleetSpec {
  std::string name;
  std::string image;
  uint32_t count = 0;
  std::string kernel;  // empty: the image's own boot loader
  std::string initrd;
  std::string append;
  uint32_t memory_mib = 512;
  uint32_t cpus = 1;
  std::string ready_text;  // empty: kDefaultReadyTexts
  Accelerator accelerator = Accelerator::kAuto;
  CacheMode cache = CacheMode::kWriteback;
  bool stateless = false;

  bool operator==(const FleetSpec&) const = default;
  std::vector<std::string> ready_texts() const;
  // VMs are numbered from 1; a VM and its volume share a name.
  std::string vm_name(uint32_t index) const { return name + "-" + std::to_string(index); }
};

// kInvalid says which field is wrong and what it may be.
Result<void> validate(const FleetSpec& spec);

// What `fleet up` was given; what is absent is taken from the fleet if it exists, else by default.
struct FleetRequest {
  std::string name;
  std::optional<std::string> image, kernel, initrd, append, ready_text;
  std::optional<uint32_t> count, memory_mib, cpus;
  std::optional<Accelerator> accelerator;
  std::optional<CacheMode> cache;
  bool stateless = false;
};

// The definition that a request asks for. An existing fleet may grow; kExists when the request
// differs from it in anything else: its volumes were made as it says.
Result<FleetSpec> resolve(const FleetRequest& request, const std::optional<FleetSpec>& existing);

// A fleet as recorded. `volumes` are those made for it; ids are never reused, so a volume of the
// same name made by somebody else is told apart.
struct FleetRecord {
  struct Volume {
    std::string name;
    uint64_t id = 0;
    bool operator==(const Volume&) const = default;
  };
  FleetSpec spec;
  int64_t created_s = 0;
  std::vector<Volume> volumes;
  bool operator==(const FleetRecord&) const = default;
};

// The record as JSON and back. Decoding trusts nothing: what it accepts passes validate().
std::string encode_fleet_record(const FleetRecord& record);
Result<FleetRecord> decode_fleet_record(std::string_view json);

enum class VmState : uint8_t {
  kDefined,   // never started
  kStarting,  // runs; not ready yet
  kReady,     // runs, and its console has shown that it is up
  kStopped,   // does not run any more
};
std::string_view to_string(VmState state);

// What is recorded of a VM's latest start.
struct VmRecord {
  int64_t started_s = 0;            // since 1970
  std::optional<uint64_t> boot_ms;  // from start to readiness, when somebody watched
  bool operator==(const VmRecord&) const = default;
};
std::string encode_vm_record(const VmRecord& record);
Result<VmRecord> decode_vm_record(std::string_view json);

VmState vm_state(bool started, bool running, bool ready);

struct VmStatus {
  std::string name;
  VmState state = VmState::kDefined;
  std::optional<uint64_t> boot_ms;
  uint64_t bytes_read = 0;  // by the guest from its volume, since the daemon started
  uint64_t bytes_written = 0;
  std::string console_log;
  std::string console_socket;
  std::string detail;  // why it is not ready, for people
};

struct FleetStatus {
  FleetSpec spec{};
  int64_t created_s = 0;
  std::vector<VmStatus> vms;
  // Of the call of `up` that reports: the time its volumes took to make, and the time since its
  // begin.
  std::optional<uint64_t> create_us;
  std::optional<uint64_t> elapsed_ms;

  uint32_t vms_in(VmState state) const;
};

// For scripts: `squall fleet show --json`.
std::string encode_fleet_status(const FleetStatus& status);
std::string encode_fleet_statuses(const std::vector<FleetStatus>& statuses);

}  // namespace squall
