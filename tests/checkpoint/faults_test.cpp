// A full disk, failing operations and kills at every point of a save: the old checkpoint or the new
// one, nothing between.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "core/error.h"
#include "core/io/file.h"
#include "parallel/checkpoint/checkpoint.h"
#include "tests/checkpoint/sample_state.h"
#include "tests/checkpoint/thread_group.h"

namespace strata::test {
namespace faults_test {

namespace fs = std::filesystem;

struct Faults {
  explicit Faults(const std::string& plan) { io::set_fault_plan(plan); }
  ~Faults() { io::set_fault_plan(""); }
};

State small_state(uint32_t seed) {
  return {{"/model/a", random_bytes_tensor({40, 60}, at::kFloat, seed)},
          {"/model/b", random_bytes_tensor({7}, at::kBFloat16, seed + 1)},
          {"/optim/a/m", random_bytes_tensor({40, 60}, at::kFloat, seed + 2)}};
}

std::vector<std::string> entries(const fs::path& root) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(root))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// What is found afterwards is one of the two states, whole.
void expect_old_or_new(const fs::path& root, bool may_be_new, bool* is_new) {
  const auto found = find_latest(root, ignore);
  ASSERT_TRUE(found.has_value());
  const CheckpointReader reader(*found);
  *is_new = reader.step() == 20;
  EXPECT_TRUE(may_be_new || !*is_new);
  EXPECT_EQ(difference(reader, small_state(reader.step() == 20 ? 200 : 100)), "");
  EXPECT_TRUE(reader.verify_blocks().empty());
}

// Fails the n-th operation with `error` for n = 1, 2, ... until a save meets no fault any more.
void fail_at_every(const std::string& op, const std::string& error, int least) {
  const TempFolder folder(TempFolder::Where::Memory);
  int n = 1;
  for (;; ++n) {
    ASSERT_LT(n, 200);
    const fs::path root = folder / cat(op, n);
    save_whole(sample_request(root, 10), small_state(100));
    bool failed = false;
    {
      const Faults faults(cat(op, ":", n, "=", error));
      try {
        save_whole(sample_request(root, 20), small_state(200));
      } catch (const StorageError& failure) {
        failed = true;
        EXPECT_NE(std::string(failure.what()).find("checkpoint of step 20"), std::string::npos)
            << failure.what();
      }
    }
    SCOPED_TRACE(cat(op, " ", n));
    bool is_new = false;
    expect_old_or_new(root, true, &is_new);
    // Only the last step, syncing the parent after the rename, may fail with the new one in place.
    if (op != "sync" || !failed) {
      EXPECT_EQ(is_new, !failed);
    }
    for (const std::string& name : entries(root)) {
      EXPECT_EQ(name.find(".tmp"), std::string::npos) << name;
    }
    // A later save works.
    save_whole(sample_request(root, 30), small_state(300));
    EXPECT_EQ(CheckpointReader(*find_latest(root, ignore)).step(), 30);
    fs::remove_all(root);
    // Did the fault hit anything? With one operation fewer than n the plan never fired.
    if (!failed) {
      const Faults counting(cat("kill@", op, ":", n));
      const pid_t child = ::fork();
      if (child == 0) {
        save_whole(sample_request(folder / "count", 20), small_state(200));
        ::_exit(0);
      }
      int status = 0;
      ::waitpid(child, &status, 0);
      fs::remove_all(folder / "count");
      if (WIFEXITED(status)) break;
    }
  }
  EXPECT_GT(n, least);
}

TEST(SaveFaults, DiskFullAtEveryWrite) { fail_at_every("write", "ENOSPC", 12); }
TEST(SaveFaults, ErrorAtEverySync) { fail_at_every("sync", "EIO", 8); }
TEST(SaveFaults, ErrorAtEveryRename) { fail_at_every("rename", "EIO", 3); }
TEST(SaveFaults, ErrorAtEveryMkdir) { fail_at_every("mkdir", "EDQUOT", 1); }

TEST(SaveFaults, ADiskThatStaysFullLeavesNoTemporaryFiles) {
  const TempFolder folder(TempFolder::Where::Memory);
  save_whole(sample_request(folder.path(), 10), small_state(100));
  for (int first = 1; first < 12; ++first) {
    const Faults faults(cat("write:", first, "+=ENOSPC"));
    EXPECT_THROW(save_whole(sample_request(folder.path(), 20), small_state(200)), StorageError);
    EXPECT_EQ(entries(folder.path()), (std::vector<std::string>{"LATEST", "step-000000000010"}));
  }
}

TEST(SaveFaults, ShortWritesAndInterruptionsAreInvisible) {
  const TempFolder folder(TempFolder::Where::Memory);
  const Faults faults(
      "write:1=EINTR,write:3=EINTR,write:4=SHORT,write:5=SHORT,write:6=EINTR,write:8+=SHORT,sync:1="
      "EINTR,sync:3=EINTR");
  const fs::path saved = save_whole(sample_request(folder.path(), 1), sample_state(1));
  EXPECT_EQ(difference(CheckpointReader(saved), sample_state(1)), "");
}

// Kills a saving child before every operation of a kind. `again`: it saves the step that is already
// there.
void kill_at_every(const std::string& op, bool again, int least) {
  const TempFolder folder(TempFolder::Where::Memory);
  int n = 1, old_found = 0, new_found = 0;
  for (;; ++n) {
    ASSERT_LT(n, 200);
    SCOPED_TRACE(cat("kill at ", op, " ", n));
    const fs::path root = folder / cat(op, n);
    save_whole(sample_request(root, 10), small_state(100));
    if (again) save_whole(sample_request(root, 20), small_state(200));
    const pid_t child = ::fork();
    if (child == 0) {
      io::set_fault_plan(cat("kill@", op, ":", n));
      save_whole(sample_request(root, 20), small_state(200));
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    const bool survived = WIFEXITED(status);
    ASSERT_TRUE(survived || WTERMSIG(status) == SIGKILL);
    bool is_new = false;
    expect_old_or_new(root, true, &is_new);
    ++(is_new ? new_found : old_found);
    EXPECT_TRUE(is_new || !(survived || again));
    // The next start cleans up, whatever the kill left.
    for (const auto& entry : fs::directory_iterator(root)) {
      if (entry.path().filename().string().find(".tmp-") != std::string::npos) {
        fs::last_write_time(entry.path(),
                            fs::file_time_type::clock::now() - std::chrono::minutes(5));
      }
    }
    remove_leftovers(root, [](const std::string& text) { ADD_FAILURE() << text; });
    for (const std::string& name : entries(root)) {
      EXPECT_TRUE(name.find(".tmp-") == std::string::npos &&
                  name.find(".del-") == std::string::npos)
          << name;
    }
    save_whole(sample_request(root, 30), small_state(300));
    EXPECT_EQ(CheckpointReader(*find_latest(root, ignore)).step(), 30);
    fs::remove_all(root);
    if (survived) break;
  }
  EXPECT_GT(n, least);
  EXPECT_GT(new_found, 0);
  // Directories are made before, files removed after the new checkpoint is there.
  EXPECT_EQ(old_found > 0, !again && op != "unlink");
}

TEST(SaveKills, AtEveryWrite) { kill_at_every("write", false, 12); }
TEST(SaveKills, AtEverySync) { kill_at_every("sync", false, 8); }
TEST(SaveKills, AtEveryRename) { kill_at_every("rename", false, 3); }
TEST(SaveKills, AtEveryUnlink) { kill_at_every("unlink", false, 1); }
TEST(SaveKills, AtEveryMkdir) { kill_at_every("mkdir", false, 1); }
TEST(SaveKills, WhileReplacingAStep) {
  kill_at_every("rename", true, 3);
  kill_at_every("unlink", true, 3);
}

TEST(SaveFaults, OneRankThatFailsIsHeardByAll) {
  const TempFolder folder(TempFolder::Where::Memory);
  const State state = sample_state(1);
  on_ranks(3, [&](Communicator& job) {
    save_randomly(job, sample_request(folder.path(), 10), state, 5);
  });
  for (int n = 1; n <= 30; n += 3) {
    const Faults faults(cat("write:", n, "=ENOSPC"));
    const auto thrown = on_ranks(3, [&](Communicator& job) {
      save_randomly(job, sample_request(folder.path(), 20), state, 6);
    });
    EXPECT_EQ(thrown[0], thrown[1]);
    EXPECT_EQ(thrown[0], thrown[2]);
    if (thrown[0].empty()) {
      fs::remove_all(folder / "step-000000000020");
      continue;
    }
    EXPECT_NE(thrown[0].find("checkpoint of step 20"), std::string::npos) << thrown[0];
    EXPECT_NE(thrown[0].find("No space left"), std::string::npos) << thrown[0];
    const auto left = entries(folder.path());
    EXPECT_TRUE(std::none_of(left.begin(), left.end(), [](const std::string& e) {
      return e.find(".tmp-") != std::string::npos;
    }));
  }
}

}  // namespace faults_test
}  // namespace strata::test
