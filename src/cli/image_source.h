// Opens what `image import` is given: a raw file or block device by itself, stdin, an http(s) URL
// through nbdkit, every other format through qemu-nbd. One thread.
#pragma once

#include <list>
#include <memory>
#include <string>

#include "cli/block_io.h"
#include "cli/child_process.h"
#include "cli/progress.h"

namespace squall {

struct ImageSourceOptions {
  std::string format;       // qemu's name; empty: find out
  uint64_t size_bytes = 0;  // of stdin when that is a pipe; 0: spool it first to find out
};

// A program that serves one disk over NBD on a socket of its own, which no other user can reach
// and which is gone after hide().
class NbdHelper {
 public:
  static Result<std::unique_ptr<NbdHelper>> start(std::vector<std::string> argv,
                                                  ChildProcess::Options options);
  ~NbdHelper() { hide(); }
  NbdHelper(const NbdHelper&) = delete;
  NbdHelper& operator=(const NbdHelper&) = delete;

  const std::string& socket_path() const { return socket_path_; }
  std::string error_text() const { return child_.error_text(); }
  // Removes the socket: nothing of it is left on disk even if this process is killed. Connections
  // stay.
  void hide();

 private:
  NbdHelper(ChildProcess child, std::string directory, std::string socket_path);

  ChildProcess child_;
  std::string directory_;
  std::string socket_path_;
};

struct ImageSource {
  std::string description;  // where it came from, for people
  std::string format;
  std::string backing_file;  // an overlay's, whose content is part of what is read
  bool can_reread = true;
  std::list<std::unique_ptr<NbdHelper>> helpers{};
  std::unique_ptr<BlockSource> blocks{};  // last: closed before the helpers
};

Result<ImageSource> open_image_source(const std::string& source, const ImageSourceOptions& options,
                                      Progress& spooling);

}  // namespace squall
