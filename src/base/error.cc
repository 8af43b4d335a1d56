#include "base/error.h"

#include <cerrno>
#include <cstring>

namespace squall {

std::string_view to_string(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalid:
      return "invalid";
    case ErrorKind::kNotFound:
      return "not-found";
    case ErrorKind::kExists:
      return "exists";
    case ErrorKind::kBusy:
      return "busy";
    case ErrorKind::kConflict:
      return "conflict";
    case ErrorKind::kFenced:
      return "fenced";
    case ErrorKind::kNoSpace:
      return "no-space";
    case ErrorKind::kIo:
      return "io";
    case ErrorKind::kCorrupt:
      return "corrupt";
    case ErrorKind::kUnsupported:
      return "unsupported";
    case ErrorKind::kPermission:
      return "permission";
    case ErrorKind::kCancelled:
      return "cancelled";
    case ErrorKind::kInternal:
      return "internal";
  }
  return "unknown";
}

namespace {
ErrorKind kind_of_errno(int os_errno) {
  switch (os_errno) {
    case ENOENT:
      return ErrorKind::kNotFound;
    case EEXIST:
      return ErrorKind::kExists;
    case EBUSY:
    case EAGAIN:
      return ErrorKind::kBusy;
    case ENOSPC:
    case EDQUOT:
      return ErrorKind::kNoSpace;
    case EACCES:
    case EPERM:
    case EROFS:
      return ErrorKind::kPermission;
    case EINVAL:
      return ErrorKind::kInvalid;
    case EOPNOTSUPP:
      return ErrorKind::kUnsupported;
    case ECANCELED:
      return ErrorKind::kCancelled;
    default:
      return ErrorKind::kIo;
  }
}

int errno_of_kind(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalid:
      return EINVAL;
    case ErrorKind::kNotFound:
      return ENOENT;
    case ErrorKind::kExists:
      return EEXIST;
    case ErrorKind::kBusy:
    case ErrorKind::kConflict:
      return EBUSY;
    case ErrorKind::kNoSpace:
      return ENOSPC;
    case ErrorKind::kUnsupported:
      return EOPNOTSUPP;
    case ErrorKind::kPermission:
      return EPERM;
    case ErrorKind::kCancelled:
      return ECANCELED;
    default:
      return EIO;
  }
}
}  // namespace

Error Error::from_errno(int os_errno, std::string context) {
  return Error(kind_of_errno(os_errno), std::move(context), os_errno);
}

Error Error::wrap(std::string context) const {
  Error outer(kind_, std::move(context), errno_);
  outer.cause_ = std::make_shared<const Error>(*this);
  return outer;
}

int Error::os_errno() const {
  return errno_ != 0 ? errno_ : errno_of_kind(kind_);
}

std::string Error::message() const {
  std::string text = context_;
  if (cause_ != nullptr) return text + ": " + cause_->message();
  if (errno_ != 0) text += fmt::format(": {}", std::strerror(errno_));
  return text;
}

}  // namespace squall
