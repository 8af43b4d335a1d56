#include "sim/operation_buffers.h"

#include <algorithm>
#include <cstring>

namespace squall::sim {

namespace {
// Calls visit(memory) for the parts of the buffers that make up [begin, begin + length).
template <class Visit>
void for_each_buffer(const Operation& op, uint64_t begin, uint64_t length, Visit visit) {
  for (uint32_t i = 0; i < op.iov_count && length > 0; ++i) {
    const Bytes buffer(static_cast<std::byte*>(op.iov[i].iov_base), op.iov[i].iov_len);
    if (begin >= buffer.size()) {
      begin -= buffer.size();
      continue;
    }
    const uint64_t part = std::min<uint64_t>(length, buffer.size() - begin);
    visit(buffer.subspan(begin, part));
    begin = 0;
    length -= part;
  }
}
}  // namespace

uint64_t total_length(const Operation& op) {
  uint64_t total = 0;
  for (uint32_t i = 0; i < op.iov_count; ++i) total += op.iov[i].iov_len;
  return total;
}

std::vector<std::byte> gather(const Operation& op, uint64_t begin, uint64_t length) {
  std::vector<std::byte> data;
  data.reserve(length);
  for_each_buffer(op, begin, length,
                  [&](Bytes part) { data.insert(data.end(), part.begin(), part.end()); });
  return data;
}

void scatter(const Operation& op, uint64_t begin, ConstBytes data) {
  for_each_buffer(op, begin, data.size(), [&](Bytes part) {
    std::memcpy(part.data(), data.data(), part.size());
    data = data.subspan(part.size());
  });
}

}  // namespace squall::sim
