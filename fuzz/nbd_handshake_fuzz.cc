// Whatever a client sends instead of a handshake, the server survives and leaks nothing.
#include "nbd_session.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  squall::run_nbd_session(std::as_bytes(std::span(data, size)));
  return 0;
}
