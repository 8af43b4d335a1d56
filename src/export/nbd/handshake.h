// Handshake: option haggling of one connection, from the greeting to the choice of an export.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/task.h"
#include "export/nbd/context.h"
#include "export/nbd/receiver.h"
#include "export/nbd/socket.h"
#include "format/nbd.h"

namespace squall::nbd {

class Handshake {
 public:
  // All of them outlive run(). `self` is what admission shuts down.
  Handshake(const Context& context, Receiver& receiver, const PeerIdentity& identity,
            AdmittedPeer& self);

  // The session to serve; empty when the connection is to be closed.
  Task<std::optional<Session>> run();

 private:
  // What becomes of the handshake after an option.
  enum class Next : uint8_t { kContinue, kServe, kClose };

  Task<Next> next_option();
  Task<Next> answer(Option option, ConstBytes data);
  Task<Next> answer_export_name(ConstBytes data);
  Task<Next> answer_info(ConstBytes data, bool go);
  Task<Next> answer_list(ConstBytes data);
  Task<Next> answer_meta_context(ConstBytes data, bool set);
  Next answer_structured_reply(ConstBytes data);
  Next answer_start_tls(ConstBytes data);

  Task<Result<void>> admit(const std::string& name, OpenDisk disk);
  uint16_t transmission_flags(const OpenDisk& disk, bool may_write) const;
  void append_info(const OpenDisk& disk, bool may_write, const InfoRequest& request);
  void reply(OptionReply type, std::string_view message = {});
  void reply_error(const Error& error);
  Task<bool> flush();

  const Context& context_;
  Receiver& receiver_;
  Socket& socket_;
  const PeerIdentity& identity_;
  AdmittedPeer& self_;
  Deadline deadline_;
  std::vector<std::byte> out_;  // replies not yet sent
  uint32_t option_ = 0;         // being answered
  uint32_t client_flags_ = 0;
  std::string allocation_name_;  // the export base:allocation was selected for
  bool allocation_ = false;
  Session session_;
};

}  // namespace squall::nbd
