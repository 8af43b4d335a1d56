#include "testing/volume_history.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace squall::testing {

void VolumeHistory::Change::apply(Content& to) const {
  switch (kind) {
    case Kind::kData:
      CHECK(offset + data->size() <= to.size());
      std::ranges::copy(*data, to.begin() + static_cast<ptrdiff_t>(offset));
      break;
    case Kind::kZero:
      CHECK(offset + length <= to.size());
      std::fill_n(to.begin() + static_cast<ptrdiff_t>(offset), length, std::byte{0});
      break;
    case Kind::kResize:
      to.resize(length);
      break;
    case Kind::kReplace:
      to = *data;
      break;
  }
}

void VolumeHistory::issue(Change change) {
  change.apply(now_);
  changes_.push_back(std::move(change));
}

void VolumeHistory::drop_from(size_t count) {
  CHECK(count >= acknowledged_);
  changes_.resize(count);
  now_ = at(count);
}

void VolumeHistory::settle() {
  base_ = now_;
  changes_.clear();
  acknowledged_ = durable_ = 0;
}

Content VolumeHistory::at(size_t count) const {
  Content content = base_;
  for (size_t i = 0; i < count; ++i) changes_[i].apply(content);
  return content;
}

std::optional<size_t> VolumeHistory::find(const Content& got, size_t first, size_t last) const {
  if (first > last) return std::nullopt;
  Content content = at(first);
  for (size_t count = first;; ++count) {
    if (content == got) return count;
    if (count == last) return std::nullopt;
    changes_[count].apply(content);
  }
}

bool VolumeHistory::matches_in_flight(const Content& got) const {
  constexpr size_t kSector = 512;
  const Content old = at(acknowledged_);
  if (got.size() != old.size() || got.size() != now_.size())
    return find(got, acknowledged_, issued()).has_value();
  for (size_t begin = 0; begin < got.size(); begin += kSector) {
    const size_t size = std::min(kSector, got.size() - begin);
    if (std::memcmp(got.data() + begin, old.data() + begin, size) != 0 &&
        std::memcmp(got.data() + begin, now_.data() + begin, size) != 0)
      return false;
  }
  return true;
}

}  // namespace squall::testing
