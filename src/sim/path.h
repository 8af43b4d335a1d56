// Paths of simulated file systems: absolute, '/' between components, no links, no "..".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"

namespace squall::sim {

inline std::vector<std::string> components(std::string_view path) {
  std::vector<std::string> names;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string_view name = path.substr(0, slash);
    CHECK(name != "..");
    if (!name.empty() && name != ".") names.emplace_back(name);
    path.remove_prefix(slash == std::string_view::npos ? path.size() : slash + 1);
  }
  return names;
}

inline std::string join(const std::vector<std::string>& names) {
  if (names.empty()) return "/";
  std::string path;
  for (const std::string& name : names) path += "/" + name;
  return path;
}

// True when `path` is `prefix` or lies below it; both as join() gives them.
inline bool covers(std::string_view prefix, std::string_view path) {
  if (prefix == "/") return true;
  return path.starts_with(prefix) && (path.size() == prefix.size() || path[prefix.size()] == '/');
}

}  // namespace squall::sim
