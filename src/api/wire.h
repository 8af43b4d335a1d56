// The control API's JSON: encode and decode for every type of api/types.h and volume/manager.h that
// crosses it, and for vectors of them. Instantiated in wire.cc for exactly those types, so that
// only that file compiles Boost.JSON. Pure functions, any thread.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace squall::wire {

enum class UnknownFields { kReject, kIgnore };

template <class T>
std::string encode(const T& value);

// Absent fields keep their default. kInvalid names the field and what is wrong with it; servers
// reject unknown fields, clients ignore them (a newer daemon may say more).
template <class T>
Result<T> decode(std::string_view json, UnknownFields unknown);

// The kind that to_string(ErrorKind) gave; kInternal for an unknown word.
ErrorKind parse_error_kind(std::string_view text);

}  // namespace squall::wire
