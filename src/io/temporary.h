// Where writers write until they commit: "name.tmp-<process>-<count>" beside the target, so that renaming never crosses
// file systems. A writer locks its temporary for as long as it lives, and the system lets go of the lock however the
// process ends. So one without a lock is a dead writer's, whatever machine or container it ran in, and the next writer
// of the same target removes it. Where a file system has no locks, none is removed.
#pragma once

#include <filesystem>

namespace metal_candle::io {

/// A name that is new in this process.
std::filesystem::path temporary_for(const std::filesystem::path& target);
/// Locks what was just created as `temporary`. False: it looked abandoned to another writer, who has removed it.
bool claim(int fd, const std::filesystem::path& temporary);
/// Removes what dead writers of a target left. Complains about nothing.
void remove_abandoned(const std::filesystem::path& target);

}  // namespace metal_candle::io
