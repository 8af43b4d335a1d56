#include "cli/options.h"

#include "api/units.h"

namespace squall {

CLI::Option* add_size(CLI::App& command, const std::string& name, uint64_t& to,
                      const std::string& description) {
  return add_parsed(command, name, to, parse_size, description)->type_name("SIZE");
}

namespace {
Result<SnapshotName> parse_snapshot_name(const std::string& text) {
  const size_t at = text.find('@');
  if (at == std::string::npos || at == 0 || at + 1 == text.size()) {
    return fail(ErrorKind::kInvalid, "'{}' is not a snapshot; write VOLUME@SNAPSHOT", text);
  }
  return SnapshotName{text.substr(0, at), text.substr(at + 1)};
}
}  // namespace

CLI::Option* add_snapshot_name(CLI::App& command, SnapshotName& to) {
  return add_parsed(command, "snapshot", to, parse_snapshot_name, "The snapshot")
      ->type_name("VOLUME@SNAPSHOT")
      ->required();
}

}  // namespace squall
