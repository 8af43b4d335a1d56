// The fleet's files as JSON: decoding gives kCorrupt for anything it did not write itself.
#include <boost/json.hpp>
#include <limits>

#include "fleet/spec.h"

namespace squall {

namespace {

namespace json = boost::json;

constexpr int64_t kVersion = 1;

std::unexpected<Error> corrupt(std::string_view what, std::string_view field) {
  return fail(ErrorKind::kCorrupt, "{}: \"{}\" is missing or wrong", what, field);
}

// Takes fields of one JSON object; remembers the first that is missing or of the wrong kind.
class Fields {
 public:
  Fields(const json::object& object, std::string_view what) : object_(object), what_(what) {}

  void take(std::string_view field, std::string& value) {
    const json::value* found = object_.if_contains(field);
    if (found != nullptr && found->is_string())
      value = std::string(found->get_string());
    else
      note(field);
  }
  template <class T>
    requires std::is_integral_v<T>
  void take(std::string_view field, T& value) {
    const json::value* found = object_.if_contains(field);
    boost::system::error_code error;
    T number = found != nullptr ? found->to_number<T>(error) : T{};
    if (found == nullptr || error)
      note(field);
    else
      value = number;
  }
  void take(std::string_view field, bool& value) {
    const json::value* found = object_.if_contains(field);
    if (found != nullptr && found->is_bool())
      value = found->get_bool();
    else
      note(field);
  }
  template <class T>
  void take(std::string_view field, T& value, Result<T> (*parse)(std::string_view)) {
    std::string text;
    take(field, text);
    if (Result<T> parsed = parse(text))
      value = *parsed;
    else
      note(field);
  }
  void note(std::string_view field) {
    if (wrong_.empty()) wrong_ = field;
  }
  Result<void> finish() const {
    if (!wrong_.empty()) return corrupt(what_, wrong_);
    return {};
  }

