// CrashWorld::verify: every name, every byte.
#include <algorithm>
#include <set>

#include "testing/crash_world.h"

namespace squall::testing {

class CrashWorld::Inspection {
 public:
  Inspection(const CrashWorld& world, SimHost& host, Crash crash, Found* found)
      : world_(world), host_(host), crash_(crash), found_(found) {}

  std::string run() {
    volumes();
    images();
    return problem_;
  }

 private:
  void report(const std::string& problem) {
    if (problem_.empty()) problem_ = problem;
  }

  void volumes() {
    std::set<std::string> there;
    auto list = host_.run(host_.volumes().list_volumes());
    if (!list) return report("volumes cannot be listed: " + list.error().message());
    for (const VolumeInfo& info : *list) there.insert(info.name);
    std::map<uint64_t, bool> verbs;
    for (const auto& [name, volume] : world_.volumes_) {
      const bool present = there.erase(name) > 0;
      if (volume.presence == Presence::kPresent) {
        if (!present) report("volume " + name + " is missing");
      } else if (!verbs.emplace(volume.verb, present).second && verbs[volume.verb] != present) {
        report("volume " + name + (present ? " is there" : " is missing") +
               ", unlike what came with it");
      }
      if (present) one_volume(name, volume);
    }
    for (const std::string& name : there) report("volume " + name + " should not be there");
  }

  void one_volume(const std::string& name, const VolumeState& volume) {
    const std::optional<Content> got = read(name, volume.in_doubt);
    if (got) check_volume(name, volume, *got);
    std::set<std::string> there;
    auto list = host_.run(host_.volumes().list_snapshots(name));
    if (!list) return report("snapshots cannot be listed: " + list.error().message());
    for (const SnapshotInfo& info : *list) there.insert(info.name);
    for (const auto& [snapshot, fixed] : volume.snapshots) {
      const bool present = there.erase(snapshot) > 0;
      if (!present && fixed.presence == Presence::kPresent)
        report("snapshot " + name + "@" + snapshot + " is missing");
      if (present) check_fixed(name + "@" + snapshot, fixed);
    }
    for (const std::string& snapshot : there)
      report("snapshot " + name + "@" + snapshot + " should not be there");
  }

  void images() {
    std::set<std::string> there;
    auto list = host_.run(host_.volumes().list_images());
    if (!list) return report("images cannot be listed: " + list.error().message());
    for (const ImageInfo& info : *list) there.insert(info.name);
    for (const auto& [name, image] : world_.images_) {
      const bool present = there.erase(name) > 0;
      if (!present && image.presence == Presence::kPresent) report("image " + name + " is missing");
      if (present) check_fixed(name, image);
    }
    for (const std::string& name : there) report("image " + name + " should not be there");
  }

  std::optional<Content> read(const std::string& name, bool in_doubt) {
    auto opened = host_.run(host_.volumes().open_disk(name));
    if (!opened) {
      report(name + " cannot be opened: " + opened.error().message());
      return std::nullopt;
    }
    Content got(opened->disk->size_bytes(), std::byte{0xee});
    if (auto done = host_.run(opened->disk->read(0, got)); !done) {
      const bool live = &host_ == world_.host_.get();
      if (!in_doubt || (!live && !world_.loss_allowed_))
        report(name + " cannot be read: " + done.error().message());
      return std::nullopt;
    }
    if (found_ != nullptr) found_->emplace(name, got);
    return got;
  }

  void check_volume(const std::string& name, const VolumeState& volume, const Content& got) {
    const VolumeHistory& history = volume.history;
    if (volume.unknown || (crash_ == Crash::kPowerCut && volume.promises_nothing())) return;
    if (volume.options.stateless) {
      if (!history.matches_in_flight(got)) differs(name, history, history.acknowledged(), got);
      return;
    }
    const size_t first = crash_ == Crash::kKill ? history.acknowledged() : history.durable();
    if (!history.find(got, first, history.issued()) && !history.matches_failed(got))
      differs(name, history, first, got);
  }

  void check_fixed(const std::string& name, const Fixed& fixed) {
    const std::optional<Content> got = read(name, false);
    if (!got) return;
    if (fixed.content != nullptr) {
      if (*got != *fixed.content) report(name + " has changed" + where(*got, *fixed.content));
      return;
    }
    const auto source = world_.volumes_.find(fixed.source);
    if (source == world_.volumes_.end()) return;
    const VolumeHistory& history = source->second.history;
    if (!history.find(*got, fixed.first, fixed.last.value_or(history.issued())))
      differs(name, history, fixed.first, *got);
  }

  static std::string where(const Content& got, const Content& expected) {
    const auto at = std::ranges::mismatch(got, expected).in1 - got.begin();
    return fmt::format(" ({} bytes, {} expected; first difference at {})", got.size(),
                       expected.size(), at);
  }

  void differs(const std::string& name, const VolumeHistory& history, size_t first,
               const Content& got) {
    std::string text = fmt::format("{} is in no state that it may be in:", name);
    for (size_t count = 0; count <= history.issued(); ++count) {
      const Content state = history.at(count);
      text += fmt::format("\n  after {} of {} changes{}{}: ", count, history.issued(),
                          count == history.acknowledged() ? ", acknowledged" : "",
                          count == first ? ", the first allowed" : "");
      text += state == got ? "equal" : where(got, state);
    }
    report(text);
  }

  const CrashWorld& world_;
  SimHost& host_;
  const Crash crash_;
  Found* found_;
  std::string problem_;
};

std::string CrashWorld::verify(SimHost& host, Crash crash, Found* found) const {
  return Inspection(*this, host, crash, found).run();
}

}  // namespace squall::testing
