// The logs of durability scope `pool`: every part that belongs to a volume is read and verified.
// One reactor's thread.
#pragma once

#include <vector>

#include "base/task.h"
#include "check/catalog_check.h"
#include "engine/log_store.h"
#include "pool/pacer.h"

namespace squall {

// kCancelled, or the engine's error.
Task<Result<std::vector<Fault>>> check_logs(LogStore& logs, MetaStore& catalog,
                                            const CatalogView& view, Pacer& pacer);

}  // namespace squall