 private:
  const json::object& object_;
  std::string_view what_;
  std::string wrong_;
};

Result<json::object> parse_object(std::string_view text, std::string_view what) {
  boost::system::error_code error;
  json::value value = json::parse(text, error);
  if (error || !value.is_object())
    return fail(ErrorKind::kCorrupt, "{}: this is no JSON object", what);
  int64_t version = 0;
  Fields fields(value.get_object(), what);
  fields.take("version", version);
  TRY(fields.finish());
  if (version != kVersion) {
    return fail(ErrorKind::kUnsupported, "{}: written by a newer squall (format {})", what,
                version);
  }
  return std::move(value.get_object());
}

json::object encode_spec(const FleetSpec& spec) {
  return {{"name", spec.name},
          {"image", spec.image},
          {"count", spec.count},
          {"kernel", spec.kernel},
          {"initrd", spec.initrd},
          {"append", spec.append},
          {"memory_mib", spec.memory_mib},
          {"cpus", spec.cpus},
          {"ready_text", spec.ready_text},
          {"accelerator", to_string(spec.accelerator)},
          {"cache", to_string(spec.cache)},
          {"stateless", spec.stateless}};
}

Result<FleetSpec> decode_spec(const json::object& object, std::string_view what) {
  FleetSpec spec;
  Fields fields(object, what);
  fields.take("name", spec.name);
  fields.take("image", spec.image);
  fields.take("count", spec.count);
  fields.take("kernel", spec.kernel);
  fields.take("initrd", spec.initrd);
  fields.take("append", spec.append);
  fields.take("memory_mib", spec.memory_mib);
  fields.take("cpus", spec.cpus);
  fields.take("ready_text", spec.ready_text);
  fields.take("accelerator", spec.accelerator, &parse_accelerator);
  fields.take("cache", spec.cache, &parse_cache_mode);
  fields.take("stateless", spec.stateless);
  TRY(fields.finish());
  if (auto valid = validate(spec); !valid)
    return std::unexpected(
        Error(ErrorKind::kCorrupt, fmt::format("{}: {}", what, valid.error().message())));
  return spec;
}

}  // namespace

std::string encode_fleet_record(const FleetRecord& record) {
  json::object object = encode_spec(record.spec);
  object["version"] = kVersion;
  object["created_s"] = record.created_s;
  json::array volumes;
  for (const FleetRecord::Volume& volume : record.volumes)
    volumes.push_back(json::object{{"name", volume.name}, {"id", volume.id}});
  object["volumes"] = std::move(volumes);
  return json::serialize(object);
}

Result<FleetRecord> decode_fleet_record(std::string_view text) {
  constexpr std::string_view kWhat = "fleet's definition";
  TRY_ASSIGN(const json::object object, parse_object(text, kWhat));
  FleetRecord record;
  TRY_ASSIGN(record.spec, decode_spec(object, kWhat));
  Fields fields(object, kWhat);
  fields.take("created_s", record.created_s);
  TRY(fields.finish());
  const json::value* volumes = object.if_contains("volumes");
  if (volumes == nullptr || !volumes->is_array() || volumes->get_array().size() > kFleetCountMax)
    return corrupt(kWhat, "volumes");
  for (const json::value& value : volumes->get_array()) {
    if (!value.is_object()) return corrupt(kWhat, "volumes");
    FleetRecord::Volume volume;
    Fields of_volume(value.get_object(), kWhat);
    of_volume.take("name", volume.name);
    of_volume.take("id", volume.id);
    TRY(of_volume.finish());
    if (!is_valid_name(volume.name)) return corrupt(kWhat, "volumes");
    record.volumes.push_back(std::move(volume));
  }
  return record;
}

namespace {

json::value number_or_null(const std::optional<uint64_t>& number) {
  return number ? json::value(*number) : json::value(nullptr);
}

json::object encode_status(const FleetStatus& status) {
  json::object object = encode_spec(status.spec);
  object["created_s"] = status.created_s;
  for (const VmState state :
       {VmState::kDefined, VmState::kStarting, VmState::kReady, VmState::kStopped}) {
    object[to_string(state)] = status.vms_in(state);
  }
  if (status.create_us) object["create_us"] = *status.create_us;
  if (status.elapsed_ms) object["elapsed_ms"] = *status.elapsed_ms;
  json::array vms;
  for (const VmStatus& vm : status.vms) {
    vms.push_back(json::object{{"name", vm.name},
                               {"volume", vm.name},
                               {"state", to_string(vm.state)},
                               {"boot_ms", number_or_null(vm.boot_ms)},
                               {"bytes_read", vm.bytes_read},
                               {"bytes_written", vm.bytes_written},
                               {"console_log", vm.console_log},
                               {"console_socket", vm.console_socket},
                               {"detail", vm.detail}});
  }
  object["vms"] = std::move(vms);
  return object;
}

}  // namespace

std::string encode_fleet_status(const FleetStatus& status) {
  return json::serialize(encode_status(status));
}

std::string encode_fleet_statuses(const std::vector<FleetStatus>& statuses) {
  json::array array;
  for (const FleetStatus& status : statuses) array.push_back(encode_status(status));
  return json::serialize(array);
}

std::string encode_vm_record(const VmRecord& record) {
  json::object object{{"version", kVersion}, {"started_s", record.started_s}};
  if (record.boot_ms) object["boot_ms"] = *record.boot_ms;
  return json::serialize(object);
}

Result<VmRecord> decode_vm_record(std::string_view text) {
  constexpr std::string_view kWhat = "VM's state";
  TRY_ASSIGN(const json::object object, parse_object(text, kWhat));
  VmRecord record;
  Fields fields(object, kWhat);
  fields.take("started_s", record.started_s);
  if (object.contains("boot_ms")) fields.take("boot_ms", record.boot_ms.emplace());
  TRY(fields.finish());
  return record;
}

}  // namespace squall
