// Copying between an Operation's buffers and contiguous bytes.
#pragma once

#include <vector>

#include "io/reactor.h"

namespace squall::sim {

uint64_t total_length(const Operation& op);
// The bytes [begin, begin + length) of the operation's buffers.
std::vector<std::byte> gather(const Operation& op, uint64_t begin, uint64_t length);
void scatter(const Operation& op, uint64_t begin, ConstBytes data);

}  // namespace squall::sim
