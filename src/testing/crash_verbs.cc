// CrashWorld's verbs: until one is acknowledged both what was before it and what comes of it may be
// found after a crash.
#include "testing/crash_world.h"

namespace squall::testing {

namespace {
using Change = VolumeHistory::Change;

std::string disk_name(const std::string& volume, const std::string& snapshot) {
  return volume + "@" + snapshot;
}
}  // namespace

// Content of IMAGE or VOLUME@SNAPSHOT.
std::shared_ptr<const Content> CrashWorld::content_of(const std::string& origin) const {
  const size_t at = origin.find('@');
  if (at == std::string::npos) {
    const auto image = images_.find(origin);
    return image == images_.end() ? nullptr : image->second.content;
  }
  const auto volume = volumes_.find(origin.substr(0, at));
  if (volume == volumes_.end()) return nullptr;
  const auto snapshot = volume->second.snapshots.find(origin.substr(at + 1));
  return snapshot == volume->second.snapshots.end() ? nullptr : snapshot->second.content;
}

Task<bool> CrashWorld::create(CreateVolume request) {
  const uint64_t verb = ++last_verb_;
  Content content;
  if (!request.from.empty()) {
    const auto origin = content_of(request.from);
    if (origin == nullptr) co_return false;
    content = *origin;
  }
  if (request.size_bytes != 0) content.resize(request.size_bytes);
  std::vector<std::string> names;
  for (uint64_t i = 1; i <= request.count; ++i) {
    names.push_back(request.count == 1 ? request.name : request.name + "-" + std::to_string(i));
    VolumeState volume;
    volume.options = request;
    volume.verb = verb;
    volume.history = VolumeHistory(content);
    volumes_.insert_or_assign(names.back(), std::move(volume));
  }
  auto done = co_await host_->volumes().create_volumes(request);
  if (!done) {
    for (const std::string& name : names) volumes_.at(name).in_doubt = true;
    co_return failed("creation of " + request.name, done.error());
  }
  for (const std::string& name : names) volumes_.at(name).presence = Presence::kPresent;
  co_return true;
}

Task<bool> CrashWorld::remove(std::string name) {
  if (!usable(name)) co_return false;
  close(name);
  VolumeState& volume = volumes_.at(name);
  volume.presence = Presence::kMaybe;
  volume.verb = ++last_verb_;
  if (auto done = co_await host_->volumes().remove_volume(name, false); !done) {
    volume.in_doubt = true;
    co_return failed("removal of " + name, done.error());
  }
  volumes_.erase(name);
  co_return true;
}

// Reads what a verb that is done has fixed, and holds it to that from now on.
Task<std::shared_ptr<const Content>> CrashWorld::pin(std::string disk, Fixed fixed) {
  auto opened = co_await host_->volumes().open_disk(disk);
  if (!opened) {
    failed("open " + disk, opened.error());
    co_return nullptr;
  }
  auto content = std::make_shared<Content>(opened->disk->size_bytes());
  if (auto done = co_await opened->disk->read(0, *content); !done) {
    failed("read " + disk, done.error());
    co_return nullptr;
  }
  const VolumeHistory& history = volumes_.at(fixed.source).history;
  if (!history.find(*content, fixed.first, fixed.last.value_or(history.issued())))
    report(disk + " is no state of " + fixed.source + " between the verb's call and its end");
  co_return content;
}

Task<bool> CrashWorld::snapshot(std::string name, std::string snapshot) {
  if (!usable(name)) co_return false;
  VolumeState& volume = volumes_.at(name);
  const size_t first = volume.history.acknowledged();
  Fixed& fixed = volume.snapshots[snapshot];
  fixed.source = name;
  fixed.first = first;
  if (auto done = co_await host_->volumes().create_snapshot(name, snapshot); !done)
    co_return failed("snapshot of " + name, done.error());
  fixed.presence = Presence::kPresent;
  fixed.last = volume.history.issued();
  volume.history.make_durable(first);
  fixed.content = co_await pin(disk_name(name, snapshot), fixed);
  co_return fixed.content != nullptr;
}

Task<bool> CrashWorld::remove_snapshot(std::string name, std::string snapshot) {
  VolumeState& volume = volumes_.at(name);
  volume.snapshots.at(snapshot).presence = Presence::kMaybe;
  if (auto done = co_await host_->volumes().remove_snapshot(name, snapshot); !done)
    co_return failed("removal of " + disk_name(name, snapshot), done.error());
  volume.snapshots.erase(snapshot);
  co_return true;
}

Task<bool> CrashWorld::rollback(std::string name, std::string snapshot) {
  if (!usable(name)) co_return false;
  close(name);
  VolumeState& volume = volumes_.at(name);
  const auto content = volume.snapshots.at(snapshot).content;
  if (content == nullptr) co_return false;
  volume.history.issue({.kind = Change::Kind::kReplace, .length = 0, .data = content});
  const size_t upto = volume.history.issued();
  if (auto done = co_await host_->volumes().rollback_volume(name, snapshot); !done) {
    volume.in_doubt = true;
    co_return failed("rollback of " + name, done.error());
  }
  volume.history.acknowledge(upto);
  volume.history.make_durable(upto);
  co_return true;
}

Task<bool> CrashWorld::resize(std::string name, uint64_t size_bytes) {
  if (!usable(name)) co_return false;
  close(name);
  VolumeState& volume = volumes_.at(name);
  volume.history.issue({.kind = Change::Kind::kResize, .length = size_bytes, .data = {}});
  const size_t upto = volume.history.issued();
  if (auto done = co_await host_->volumes().resize_volume(name, size_bytes); !done) {
    volume.in_doubt = true;
    co_return failed("resize of " + name, done.error());
  }
  volume.history.acknowledge(upto);
  volume.history.make_durable(upto);
  co_return true;
}

Task<bool> CrashWorld::create_image(std::string name, std::string from) {
  Fixed& image = images_[name];
  const bool of_volume = from.find('@') == std::string::npos;
  image.source = from;
  if (of_volume)
    image.first = volumes_.at(from).history.acknowledged();
  else
    image.content = content_of(from);
  if (auto done = co_await host_->volumes().create_image(name, from); !done)
    co_return failed("image from " + from, done.error());
  image.presence = Presence::kPresent;
  if (!of_volume) co_return true;
  image.last = volumes_.at(from).history.issued();
  image.content = co_await pin(name, image);
  co_return image.content != nullptr;
}

Task<bool> CrashWorld::remove_image(std::string name) {
  images_.at(name).presence = Presence::kMaybe;
  if (auto done = co_await host_->volumes().remove_image(name); !done)
    co_return failed("removal of image " + name, done.error());
  images_.erase(name);
  co_return true;
}

// Writes what is not zero, backwards, so that no order of blocks is taken for granted.
Task<bool> CrashWorld::import(std::string name, Content content, bool abort) {
  VolumeManager& volumes = host_->volumes();
  ImportRequest request{.name = name, .size_bytes = content.size(), .source = "test", .store = {}};
  auto session = co_await volumes.begin_import(std::move(request));
  if (!session) co_return failed("import of " + name, session.error());
  auto disk = co_await volumes.open_disk(session->disk);
  if (!disk) co_return failed("import of " + name, disk.error());
  constexpr uint64_t kStep = 16 * kKiB;
  for (uint64_t at = round_up(content.size(), kStep); at > 0; at -= kStep) {
    const uint64_t begin = at - kStep;
    const ConstBytes part =
        ConstBytes(content).subspan(begin, std::min(kStep, content.size() - begin));
    if (is_zero(part)) continue;
    if (auto done = co_await disk->writer->write(begin, part, false); !done) {
      (void)co_await volumes.abort_import(session->id);
      co_return failed("import of " + name, done.error());
    }
  }
  if (abort) {
    if (auto done = co_await volumes.abort_import(session->id); !done)
      co_return failed("abort of import " + name, done.error());
    co_return true;
  }
  Fixed image;
  image.content = std::make_shared<const Content>(std::move(content));
  images_[name] = image;
  if (auto done = co_await volumes.finish_import(session->id); !done)
    co_return failed("import of " + name, done.error());
  images_.at(name).presence = Presence::kPresent;
  co_return true;
}

}  // namespace squall::testing
