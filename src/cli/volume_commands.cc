#include <memory>

#include "api/units.h"
#include "api/wire.h"
#include "cli/commands.h"
#include "cli/export.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/table.h"

namespace squall {

namespace {

void print_volume(const Context& context, const VolumeInfo& volume) {
  if (context.options.json) return context.print(wire::encode(volume));
  FieldList fields;
  fields.add("name", volume.name);
  fields.add("id", std::to_string(volume.id));
  fields.add("size", context.size(volume.size_bytes));
  fields.add("created", format_time(volume.created_s));
  fields.add("from", volume.parent);
  fields.add("cache", std::string(to_string(volume.cache)));
  fields.add("durability", std::string(to_string(volume.durability)));
  fields.add("stateless", volume.stateless ? "yes" : "no");
  fields.add("shared", volume.shared ? "yes" : "no");
  fields.add("store", volume.store);
  fields.add("deduplicated", volume.deduplicate ? "yes" : "no");
  fields.add("epoch", std::to_string(volume.epoch));
  fields.add("snapshots", std::to_string(volume.snapshots));
  fields.add("open", volume.open ? "yes" : "no");
  fields.add("dirty", context.size(volume.dirty_bytes));
  if (volume.lost)
    fields.add("LOST", fmt::format("acknowledged writes are gone; everything is EIO until: squall "
                                   "volume rollback {}@SNAPSHOT",
                                   volume.name));
  fields.add("read", context.size(volume.bytes_read));
  fields.add("written", context.size(volume.bytes_written));
  context.print(fields.to_string());
}

Result<void> list_volumes(Context& context) {
  TRY_ASSIGN(Client * client, context.client());
  TRY_ASSIGN(const auto volumes, client->list_volumes());
  if (context.options.json) {
    context.print(wire::encode(volumes));
    return {};
  }
  Table table({"NAME", ">SIZE", "FROM", "CACHE", "OPEN", ">SNAPSHOTS", ">DIRTY", ">READ",
               ">WRITTEN", "CREATED"});
  for (const VolumeInfo& volume : volumes) {
    table.add({volume.name, context.size(volume.size_bytes), volume.parent,
               volume.stateless ? "stateless" : std::string(to_string(volume.cache)),
               volume.lost   ? "LOST"
               : volume.open ? "yes"
                             : "no",
               std::to_string(volume.snapshots), context.size(volume.dirty_bytes),
               context.size(volume.bytes_read), context.size(volume.bytes_written),
               format_time(volume.created_s)});
  }
  context.print(table.to_string());
  return {};
}

Result<void> create_volumes(Context& context, const CreateVolume& request) {
  TRY_ASSIGN(Client * client, context.client());
  const Waiting waiting(request.count > 1 ? fmt::format("creating {} volumes", request.count)
                                          : "creating volume " + request.name,
                        !context.options.quiet);
  TRY_ASSIGN(const auto volumes, client->create_volumes(request));
  if (context.options.json) {
    context.print(wire::encode(volumes));
  } else if (!context.options.quiet && !volumes.empty()) {
    const VolumeInfo& first = volumes.front();
    context.print(
        volumes.size() == 1
            ? fmt::format("volume {} created, {}", first.name, context.size(first.size_bytes))
            : fmt::format("{} volumes created, {} to {}, {} each", volumes.size(), first.name,
                          volumes.back().name, context.size(first.size_bytes)));
  }
  return {};
}

// What a verb that changed a volume says.
Result<void> report_volume(Context& context, std::string_view verb,
                           const Result<VolumeInfo>& volume) {
  if (!volume) return std::unexpected(volume.error());
  if (context.options.json) {
    context.print(wire::encode(*volume));
  } else if (!context.options.quiet) {
    context.print(
        fmt::format("volume {} {}, {}", volume->name, verb, context.size(volume->size_bytes)));
  }
  return {};
}

void add_create(CLI::App& group, Context& context) {
  auto request = std::make_shared<CreateVolume>();
  auto* command = group.add_subcommand("create", "Make a volume, or many");
  command->add_option("name", request->name, "Its name; with --count NAME-1 ... NAME-N")
      ->required();
  auto* from = command->add_option("--from", request->from, "IMAGE or VOLUME@SNAPSHOT to clone");
  auto* size = add_size(*command, "--size", request->size_bytes,
                        "Its size; needed without --from, else at least the parent's");
  auto* count =
      command->add_option("--count", request->count, "How many")->check(CLI::PositiveNumber);
  add_parsed(*command, "--cache", request->cache, parse_cache_mode,
             "writeback (default), none, writethrough, directsync or unsafe");
  add_parsed(*command, "--durability", request->durability, parse_durability,
             "host (default) or pool: where a flush makes data durable");
  command->add_flag("--stateless", request->stateless, "Forget what is written when it is closed");
  command->add_flag("--shared", request->shared, "Let several clients write at once");
  command->add_option("--store", request->store, "The store to prefer");
  command->add_flag("!--no-dedup", request->deduplicate,
                    "Store what is written without looking for duplicates");
  command->callback([&context, request, from, size, count] {
    if (from->empty() && size->empty()) {
      throw CLI::RequiredError("--from or --size", CLI::ExitCodes::RequiredError);
    }
    // The API numbers the names only when there are several; a script's --count 1 means NAME-1.
    if (!count->empty() && request->count == 1) request->name += "-1";
    context.run([&] { return create_volumes(context, *request); });
  });
}

void add_remove(CLI::App& group, Context& context) {
  auto names = std::make_shared<std::vector<std::string>>();
  auto force = std::make_shared<bool>(false);
  auto* command = group.add_subcommand("remove", "Remove volumes with their snapshots");
  command->add_option("name", *names, "The volumes")->required();
  command->add_flag("--force", *force, "Even when a client has one open for writing");
  command->callback([&context, names, force] {
    context.run([&]() -> Result<void> {
      TRY_ASSIGN(Client * client, context.client());
      for (const std::string& name : *names) TRY(client->remove_volume(name, *force));
      return {};
    });
  });
}

void add_resize(CLI::App& group, Context& context) {
  auto name = std::make_shared<std::string>();
  auto size_bytes = std::make_shared<uint64_t>(0);
  auto* command = group.add_subcommand("resize", "Grow or shrink a volume");
  command->add_option("name", *name, "The volume")->required();
  add_size(*command, "size", *size_bytes, "Its new size")->required();
  command->callback([&context, name, size_bytes] {
    context.run([&]() -> Result<void> {
      TRY_ASSIGN(Client * client, context.client());
      return report_volume(context, "resized", client->resize_volume(*name, *size_bytes));
    });
  });
}

void add_rollback(CLI::App& group, Context& context) {
  auto name = std::make_shared<SnapshotName>();
  auto* command = group.add_subcommand("rollback", "Put a volume back to one of its snapshots");
  add_snapshot_name(*command, *name);
  command->callback([&context, name] {
    context.run([&]() -> Result<void> {
      TRY_ASSIGN(Client * client, context.client());
      return report_volume(context, "rolled back",
                           client->rollback_volume(name->volume, name->snapshot));
    });
  });
}

void add_takeover(CLI::App& group, Context& context) {
  auto name = std::make_shared<std::string>();
  auto lose_data = std::make_shared<bool>(false);
  auto* command = group.add_subcommand("takeover", "Take over a volume whose node is gone");
  command->add_option("name", *name, "The volume")->required();
  command->add_flag("--lose-data", *lose_data, "Give up what only the lost node's journal holds");
  command->callback([&context, name, lose_data] {
    context.run([&]() -> Result<void> {
      TRY_ASSIGN(Client * client, context.client());
      return report_volume(context, "taken over", client->takeover_volume(*name, *lose_data));
    });
  });
}

void add_export(CLI::App& group, Context& context) {
  auto options = std::make_shared<ExportOptions>();
  auto* command = group.add_subcommand("export", "Write a volume or a snapshot to a file");
  command->add_option("name", options->disk, "VOLUME or VOLUME@SNAPSHOT")->required();
  command->add_option("file", options->file, "The file to write")->required();
  command->add_option("--format", options->format, "raw or qcow2; by default by FILE's suffix");
  command->add_flag("--force", options->force, "Overwrite FILE");
  command->callback([&context, options] {
    context.run([&]() -> Result<void> {
      TRY_ASSIGN(Client * client, context.client());
      const std::string volume = options->disk.substr(0, options->disk.find('@'));
      TRY_ASSIGN(const VolumeInfo info, client->show_volume(volume));
      if (info.open && volume == options->disk) {
        context.note(
            fmt::format("volume {} is in use; a snapshot gives a consistent copy", volume));
      }
      return export_disk(context, *options);
    });
  });
}

}  // namespace

void add_volume_commands(CLI::App& app, Context& context) {
  auto& volume = *app.add_subcommand("volume", "Writable disks")->require_subcommand(1);
  add_create(volume, context);

  volume.add_subcommand("list", "List volumes")->callback([&context] {
    context.run([&] { return list_volumes(context); });
  });

  auto name = std::make_shared<std::string>();
  auto* show = volume.add_subcommand("show", "Show one volume");
  show->add_option("name", *name, "The volume")->required();
  show->callback([&context, name] {
    context.run([&]() -> Result<void> {
      TRY_ASSIGN(Client * client, context.client());
      TRY_ASSIGN(const VolumeInfo info, client->show_volume(*name));
      print_volume(context, info);
      return {};
    });
  });

  add_remove(volume, context);
  add_resize(volume, context);
  add_rollback(volume, context);
  add_takeover(volume, context);
  add_export(volume, context);
}

}  // namespace squall
