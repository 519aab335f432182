// Which checkpoint a run resumes from, what is kept, what is thrown away.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <set>

#include "core/error.h"
#include "core/io/file.h"
#include "parallel/checkpoint/checkpoint.h"
#include "tests/checkpoint/sample_state.h"

namespace strata::test {
namespace discovery_test {

namespace fs = std::filesystem;

State tiny_state() { return {{"/model/t", random_bytes_tensor({4}, at::kFloat, 1)}}; }

void save(const fs::path& root, int64_t step) {
  save_whole(sample_request(root, step), tiny_state());
}

std::set<std::string> names(const fs::path& root) {
  std::set<std::string> out;
  for (const auto& entry : fs::directory_iterator(root))
    out.insert(entry.path().filename().string());
  return out;
}

struct Messages {
  std::vector<std::string> all;
  std::function<void(const std::string&)> sink() {
    return [this](const std::string& text) { all.push_back(text); };
  }
};

TEST(FindLatest, TakesTheNewestValidOneAndReportsTheOthers) {
  const TempFolder folder(TempFolder::Where::Memory);
  Messages messages;
  EXPECT_FALSE(find_latest(folder.path(), messages.sink()).has_value());
  EXPECT_FALSE(find_latest(folder / "none", messages.sink()).has_value());
  save(folder.path(), 10);
  save(folder.path(), 20);
  save(folder.path(), 30);
  EXPECT_EQ(find_latest(folder.path(), messages.sink())->filename(), "step-000000000030");
  EXPECT_TRUE(messages.all.empty());
  fs::remove(folder / "step-000000000030/manifest.json");
  fs::resize_file(folder / "step-000000000020/shard-00000.h5", 100);
  EXPECT_EQ(find_latest(folder.path(), messages.sink())->filename(), "step-000000000010");
  ASSERT_EQ(messages.all.size(), 2u);
  EXPECT_NE(messages.all[0].find("no manifest.json"), std::string::npos) << messages.all[0];
  EXPECT_NE(messages.all[1].find("shard-00000.h5: has 100 bytes"), std::string::npos)
      << messages.all[1];
}

TEST(FindLatest, LatestIsAHint) {
  const TempFolder folder(TempFolder::Where::Memory);
  save(folder.path(), 10);
  Messages messages;
  io::write_text_atomic(folder / "LATEST", "step-000000000099\n");
  EXPECT_EQ(find_latest(folder.path(), messages.sink())->filename(), "step-000000000010");
  ASSERT_EQ(messages.all.size(), 1u);
  EXPECT_NE(messages.all[0].find("which is missing"), std::string::npos);
  io::write_text_atomic(folder / "LATEST", "../../etc\n");
  EXPECT_EQ(find_latest(folder.path(), messages.sink())->filename(), "step-000000000010");
  EXPECT_EQ(messages.all.size(), 2u);
  fs::remove(folder / "LATEST");
  EXPECT_EQ(find_latest(folder.path(), messages.sink())->filename(), "step-000000000010");
  EXPECT_EQ(messages.all.size(), 2u);
}

TEST(FindLatest, IgnoresEverythingElse) {
  const TempFolder folder(TempFolder::Where::Memory);
  save(folder.path(), 10);
  for (const char* other : {"step-000000000020.tmp-12345678",
                            "step-000000000020.bad-20260101T000000", "step-30", "notes"}) {
    fs::copy(folder / "step-000000000010", folder / other, fs::copy_options::recursive);
  }
  io::write_text_atomic(folder / "step-000000000040", "a file");
  Messages messages;
  EXPECT_EQ(find_latest(folder.path(), messages.sink())->filename(), "step-000000000010");
  EXPECT_TRUE(messages.all.empty());
}

TEST(Quarantine, RenamesAndNeverOverwrites) {
  const TempFolder folder(TempFolder::Where::Memory);
  save(folder.path(), 10);
  const fs::path bad = quarantine(folder / "step-000000000010");
  EXPECT_EQ(bad.filename().string().rfind("step-000000000010.bad-", 0), 0u);
  EXPECT_TRUE(fs::exists(bad / "manifest.json"));
  save(folder.path(), 10);
  const fs::path again = quarantine(folder / "step-000000000010");
  EXPECT_NE(again, bad);
  EXPECT_TRUE(fs::exists(bad) && fs::exists(again));
  EXPECT_FALSE(find_latest(folder.path(), ignore).has_value());
  EXPECT_THROW(quarantine(folder / "step-000000000010"), StorageError);
}

TEST(Prune, KeepsTheNewestTheArchivedAndTheParent) {
  const TempFolder folder(TempFolder::Where::Memory);
  for (int64_t step = 10; step <= 100; step += 10) save(folder.path(), step);
  Messages messages;
  prune(folder.path(), 3, 40, folder / "step-000000000030", messages.sink());
  EXPECT_EQ(names(folder.path()),
            (std::set<std::string>{"LATEST", "step-000000000030", "step-000000000040",
                                   "step-000000000080", "step-000000000090", "step-000000000100"}));
  EXPECT_EQ(messages.all.size(), 5u);
}

TEST(Prune, DamagedOnesDoNotCountAndAreLeftAlone) {
  const TempFolder folder(TempFolder::Where::Memory);
  for (int64_t step = 10; step <= 60; step += 10) save(folder.path(), step);
  fs::remove(folder / "step-000000000050/manifest.json");
  Messages messages;
  prune(folder.path(), 2, 0, {}, messages.sink());
  EXPECT_EQ(names(folder.path()),
            (std::set<std::string>{"LATEST", "step-000000000040", "step-000000000050",
                                   "step-000000000060"}));
}

TEST(Prune, TwoAlwaysStay) {
  const TempFolder folder(TempFolder::Where::Memory);
  for (int64_t step = 1; step <= 4; ++step) save(folder.path(), step);
  prune(folder.path(), 0, 0, {}, ignore);
  EXPECT_EQ(names(folder.path()),
            (std::set<std::string>{"LATEST", "step-000000000003", "step-000000000004"}));
  fs::remove(folder / "step-000000000004/manifest.json");
  save(folder.path(), 5);
  prune(folder.path(), 1, 0, {}, ignore);
  EXPECT_TRUE(fs::exists(folder / "step-000000000003"));
}

TEST(Prune, AFailureIsReported) {
  const TempFolder folder(TempFolder::Where::Memory);
  for (int64_t step = 1; step <= 3; ++step) save(folder.path(), step);
  Messages messages;
  io::set_fault_plan("rename:1=EACCES");
  prune(folder.path(), 2, 0, {}, messages.sink());
  io::set_fault_plan("");
  ASSERT_EQ(messages.all.size(), 1u);
  EXPECT_NE(messages.all[0].find("could not be removed"), std::string::npos) << messages.all[0];
  EXPECT_TRUE(fs::exists(folder / "step-000000000001"));
}

// A child that stops in the middle of a save, by killing itself or by waiting.
TEST(Leftovers, OfDeadWritersAreRemovedOthersReported) {
  const TempFolder folder(TempFolder::Where::Memory);
  save(folder.path(), 10);
  const pid_t dead = ::fork();
  if (dead == 0) {
    const auto job = make_self_communicator();
    CheckpointWriter writer(*job, sample_request(folder.path(), 20));
    ::_exit(0);
  }
  ::waitpid(dead, nullptr, 0);
  const auto job = make_self_communicator();
  const CheckpointWriter alive(*job, sample_request(folder.path(), 30));
  fs::create_directory(folder / "step-000000000005.del-20260101T000000");
  fs::create_directory(folder / "step-000000000006.tmp-00000000");  // no owner yet: just started
  fs::create_directory(folder / "step-000000000007.tmp-00000000");  // no owner and old
  fs::last_write_time(folder / "step-000000000007.tmp-00000000",
                      fs::file_time_type::clock::now() - std::chrono::minutes(5));
  fs::create_directory(folder / "step-000000000008.bad-20260101T000000");
  fs::create_directory(folder / "somebody's");
  EXPECT_EQ(names(folder.path()).size(), 9u);
  Messages messages;
  remove_leftovers(folder.path(), messages.sink());
  const auto left = names(folder.path());
  EXPECT_EQ(left.size(), 6u);
  EXPECT_EQ(left.count("step-000000000010"), 1u);
  EXPECT_EQ(left.count("step-000000000006.tmp-00000000"), 1u);
  EXPECT_EQ(left.count("step-000000000008.bad-20260101T000000"), 1u);
  EXPECT_EQ(left.count("somebody's"), 1u);
  ASSERT_EQ(messages.all.size(), 2u);
  EXPECT_NE((messages.all[0] + messages.all[1]).find(cat("process ", ::getpid(), " on this host")),
            std::string::npos);
}

TEST(Leftovers, AReusedProcessIdIsNotTheWriter) {
  const TempFolder folder(TempFolder::Where::Memory);
  const fs::path stale = folder / "step-000000000020.tmp-00000000";
  fs::create_directory(stale);
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  io::write_text_atomic(stale / "writer.txt", cat(host, " ", ::getpid(), " 1\n"));
  remove_leftovers(folder.path(), ignore);
  EXPECT_FALSE(fs::exists(stale));
  fs::create_directory(stale);
  io::write_text_atomic(stale / "writer.txt", "another-host 1 1\n");
  Messages messages;
  remove_leftovers(folder.path(), messages.sink());
  EXPECT_TRUE(fs::exists(stale));
  EXPECT_EQ(messages.all.size(), 1u);
  fs::last_write_time(stale, fs::file_time_type::clock::now() - std::chrono::hours(48));
  remove_leftovers(folder.path(), messages.sink());
  EXPECT_FALSE(fs::exists(stale));
}

}  // namespace discovery_test
}  // namespace strata::test
