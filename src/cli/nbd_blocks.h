// An NBD export as an end of a copy, through libnbd's asynchronous calls. Both the daemon's own
// disks and the formats that qemu-nbd opens are reached this way. Every wait ends when Ctrl-C comes
// (interrupt.h). One thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cli/block_io.h"

struct nbd_handle;

namespace squall {

class NbdBlocks : public BlockSource, public BlockSink {
 public:
  // `name` says in errors what is at the other end.
  static Result<std::unique_ptr<NbdBlocks>> connect(const std::string& socket_path,
                                                    const std::string& export_name,
                                                    std::string name);
  ~NbdBlocks() override;

  uint64_t size_bytes() const override { return size_bytes_; }
  Result<std::vector<DataRun>> data_runs() override;
  Result<void> start_read(Transfer& transfer) override;
  Result<void> start_write(Transfer& transfer) override;
  Result<void> flush() override;
  std::string name() const override { return name_; }
  // Asked when something fails, for the server's own words.
  void set_explanation(std::function<std::string()> explanation) {
    explanation_ = std::move(explanation);
  }
  std::string explanation() const override { return explanation_ ? explanation_() : ""; }
  PollInterest poll_interest() override;
  Result<void> on_poll(short revents) override;
  void abandon() override;
  // Says goodbye; nothing is in flight.
  Result<void> disconnect();

 private:
  NbdBlocks(nbd_handle* handle, std::string name) : handle_(handle), name_(std::move(name)) {}
  std::unexpected<Error> error(std::string_view operation) const;
  // Lets the connection go on until `is_done()`.
  template <class Done>
  Result<void> progress_until(Done is_done);
  // Waits for one command; when that fails this endpoint is abandoned.
  Result<void> finish(Transfer& transfer, std::string_view operation);

  nbd_handle* handle_;
  const std::string name_;
  uint64_t size_bytes_ = 0;
  std::function<std::string()> explanation_;
};

}  // namespace squall
