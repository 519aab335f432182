#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/io/file.h"
#include "core/text.h"
#include "parallel/checkpoint/catalogue.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/discovery.h"

namespace strata {
namespace discovery_detail {

namespace fs = std::filesystem;

// A crash between the two leaves a directory that readers ignore and remove_leftovers() removes.
void remove_checkpoint(const fs::path& directory) {
  fs::path doomed = directory;
  doomed += ".del-" + checkpoint_detail::utc_time("%Y%m%dT%H%M%S");
  io::rename_path(directory, doomed);
  io::remove_tree(doomed);
}

}  // namespace discovery_detail

std::vector<std::pair<int64_t, std::filesystem::path>> checkpoint_detail::steps_below(
    const std::filesystem::path& root) {
  std::vector<std::pair<int64_t, std::filesystem::path>> steps;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(root, error)) {
    const int64_t step = parse_step_name(entry.path().filename().string());
    if (step >= 0 && entry.is_directory(error)) steps.emplace_back(step, entry.path());
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

std::string why_invalid(const std::filesystem::path& directory) {
  try {
    checkpoint_detail::load_catalogue(directory);
    return "";
  } catch (const CheckpointError& error) {
    return error.what();
  }
}

std::optional<std::filesystem::path> find_latest(
    const std::filesystem::path& root, const std::function<void(const std::string&)>& warn) {
  std::optional<std::filesystem::path> latest;
  for (const auto& [step, path] : checkpoint_detail::steps_below(root)) {
    const std::string why = why_invalid(path);
    if (why.empty()) {
      latest = path;
      break;
    }
    warn(cat("checkpoint ", path.filename().string(), " is not usable: ", why));
  }
  // LATEST is a hint: only worth a word when it promises more than there is.
  std::error_code error;
  if (std::filesystem::is_regular_file(root / "LATEST", error)) {
    std::string name;
    try {
      name = std::string(trim(io::read_text(root / "LATEST")));
    } catch (const StorageError&) {
      return latest;
    }
    const int64_t promised = checkpoint_detail::parse_step_name(name);
    if (promised < 0) {
      warn(cat((root / "LATEST").string(), ": does not name a checkpoint; ignored"));
    } else if (!std::filesystem::exists(root / name, error)) {
      warn(cat(
          (root / "LATEST").string(), ": names ", name, ", which is missing; ",
          latest ? cat("using ", latest->filename().string()) : "there is no other checkpoint"));
    }
  }
  return latest;
}

std::filesystem::path quarantine(const std::filesystem::path& directory) {
  std::error_code error;
  const std::string base =
      cat(directory.string(), ".bad-", checkpoint_detail::utc_time("%Y%m%dT%H%M%S"));
  std::filesystem::path target = base;
  for (int i = 2; std::filesystem::exists(target, error); ++i) target = cat(base, "-", i);
  io::rename_path(directory, target);
  return target;
}

void prune(const std::filesystem::path& root, int keep_last, int64_t keep_every,
           const std::filesystem::path& keep, const std::function<void(const std::string&)>& note) {
  // One checkpoint may turn out to be damaged when it is needed, so two always stay.
  const int wanted = std::max(keep_last, 2);
  int valid = 0;
  for (const auto& [step, path] : checkpoint_detail::steps_below(root)) {
    if (valid < wanted) {
      const std::string why = why_invalid(path);
      if (why.empty()) {
        ++valid;
      } else {
        note(cat("checkpoint ", path.filename().string(), " is damaged and was left alone: ", why));
      }
      continue;
    }
    const bool archived = keep_every > 0 && step % keep_every == 0;
    if (archived || (!keep.empty() && path.filename() == keep.filename())) continue;
    try {
      discovery_detail::remove_checkpoint(path);
      note(cat("removed checkpoint ", path.filename().string()));
    } catch (const StorageError& error) {
      note(cat("checkpoint ", path.filename().string(), " could not be removed: ", error.what()));
    }
  }
}

}  // namespace strata
