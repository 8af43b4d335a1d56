// QMP, QEMU's control protocol: lines of JSON on a unix socket (QEMU's docs/interop/qmp-spec).
// Just enough to give a command. The other end is trusted with nothing: lines are bounded, every
// wait has a limit.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace squall {

enum class QmpLine : uint8_t { kGreeting, kReturn, kError, kEvent };

// What a line from QEMU is; kCorrupt when it is none of QMP. `error_text`: of kError.
Result<QmpLine> parse_qmp_line(std::string_view line, std::string* error_text);

// Connects, negotiates, and executes `command` without arguments. kNotFound when nobody listens.
Result<void> qmp_execute(const std::string& socket_path, std::string_view command,
                         uint64_t timeout_ms);

}  // namespace squall
