#include <memory>

#include "api/units.h"
#include "api/wire.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/table.h"

namespace squall {

namespace {

Result<void> create_snapshot(Context& context, const SnapshotName& name) {
  TRY_ASSIGN(Client * client, context.client());
  const Waiting waiting("taking snapshot " + name.volume + "@" + name.snapshot,
                        !context.options.quiet);
  TRY_ASSIGN(const SnapshotInfo made, client->create_snapshot(name.volume, name.snapshot));
  if (context.options.json) {
    context.print(wire::encode(made));
  } else if (!context.options.quiet) {
    context.print(fmt::format("snapshot {}@{} created", made.volume, made.name));
  }
  return {};
}

Result<void> list_snapshots(Context& context, const std::string& volume) {
  TRY_ASSIGN(Client * client, context.client());
  TRY_ASSIGN(const auto snapshots, client->list_snapshots(volume));
  if (context.options.json) {
    context.print(wire::encode(snapshots));
    return {};
  }
  Table table({"NAME", ">SIZE", "CREATED"});
  for (const SnapshotInfo& snapshot : snapshots) {
    table.add({snapshot.volume + "@" + snapshot.name, context.size(snapshot.size_bytes),
               format_time(snapshot.created_s)});
  }
  context.print(table.to_string());
  return {};
}

Result<void> remove_snapshot(Context& context, const SnapshotName& name) {
  TRY_ASSIGN(Client * client, context.client());
  return client->remove_snapshot(name.volume, name.snapshot);
}

}  // namespace

void add_snapshot_commands(CLI::App& app, Context& context) {
  auto& snapshot =
      *app.add_subcommand("snapshot", "Points in time of a volume")->require_subcommand(1);

  auto name = std::make_shared<SnapshotName>();
  auto* create = snapshot.add_subcommand("create", "Take a snapshot");
  add_snapshot_name(*create, *name);
  create->callback(
      [&context, name] { context.run([&] { return create_snapshot(context, *name); }); });

  auto volume = std::make_shared<std::string>();
  auto* list = snapshot.add_subcommand("list", "List a volume's snapshots");
  list->add_option("volume", *volume, "The volume")->required();
  list->callback(
      [&context, volume] { context.run([&] { return list_snapshots(context, *volume); }); });

  auto* remove = snapshot.add_subcommand("remove", "Remove a snapshot; its clones live on");
  add_snapshot_name(*remove, *name);
  remove->callback(
      [&context, name] { context.run([&] { return remove_snapshot(context, *name); }); });
}

}  // namespace squall
