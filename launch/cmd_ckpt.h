#pragma once
// Parts of `strata ckpt` that lie in files of their own.
#include <filesystem>

#include "launch/commands.h"

namespace strata {

// The folder of one checkpoint: itself, or the newest valid one of a run. Throws CheckpointError.
std::filesystem::path checkpoint_of(const std::filesystem::path& path);
int ckpt_convert(const Arguments& arguments);
int ckpt_compress(const Arguments& arguments);

}  // namespace strata
