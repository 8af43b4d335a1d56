#include <memory>

#include "api/units.h"
#include "api/wire.h"
#include "cli/commands.h"
#include "cli/export.h"
#include "cli/import.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/table.h"

namespace squall {

namespace {

void print_image(const Context& context, const ImageInfo& image) {
  if (context.options.json) return context.print(wire::encode(image));
  FieldList fields;
  fields.add("name", image.name);
  fields.add("id", std::to_string(image.id));
  fields.add("size", context.size(image.size_bytes));
  fields.add("created", format_time(image.created_s));
  fields.add("source", image.source);
  fields.add("store", image.store);
  fields.add("deduplicated", image.deduplicate ? "yes" : "no");
  context.print(fields.to_string());
}

// What a verb that made an image says.
void report_image(const Context& context, std::string_view verb, const ImageInfo& image) {
  if (context.options.json) return context.print(wire::encode(image));
  if (context.options.quiet) return;
  context.print(fmt::format("image {} {}, {}", image.name, verb, context.size(image.size_bytes)));
}

Result<void> list_images(Context& context) {
  TRY_ASSIGN(Client * client, context.client());
  TRY_ASSIGN(const auto images, client->list_images());
  if (context.options.json) {
    context.print(wire::encode(images));
    return {};
  }
  Table table({"NAME", ">SIZE", "CREATED", "STORE", "SOURCE"});
  for (const ImageInfo& image : images) {
    table.add({image.name, context.size(image.size_bytes), format_time(image.created_s),
               image.store, image.source});
  }
  context.print(table.to_string());
  return {};
}

Result<void> show_image(Context& context, const std::string& name) {
  TRY_ASSIGN(Client * client, context.client());
  TRY_ASSIGN(const ImageInfo image, client->show_image(name));
  print_image(context, image);
  return {};
}

Result<void> create_image(Context& context, const std::string& name, const std::string& from) {
  TRY_ASSIGN(Client * client, context.client());
  const Waiting waiting("creating image " + name, !context.options.quiet);
  TRY_ASSIGN(const ImageInfo image, client->create_image(name, from));
  report_image(context, "created", image);
  return {};
}

Result<void> remove_images(Context& context, const std::vector<std::string>& names) {
  TRY_ASSIGN(Client * client, context.client());
  for (const std::string& name : names) TRY(client->remove_image(name));
  return {};
}

void add_import(CLI::App& image, Context& context) {
  auto options = std::make_shared<ImportOptions>();
  auto* command = image.add_subcommand("import", "Make an image from a file, a URL or stdin");
  command->add_option("name", options->name, "The new image's name")->required();
  command
      ->add_option("source", options->source,
                   "raw, qcow2, vmdk, vdi or vhdx: a file, an http(s) URL, or - for raw on stdin")
      ->required();
  command->add_option("--format", options->format, "The source's format; found out by default");
  command->add_option("--store", options->store, "The store to put it in");
  add_size(*command, "--size", options->size_bytes, "The size of what comes on stdin");
  command->add_flag("!--no-dedup", options->deduplicate,
                    "Store it and what its volumes write without looking for duplicates");
  command->add_flag("--verify", options->verify, "Read source and image again and compare them");
  command->callback([&context, options] {
    context.run([&]() -> Result<void> {
      TRY_ASSIGN(const ImageInfo made, import_image(context, *options));
      report_image(context, "imported", made);
      return {};
    });
  });
}

void add_export(CLI::App& image, Context& context) {
  auto options = std::make_shared<ExportOptions>();
  auto* command = image.add_subcommand("export", "Write an image to a file");
  command->add_option("name", options->disk, "The image")->required();
  command->add_option("file", options->file, "The file to write")->required();
  command->add_option("--format", options->format, "raw or qcow2; by default by FILE's suffix");
  command->add_flag("--force", options->force, "Overwrite FILE");
  command->callback([&context, options] {
    context.run([&]() -> Result<void> {
      TRY_ASSIGN(Client * client, context.client());
      TRY(client->show_image(options->disk));
      return export_disk(context, *options);
    });
  });
}

}  // namespace

void add_image_commands(CLI::App& app, Context& context) {
  auto& image = *app.add_subcommand("image", "Read-only templates")->require_subcommand(1);
  add_import(image, context);

  auto name = std::make_shared<std::string>();
  auto from = std::make_shared<std::string>();
  auto* create = image.add_subcommand("create", "Make an image from a volume or snapshot");
  create->add_option("name", *name, "The new image's name")->required();
  create->add_option("--from", *from, "VOLUME or VOLUME@SNAPSHOT")->required();
  create->callback(
      [&context, name, from] { context.run([&] { return create_image(context, *name, *from); }); });

  image.add_subcommand("list", "List images")->callback([&context] {
    context.run([&] { return list_images(context); });
  });

  auto* show = image.add_subcommand("show", "Show one image");
  show->add_option("name", *name, "The image")->required();
  show->callback([&context, name] { context.run([&] { return show_image(context, *name); }); });

  auto names = std::make_shared<std::vector<std::string>>();
  auto* remove = image.add_subcommand("remove", "Remove images; their clones live on");
  remove->add_option("name", *names, "The images")->required();
  remove->callback(
      [&context, names] { context.run([&] { return remove_images(context, *names); }); });

  add_export(image, context);
}

}  // namespace squall
