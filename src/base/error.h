// Result<T> and Error: how every fallible call of the project reports failure.
//
// An Error is a small stable kind (what a caller may branch on), an errno (0 when none applies),
// and one line of context: which object, which offset, which operation, and where it helps what to
// do. A cause may hang below it. Errors are immutable once built, cheap to move, safe to copy
// between threads.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace squall {

enum class ErrorKind : uint8_t {
  kInvalid,      // the request itself is wrong
  kNotFound,     // the named object does not exist
  kExists,       // the name is taken
  kBusy,         // the object is in use; later it may work
  kConflict,     // a compare of a catalog transaction failed; nothing was written
  kFenced,       // the lease is somebody else's now
  kNoSpace,      // pool, journal or budget is full
  kIo,           // the system reported an I/O error
  kCorrupt,      // bytes that fail their checksum or their format
  kUnsupported,  // a format version or an operation that this build does not know
  kPermission,   // not allowed
  kCancelled,    // stopped before it was done
  kInternal,     // a bug, or a library's unexpected answer
};

std::string_view to_string(ErrorKind kind);

class [[nodiscard]] Error {
 public:
  Error(ErrorKind kind, std::string context, int os_errno = 0)
      : kind_(kind), errno_(os_errno), context_(std::move(context)) {}

  // An error of a system call: kind derived from `os_errno` (a positive errno value).
  static Error from_errno(int os_errno, std::string context);

  // The same error seen from one level up: keeps kind and errno, puts `context` in front.
  Error wrap(std::string context) const;

  ErrorKind kind() const { return kind_; }
  // The errno to hand to a protocol client; never 0.
  int os_errno() const;
  const std::string& context() const { return context_; }
  // One line: context, errno's text, then the causes.
  std::string message() const;

 private:
  ErrorKind kind_;
  int errno_;
  std::string context_;
  std::shared_ptr<const Error> cause_;
};

template <class T = void>
using Result = std::expected<T, Error>;

template <class... Args>
std::unexpected<Error> fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(Error(kind, fmt::format(format, std::forward<Args>(args)...)));
}
template <class... Args>
std::unexpected<Error> fail_errno(int os_errno, fmt::format_string<Args...> format,
                                  Args&&... args) {
  return std::unexpected(
      Error::from_errno(os_errno, fmt::format(format, std::forward<Args>(args)...)));
}

}  // namespace squall

#define SQUALL_CONCAT_(a, b) a##b
#define SQUALL_CONCAT(a, b) SQUALL_CONCAT_(a, b)

// TRY(expression): returns the error from this function. TRY_ASSIGN(auto x, expression): the same,
// or declares x with the value. The CO_ forms are for coroutines; the expression may contain
// co_await.
#define TRY(...)                                             \
  do {                                                       \
    if (auto result_ = (__VA_ARGS__); !result_) [[unlikely]] \
      return std::unexpected(std::move(result_).error());    \
  } while (0)
#define TRY_ASSIGN_IMPL_(result, declaration, ...)     \
  auto result = (__VA_ARGS__);                         \
  if (!result) [[unlikely]]                            \
    return std::unexpected(std::move(result).error()); \
  declaration = std::move(*result)
#define TRY_ASSIGN(declaration, ...) \
  TRY_ASSIGN_IMPL_(SQUALL_CONCAT(result_, __LINE__), declaration, __VA_ARGS__)
#define CO_TRY(...)                                          \
  do {                                                       \
    if (auto result_ = (__VA_ARGS__); !result_) [[unlikely]] \
      co_return std::unexpected(std::move(result_).error()); \
  } while (0)
#define CO_TRY_ASSIGN_IMPL_(result, declaration, ...)     \
  auto result = (__VA_ARGS__);                            \
  if (!result) [[unlikely]]                               \
    co_return std::unexpected(std::move(result).error()); \
  declaration = std::move(*result)
#define CO_TRY_ASSIGN(declaration, ...) \
  CO_TRY_ASSIGN_IMPL_(SQUALL_CONCAT(result_, __LINE__), declaration, __VA_ARGS__)
