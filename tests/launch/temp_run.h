#pragma once
// A run directory below the system's folder for temporary files, deleted afterwards, and a tiny
// model that trains in it.
#include <unistd.h>
#include <atomic>
#include <filesystem>
#include <string>

#include "core/io/file.h"
#include "core/text.h"
#include "launch/run_config.h"

namespace strata::launch_test {

class TempFolder {
 public:
  TempFolder() {
    static std::atomic<int> count{0};
    path_ =
        std::filesystem::temp_directory_path() / cat("strata-launch-", ::getpid(), "-", count++);
    std::filesystem::create_directories(path_);
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Overrides that describe a tiny llama on a repeating text in `folder`, trained for a few dozen
// milliseconds.
inline Overrides tiny_run(const TempFolder& folder, const Overrides& more = {}) {
  const std::filesystem::path text = folder / "text.txt";
  if (!std::filesystem::exists(text)) {
    std::string words;
    for (int i = 0; i < 400; ++i)
      words += cat("the quick brown fox ", i % 10, " jumps over the lazy dog\n");
    io::write_text_atomic(text, words);
  }
  Overrides out = {{"run.dir", (folder / "run").string()},
                   {"data.path", text.string()},
                   {"data.sequence_length", "16"},
                   {"data.valid_fraction", "0.1"},
                   {"train.steps", "12"},
                   {"train.batch", "4"},
                   {"train.dtype", "fp32"},
                   {"model.name", "llama"},
                   {"model.hidden_size", "16"},
                   {"model.intermediate_size", "32"},
                   {"model.num_hidden_layers", "2"},
                   {"model.num_attention_heads", "2"},
                   {"model.max_position_embeddings", "64"},
                   {"optim.lr", "1e-2"},
                   {"sched.warmup", "2"},
                   {"ckpt.interval", "5"},
                   {"runtime.backend", "self"},
                   {"runtime.device", "cpu"},
                   {"runtime.threads", "1"},
                   {"log.level", "error"}};
  for (const auto& [key, value] : more) {
    bool replaced = false;
    for (auto& entry : out) {
      if (entry.first == key) {
        entry.second = value;
        replaced = true;
      }
    }
    if (!replaced) out.emplace_back(key, value);
  }
  return out;
}

}  // namespace strata::launch_test
