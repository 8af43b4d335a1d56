#include "check/log_check.h"

#include <algorithm>

namespace squall {

namespace {
struct LoggedVolume {
  std::string name;
  uint64_t id = 0;
};

// Nothing when it is good, or gone in the meantime.
Task<Result<std::optional<Fault>>> check_part(LogStore& logs, MetaStore& catalog,
                                              LoggedVolume volume, uint64_t part) {
  const auto read = co_await logs.read(volume.id, part);
  Fault fault{
      .kind = FaultKind::kLog,
      .object = fmt::format("log of volume {} (id {}), part {}", volume.name, volume.id, part)};
  if (!read) {
    CO_TRY_ASSIGN(const auto parts, co_await logs.parts(volume.id));
    if (read.error().kind() == ErrorKind::kNotFound || !std::ranges::binary_search(parts, part))
      co_return std::nullopt;
    fault.problem = read.error().message();
    fault.advice =
        "take a snapshot of the volume while its host runs, since its journal still has the data; "
        "otherwise what was flushed since the last commit is lost";
    co_return fault;
  }
  // The lease is published before the first append under it.
  CO_TRY_ASSIGN(const auto value, co_await catalog.get("v/" + volume.name, "head"));
  if (!value) co_return std::nullopt;
  const auto head = decode_volume_head(*value);
  if (!head || head->id != volume.id || read->epoch <= head->epoch) co_return std::nullopt;
  fault.problem =
      fmt::format("it is of epoch {}, and the volume of epoch {}", read->epoch, head->epoch);
  fault.advice = "the catalog is older than the log: put its newest copy back";
  co_return fault;
}
}  // namespace

Task<Result<std::vector<Fault>>> check_logs(LogStore& logs, MetaStore& catalog,
                                            const CatalogView& view, Pacer& pacer) {
  std::vector<Fault> faults;
  std::map<uint64_t, std::string> names;
  for (const auto& [name, head] : view.volumes) names.emplace(head.id, name);
  CO_TRY_ASSIGN(const auto volumes, co_await logs.list());
  for (const uint64_t id : volumes) {
    // Without a volume it is what a removal left behind.
    const auto name = names.find(id);
    if (name == names.end()) continue;
    CO_TRY_ASSIGN(const auto parts, co_await logs.parts(id));
    for (const uint64_t part : parts) {
      CO_TRY(co_await pacer.spend(kBlockBytes));
      CO_TRY_ASSIGN(auto fault, co_await check_part(logs, catalog, {name->second, id}, part));
      if (fault) faults.push_back(std::move(*fault));
    }
  }
  co_return faults;
}

}  // namespace squall
