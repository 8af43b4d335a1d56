#include "cli/import.h"

#include <chrono>

#include "cli/block_copy.h"
#include "cli/image_source.h"
#include "cli/interrupt.h"
#include "cli/nbd_blocks.h"

namespace squall {

namespace {

// An import's session, aborted unless finished. The daemon does the same when this process dies.
class Session {
 public:
  static Result<Session> begin(Context& context, const ImportRequest& request) {
    TRY_ASSIGN(Client client, context.connect());
    TRY_ASSIGN(ImportSession session, client.begin_import(request));
    return Session(std::move(client), std::move(session));
  }
  Session(Session&&) = default;
  ~Session() {
    // A failure here changes nothing: the daemon aborts when the connection ends.
    if (client_) static_cast<void>(client_->abort_import(session_.id));
  }

  const std::string& disk() const { return session_.disk; }
  Result<ImageInfo> finish() {
    auto image = client_->finish_import(session_.id);
    if (image) client_.reset();
    return image;
  }

 private:
  Session(Client client, ImportSession session)
      : client_(std::make_unique<Client>(std::move(client))), session_(std::move(session)) {}

  std::unique_ptr<Client> client_;  // null once finished
  ImportSession session_;
};

// Lets the daemon refuse a name or a store before stdin was read to its end, by a session that
// lasts no longer than this call. The real one asks again.
Result<void> check_destination(Context& context, const ImportOptions& options) {
  constexpr uint64_t kAnySizeBytes = 512;
  TRY_ASSIGN(const Session session,
             Session::begin(context, {options.name, kAnySizeBytes, options.source, options.store}));
  return {};
}

Result<CopyStats> copy_into(Session& session, const std::string& nbd_socket, BlockSource& source,
                            Progress& progress) {
  TRY_ASSIGN(auto disk, NbdBlocks::connect(nbd_socket, session.disk(), "the daemon's import disk"));
  TRY_ASSIGN(const CopyStats stats, copy_blocks(source, *disk, progress));
  TRY(disk->disconnect());
  return stats;
}

Result<void> verify(const std::string& nbd_socket, const std::string& image, BlockSource& source,
                    Progress& progress) {
  TRY_ASSIGN(auto disk, NbdBlocks::connect(nbd_socket, image, "image " + image));
  TRY(compare_blocks(source, *disk, progress));
  return disk->disconnect();
}

}  // namespace

Result<ImageInfo> import_image(Context& context, const ImportOptions& options) {
  const bool show = !options.name.empty() && !context.options.quiet;
  catch_interrupts();
  TRY_ASSIGN(Client * client, context.client());
  TRY_ASSIGN(const StatusInfo status, client->status());
  const std::string& nbd_socket = status.node.nbd_socket;
  // begin_import checks it too, but only after the source has been opened and perhaps spooled.
  if (client->show_image(options.name)) {
    return fail(ErrorKind::kExists, "image {} exists; remove it or choose another name",
                options.name);
  }

  TRY(check_destination(context, options));

  Progress spooling("reading stdin", show);
  TRY_ASSIGN(ImageSource source,
             open_image_source(options.source, {options.format, options.size_bytes}, spooling));
  if (options.verify && !source.can_reread) {
    return fail(ErrorKind::kInvalid,
                "--verify reads the source twice, which a pipe with --size cannot; leave out one");
  }
  if (!source.backing_file.empty()) {
    context.note(fmt::format("{} is an overlay; its backing file {} is imported with it",
                             source.description, source.backing_file));
  }

  const uint64_t size_bytes = round_up(source.blocks->size_bytes(), 512);
  TRY_ASSIGN(Session session, Session::begin(context, {options.name, size_bytes, source.description,
                                                       options.store, options.deduplicate}));
  {
    Progress progress("import " + options.name, show);
    TRY(copy_into(session, nbd_socket, *source.blocks, progress));
  }
  TRY_ASSIGN(ImageInfo image, session.finish());
  if (!options.verify) return image;

  Progress progress("verify " + options.name, show);
  if (Result<void> same = verify(nbd_socket, options.name, *source.blocks, progress); !same) {
    const Result<void> removed = client->remove_image(options.name);
    return std::unexpected(same.error().wrap(
        fmt::format("image {} {} {}{}", options.name,
                    same.error().kind() == ErrorKind::kCorrupt ? "is not what is in"
                                                               : "was not verified against",
                    source.description, removed ? " and was removed" : "; remove it")));
  }
  return image;
}

}  // namespace squall
