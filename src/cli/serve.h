// The verb `serve`, which the program squalld runs too.
#pragma once

#include "cli/context.h"

namespace squall {

Result<void> serve(Context& context);

}  // namespace squall
