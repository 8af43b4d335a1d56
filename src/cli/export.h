// `image export` and `volume export`: a disk into a raw or qcow2 file.
#pragma once

#include <string>

#include "cli/context.h"

namespace squall {

struct ExportOptions {
  std::string disk;  // IMAGE, VOLUME or VOLUME@SNAPSHOT
  std::string file;
  std::string format;  // "raw", "qcow2"; empty: by the file's suffix, else raw
  bool force = false;  // overwrite
};

// The file appears whole under its name or not at all.
Result<void> export_disk(Context& context, const ExportOptions& options);

}  // namespace squall
