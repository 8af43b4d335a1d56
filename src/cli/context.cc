#include "cli/context.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "api/units.h"

namespace squall {

std::string Context::config_file() const {
  return options.config.empty() ? paths_.config_file() : options.config;
}

std::string Context::control_socket() const {
  if (!options.socket.empty()) return options.socket;
  const char* socket = std::getenv("SQUALL_SOCKET");
  return socket != nullptr && *socket != '\0' ? socket : paths_.control_socket();
}

Result<Client> Context::connect() const {
  return Client::connect(control_socket());
}

Result<Client*> Context::client() {
  if (!client_) {
    TRY_ASSIGN(client_, connect());
  }
  return &*client_;
}

void Context::run(const std::function<Result<void>()>& verb) {
  const Result<void> result = verb();
  if (result) return;
  std::string message = result.error().message();
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::fflush(stdout);
  fmt::print(stderr, "squall: {}\n", message);
  exit_status_ = 1;
}

std::string Context::size(uint64_t bytes) const {
  return options.bytes ? std::to_string(bytes) : format_size(bytes);
}

void Context::print(const std::string& text) const {
  std::fputs(text.c_str(), stdout);
  if (!text.ends_with('\n')) std::fputc('\n', stdout);
}

void Context::note(const std::string& text) const {
  if (!options.quiet) fmt::print(stderr, "{}\n", text);
}

}  // namespace squall
