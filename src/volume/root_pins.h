// RootPins: the roots that something in memory reads, or is about to publish, although the catalog
// may know them no longer or not yet: an open snapshot or image that has been removed, a clone that
// is being created while its image is removed. Garbage collection counts them as live. One
// reactor's thread; the registry outlives its pins.
#pragma once

#include <list>

#include "index/block_index.h"

namespace squall {

class RootPins {
 public:
  const std::list<IndexRoot>& roots() const { return roots_; }

 private:
  friend class RootPin;
  std::list<IndexRoot> roots_;
};

// Taken while the root is still reachable otherwise, without a suspension in between.
class RootPin {
 public:
  RootPin(RootPins& pins, IndexRoot root) : pins_(pins) {
    pins_.roots_.push_front(root);
    place_ = pins_.roots_.begin();
  }
  RootPin(const RootPin&) = delete;
  RootPin& operator=(const RootPin&) = delete;
  ~RootPin() { pins_.roots_.erase(place_); }
  IndexRoot root() const { return *place_; }

 private:
  RootPins& pins_;
  std::list<IndexRoot>::iterator place_;
};

}  // namespace squall
