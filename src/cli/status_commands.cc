#include <ctime>
#include <memory>

#include "api/units.h"
#include "api/wire.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/table.h"

namespace squall {

namespace {

std::string uptime(const NodeInfo& node) {
  const int64_t seconds = std::max<int64_t>(0, std::time(nullptr) - node.started_s);
  return format_duration(static_cast<uint64_t>(seconds) * 1000);
}

// What the last garbage collection found.
std::string describe_gc(const Context& context, const StatusInfo& status) {
  const CollectorStatus& gc = status.gc;
  if (!gc.ended) return gc.running ? "being counted" : "not counted yet; see: squall gc";
  const int64_t ago_s = std::max<int64_t>(0, std::time(nullptr) - gc.last.started_s);
  std::string text = context.size(gc.last.live_bytes);
  if (gc.last.live_bytes > 0)
    text += fmt::format(", held {:.2f} times", static_cast<double>(gc.last.held_bytes) /
                                                   static_cast<double>(gc.last.live_bytes));
  text += fmt::format(", as of {} ago", format_duration(static_cast<uint64_t>(ago_s) * 1000));
  if (!gc.error.empty()) text += "; garbage collection failed: " + gc.error;
  return text;
}

void add_space(FieldList& fields, const Context& context, const std::string& kind,
               const SpaceStatus& space) {
  if (space.level == "away") {
    fields.add(kind + space.name, fmt::format("{}: AWAY: {}", space.path, space.advice));
    return;
  }
  std::string text =
      fmt::format("{}: {} free of {}, {}% used", space.path, context.size(space.available_bytes),
                  context.size(space.total_bytes), space.used_percent);
  if (space.level != "ok") text += fmt::format(" ({}): {}", space.level, space.advice);
  fields.add(kind + space.name, std::move(text));
}

std::string scrub(const ScrubStatus& status) {
  if (!status.enabled) return "off";
  std::string text = status.running ? fmt::format("running, {}%", status.percent) : "waiting";
  if (status.ended_s > 0) {
    const int64_t ago = std::max<int64_t>(0, std::time(nullptr) - status.ended_s);
    text +=
        fmt::format(", last pass ended {} ago", format_duration(static_cast<uint64_t>(ago) * 1000));
  }
  return text + fmt::format(", {} faults since squalld started", status.faults);
}

std::string deduplication(const Context& context, const StatusInfo& status) {
  if (status.dedup_index_rate == 0) return "off";
  return fmt::format("{} saved, {} of {} blocks; index {}, {} entries, one of {} blocks{}",
                     context.size(status.dedup_bytes_saved), status.dedup_blocks_shared,
                     status.dedup_blocks_seen, context.size(status.dedup_index_bytes),
                     status.dedup_index_entries, status.dedup_index_rate,
                     status.dedup_index_complete ? "" : ", still being read");
}

Result<void> show_status(Context& context) {
  TRY_ASSIGN(Client * client, context.client());
  TRY_ASSIGN(const StatusInfo status, client->status());
  if (context.options.json) {
    context.print(wire::encode(status));
    return {};
  }
  FieldList fields;
  fields.add("node", fmt::format("{}, {}, squalld {} (pid {})", status.node.name, status.node.state,
                                 status.node.version, status.node.pid));
  fields.add("up for", uptime(status.node));
  fields.add("pool", status.pool + " " + status.pool_id);
  for (const SpaceStatus& store : status.stores) add_space(fields, context, "store ", store);
  for (const SpaceStatus& disk : status.host_disks) add_space(fields, context, "", disk);
  fields.add("pool data",
             fmt::format("{} on disk in {} segments", context.size(status.pool_allocated_bytes),
                         status.pool_segments));
  fields.add("live data", describe_gc(context, status));
  fields.add("images", std::to_string(status.images));
  fields.add("volumes", fmt::format("{}, {} open", status.volumes, status.open_volumes));
  if (status.lost_volumes > 0)
    fields.add("LOST",
               fmt::format("acknowledged writes of {} volumes are gone: roll them back; see: "
                           "squall volume list",
                           status.lost_volumes));
  if (status.damaged_journal_reads > 0)
    fields.add("damaged",
               fmt::format("{} reads of the journal failed their checksum: check its disk, "
                           "then see: squall check",
                           status.damaged_journal_reads));
  fields.add("dirty", context.size(status.dirty_bytes) + " in the journal, not yet in the pool");
  fields.add("read", context.size(status.bytes_read));
  fields.add("written", context.size(status.bytes_written));
  fields.add("memory", context.size(status.memory_bytes));
  fields.add("cache", fmt::format("{}, {} hits, {} misses", context.size(status.cache_bytes),
                                  status.cache_hits, status.cache_misses));
  for (const std::string& line : status.damaged) fields.add("DAMAGED", line);
  fields.add("scrub", scrub(status.scrub));
  for (const std::string& line : status.scrub.lines) fields.add("DAMAGED", line);
  fields.add("deduplication", deduplication(context, status));
  context.print(fields.to_string());
  return {};
}

Result<void> list_nodes(Context& context) {
  TRY_ASSIGN(Client * client, context.client());
  TRY_ASSIGN(const auto nodes, client->list_nodes());
  if (context.options.json) {
    context.print(wire::encode(nodes));
    return {};
  }
  Table table({"NAME", "STATE", "VERSION", "UP FOR"});
  for (const NodeInfo& node : nodes) table.add({node.name, node.state, node.version, uptime(node)});
  context.print(table.to_string());
  return {};
}

Result<void> show_node(Context& context, const std::string& name) {
  TRY_ASSIGN(Client * client, context.client());
  TRY_ASSIGN(const NodeInfo node, client->show_node(name));
  if (context.options.json) {
    context.print(wire::encode(node));
    return {};
  }
  FieldList fields;
  fields.add("name", node.name);
  fields.add("state", node.state);
  fields.add("version", node.version);
  fields.add("pid", std::to_string(node.pid));
  fields.add("up for", uptime(node));
  fields.add("home", node.home);
  fields.add("control", node.control_socket);
  fields.add("nbd", node.nbd_socket);
  for (const std::string& address : node.nbd_listen) fields.add("nbd", address);
  context.print(fields.to_string());
  return {};
}

}  // namespace

void add_status_commands(CLI::App& app, Context& context) {
  app.add_subcommand("status", "The daemon and its pool at a glance")->callback([&context] {
    context.run([&] { return show_status(context); });
  });

  auto& node = *app.add_subcommand("node", "Hosts")->require_subcommand(1);
  node.add_subcommand("list", "List nodes")->callback([&context] {
    context.run([&] { return list_nodes(context); });
  });
  auto name = std::make_shared<std::string>();
  auto* show = node.add_subcommand("show", "Show one node");
  show->add_option("name", *name, "The node")->required();
  show->callback([&context, name] { context.run([&] { return show_node(context, *name); }); });
}

}  // namespace squall
