// What qemu-img says of an image file.
#pragma once

#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/error.h"

namespace squall {

struct ImageFileInfo {
  std::string format;        // qemu's name of it: "raw", "qcow2", ...
  std::string backing_file;  // as the file names it; empty for none
};

// Runs `qemu-img info` on a file's path or an NBD URI.
Result<ImageFileInfo> probe_image(const std::string& source);

// Whether a file that begins so may be anything but a raw disk. Only such files are shown to
// qemu-img: what looks raw is raw, whatever else qemu might take a disk's first bytes for.
bool may_be_container(ConstBytes head);
inline constexpr size_t kHeadBytes = 512;

// True for the formats that wrap a disk; whatever else qemu recognises by a disk's first bytes (a
// LUKS header, say) is still a raw disk.
bool is_container_format(const std::string& format);

}  // namespace squall
