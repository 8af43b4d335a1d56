#include "testing/volume_history.h"

#include <algorithm>

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
  failed_.insert(failed_.end(), changes_.begin() + static_cast<ptrdiff_t>(count), changes_.end());
  changes_.resize(count);
  now_ = at(count);
}

void VolumeHistory::acknowledge(size_t count) {
  if (count <= acknowledged_) return;
  acknowledged_ = count;
  failed_.clear();
}

bool VolumeHistory::matches_failed(const Content& got) const {
  constexpr size_t kMost = 8;
  const size_t count = std::min(failed_.size(), kMost);
  for (uint64_t set = 1; set < uint64_t{1} << count; ++set) {
    Content content = at(acknowledged_);
    for (size_t i = 0; i < count; ++i)
      if ((set >> i & 1) != 0) failed_[i].apply(content);
    if (content == got) return true;
  }
  return false;
}

void VolumeHistory::settle() {
  base_ = now_;
  changes_.clear();
  failed_.clear();
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
  const Content old = at(acknowledged_);
  if (got.size() != old.size() || got.size() != now_.size())
    return find(got, acknowledged_, issued()).has_value();
  for (size_t i = 0; i < got.size(); ++i)
    if (got[i] != old[i] && got[i] != now_[i]) return false;
  return true;
}

}  // namespace squall::testing
