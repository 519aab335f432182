#include "core/io/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <string>

#include "core/error.h"
#include "core/io/crc32c.h"
#include "core/io/safetensors.h"
#include "tests/io/temp_folder.h"

namespace strata::io {
namespace file_test {

namespace fs = std::filesystem;
using strata::test::TempFolder;

// Ends the plan with the scope, also when an assertion leaves it.
struct Faults {
  explicit Faults(const std::string& plan) { set_fault_plan(plan); }
  ~Faults() { set_fault_plan(""); }
};

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// Exit status of the child that runs `body`: -signal when a signal ended it.
int in_child(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

TEST(File, WritesAndReadsAtOffsets) {
  const TempFolder folder;
  File file(folder / "a", File::Mode::Create);
  file.write_at(10, "hello", 5);
  EXPECT_EQ(file.size(), 15);
  file.append(" there");
  file.sync();
  file.close();
  EXPECT_FALSE(file.is_open());
  const File again(folder / "a", File::Mode::Read);
  std::string text(11, ' ');
  again.read_at(10, text.data(), text.size());
  EXPECT_EQ(text, "hello there");
  EXPECT_EQ(read_text(folder / "a").substr(0, 10), std::string(10, '\0'));
}

TEST(File, MovesOwnership) {
  const TempFolder folder;
  File first(folder / "a", File::Mode::Create);
  File second = std::move(first);
  EXPECT_FALSE(first.is_open());
  second.append("x");
  first = std::move(second);
  first.append("y");
  EXPECT_EQ(read_text(folder / "a"), "xy");
}

TEST(File, SaysWhichFileAndWhy) {
  const TempFolder folder;
  const std::string missing = message_of([&] { File(folder / "none", File::Mode::Read); });
  EXPECT_NE(missing.find("none"), std::string::npos);
  EXPECT_NE(missing.find("No such file"), std::string::npos);
  write_text_atomic(folder / "short", "12345");
  const std::string ends = message_of([&] {
    char buffer[10];
    File(folder / "short", File::Mode::Read).read_at(2, buffer, 10);
  });
  EXPECT_NE(ends.find("ends at byte 5 but 7 more"), std::string::npos) << ends;
  EXPECT_THROW(read_text(folder.path()), StorageError);
}

TEST(File, MapsFilesAndEmptyFiles) {
  const TempFolder folder;
  write_text_atomic(folder / "full", "abc");
  write_text_atomic(folder / "empty", "");
  MappedFile full(folder / "full");
  EXPECT_EQ(full.text(), "abc");
  const MappedFile moved = std::move(full);
  EXPECT_EQ(moved.text(), "abc");
  EXPECT_EQ(full.size(), 0u);
  EXPECT_EQ(MappedFile(folder / "empty").size(), 0u);
  EXPECT_THROW(MappedFile(folder / "none"), StorageError);
}

TEST(File, AtomicTextReplacesAndLeavesNothingBehind) {
  const TempFolder folder;
  write_text_atomic(folder / "LATEST", "one");
  write_text_atomic(folder / "LATEST", "two");
  EXPECT_EQ(read_text(folder / "LATEST"), "two");
  {
    const Faults faults("write:1=ENOSPC");
    EXPECT_THROW(write_text_atomic(folder / "LATEST", "three"), StorageError);
  }
  EXPECT_EQ(read_text(folder / "LATEST"), "two");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

TEST(File, DirectoriesAndTrees) {
  const TempFolder folder;
  make_directory(folder / "d");
  EXPECT_THROW(make_directory(folder / "d"), StorageError);
  EXPECT_THROW(make_directory(folder / "no/such"), StorageError);
  make_directory(folder / "d/e");
  write_text_atomic(folder / "d/e/f", "x");
  write_text_atomic(folder / "outside", "kept");
  fs::create_symlink(folder / "outside", folder / "d/link");
  fs::create_directory_symlink(folder.path(), folder / "d/up");
  remove_tree(folder / "d");
  EXPECT_FALSE(fs::exists(folder / "d"));
  EXPECT_EQ(read_text(folder / "outside"), "kept");
  remove_tree(folder / "d");
  remove_file(folder / "absent");
  EXPECT_GT(free_bytes(folder.path()), 0);
  EXPECT_THROW(free_bytes(folder / "absent"), StorageError);
}

TEST(File, ExchangesTwoDirectoriesOrSaysItCannot) {
  const TempFolder folder;
  make_directory(folder / "a");
  make_directory(folder / "b");
  write_text_atomic(folder / "a/x", "from a");
  if (exchange_paths(folder / "a", folder / "b")) {
    EXPECT_EQ(read_text(folder / "b/x"), "from a");
    EXPECT_FALSE(fs::exists(folder / "a/x"));
  } else {
    EXPECT_EQ(read_text(folder / "a/x"), "from a");
  }
  EXPECT_THROW(exchange_paths(folder / "a", folder / "none"), StorageError);
}

TEST(FaultPlan, FailsTheNamedOperationOnly) {
  const TempFolder folder;
  const Faults faults("write:2=ENOSPC, sync:1=EIO");
  File file(folder / "a", File::Mode::Create);
  file.write_at(0, "x", 1);
  const std::string full = message_of([&] { file.write_at(1, "y", 1); });
  EXPECT_NE(full.find("No space left"), std::string::npos) << full;
  EXPECT_NE(full.find((folder / "a").string()), std::string::npos);
  file.write_at(1, "y", 1);
  EXPECT_THROW(file.sync(), StorageError);
  file.sync();
  EXPECT_EQ(read_text(folder / "a"), "xy");
}

TEST(FaultPlan, FromNOnwards) {
  const TempFolder folder;
  const Faults faults("write:2+=EDQUOT");
  File file(folder / "a", File::Mode::Create);
  file.append("x");
  for (int i = 0; i < 3; ++i) EXPECT_THROW(file.append("y"), StorageError);
  EXPECT_EQ(file.size(), 1);
}

TEST(FaultPlan, ShortWritesAndInterruptionsAreInvisible) {
  const TempFolder folder;
  std::string text(1 << 20, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 2654435761u >> 13);
  const Faults faults(
      "write:1=EINTR,write:2=SHORT,write:3=SHORT,write:4=EINTR,write:5=SHORT,sync:1=EINTR");
  write_text_atomic(folder / "a", text);
  EXPECT_EQ(crc32c(read_text(folder / "a")), crc32c(text));
}

TEST(FaultPlan, EveryWriteShort) {
  const TempFolder folder;
  const Faults faults("write:*=SHORT");
  write_text_atomic(folder / "a", std::string(1000, 'q'));
  EXPECT_EQ(read_text(folder / "a"), std::string(1000, 'q'));
}

TEST(FaultPlan, RenameUnlinkMkdir) {
  const TempFolder folder;
  write_text_atomic(folder / "a", "x");
  const Faults faults("rename:1=EIO,unlink:1=EACCES,mkdir:2=ENOSPC");
  EXPECT_THROW(rename_path(folder / "a", folder / "b"), StorageError);
  EXPECT_TRUE(fs::exists(folder / "a"));
  EXPECT_THROW(remove_file(folder / "a"), StorageError);
  EXPECT_TRUE(fs::exists(folder / "a"));
  make_directory(folder / "d");
  EXPECT_THROW(make_directory(folder / "e"), StorageError);
  EXPECT_FALSE(fs::exists(folder / "e"));
}

TEST(FaultPlan, KillsBeforeTheOperation) {
  const TempFolder folder;
  write_text_atomic(folder / "text", "old");
  EXPECT_EQ(in_child([&] {
              set_fault_plan("kill@rename:1");
              write_text_atomic(folder / "text", "new");
            }),
            -SIGKILL);
  EXPECT_EQ(read_text(folder / "text"), "old");
  EXPECT_EQ(in_child([&] {
              set_fault_plan("kill@sync:2");  // the directory's, after the rename
              write_text_atomic(folder / "text", "new");
            }),
            -SIGKILL);
  EXPECT_EQ(read_text(folder / "text"), "new");
}

TEST(FaultPlan, RefusesWhatItDoesNotKnow) {
  for (const char* plan :
       {"write", "write:0=ENOSPC", "write:x=ENOSPC", "write:1", "write:1=EWHAT", "read:1=EIO",
        "kill@rename", "kill@rename:0", "sync:1=SHORT", "write:=EIO", "write:1 2=EIO"}) {
    EXPECT_THROW(set_fault_plan(plan), ConfigError) << plan;
  }
  set_fault_plan(" , ");
  set_fault_plan("");
}

}  // namespace file_test
}  // namespace strata::io
