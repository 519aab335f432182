// A damaged checkpoint is noticed before any of its values is used, and an older one takes its
// place.
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/io/file.h"
#include "parallel/checkpoint/checkpoint.h"
#include "tests/checkpoint/sample_state.h"
#include "tests/checkpoint/thread_group.h"

namespace strata::test {
namespace corruption_test {

namespace fs = std::filesystem;

constexpr int kRanks = 3;

std::vector<std::string> file_names(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

void overwrite(const fs::path& path, const std::string& bytes) {
  io::File(path, io::File::Mode::Create).append(bytes);
}

// Damages the checkpoint and says how. `older`: another checkpoint of the same tensors, whose files
// have the same names.
std::string damage(const fs::path& checkpoint, const fs::path& older, std::mt19937& random) {
  const std::vector<std::string> names = file_names(checkpoint);
  const std::string name = names[random() % names.size()];
  const fs::path path = checkpoint / name;
  std::string bytes = io::read_text(path);
  const int first = static_cast<int>(random() % kRanks),
            second = (first + 1 + static_cast<int>(random() % (kRanks - 1))) % kRanks;
  const auto shard = [](int number, const char* extension) {
    return cat("shard-0000", number, extension);
  };
  switch (random() % 9) {
    case 0:
    case 1: {
      const size_t bit = random() % (bytes.size() * 8);
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
      overwrite(path, bytes);
      return cat("bit ", bit, " of ", name);
    }
    case 2: {
      const size_t length = random() % bytes.size();
      overwrite(path, bytes.substr(0, length));
      return cat(name, " cut to ", length);
    }
    case 3:
      fs::remove(path);
      return cat(name, " removed");
    case 4:
      fs::rename(checkpoint / shard(first, ".h5"), checkpoint / "x");
      fs::rename(checkpoint / shard(second, ".h5"), checkpoint / shard(first, ".h5"));
      fs::rename(checkpoint / "x", checkpoint / shard(second, ".h5"));
      return cat("shards ", first, " and ", second, " exchanged");
    case 5:
      fs::copy_file(older / shard(first, ".json"), checkpoint / shard(first, ".json"),
                    fs::copy_options::overwrite_existing);
      return cat("old piece table ", first);
    case 6:
      fs::copy_file(older / shard(first, ".h5"), checkpoint / shard(first, ".h5"),
                    fs::copy_options::overwrite_existing);
      return cat("old shard ", first);
    case 7: {
      // A lost write: one page of zeros.
      const size_t page = random() % ((bytes.size() + 4095) / 4096) * 4096;
      std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(page),
                bytes.begin() + static_cast<std::ptrdiff_t>(std::min(page + 4096, bytes.size())),
                '\0');
      overwrite(path, bytes);
      return cat("page ", page / 4096, " of ", name, " zeroed");
    }
    default:
      fs::copy_file(older / "manifest.json", checkpoint / "manifest.json",
                    fs::copy_options::overwrite_existing);
      return "old manifest";
  }
}

TEST(Corruption, TwoHundredDamagesAreNoticedOrHarmless) {
  const TempFolder folder(TempFolder::Where::Memory);
  const State old_state = sample_state(1), state = sample_state(2);
  const auto save = [&](const fs::path& root, int64_t step, const State& values) {
    const auto thrown = on_ranks(kRanks, [&](Communicator& job) {
      save_randomly(job, sample_request(root, step), values, 5);
    });
    for (const std::string& what : thrown) ASSERT_EQ(what, "");
  };
  save(folder / "good", 10, old_state);
  save(folder / "good", 20, state);

  int at_start = 0, at_use = 0, harmless = 0;
  for (uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    const fs::path root = folder / cat("trial", seed);
    fs::copy(folder / "good", root, fs::copy_options::recursive);
    const std::string how = damage(root / "step-000000000020", root / "step-000000000010", random);
    SCOPED_TRACE(cat("seed ", seed, ": ", how));

    std::vector<std::string> reasons;
    auto found = find_latest(root, [&](const std::string& reason) { reasons.push_back(reason); });
    ASSERT_TRUE(found.has_value());
    if (found->filename() == "step-000000000010") {
      ++at_start;
      ASSERT_EQ(reasons.size(), 1u);
      EXPECT_NE(reasons[0].find("step-000000000020"), std::string::npos) << reasons[0];
      EXPECT_NE(why_invalid(root / "step-000000000020"), "");
    } else {
      bool refused = false;
      try {
        const CheckpointReader reader(*found);
        // Values that come back are the right ones; anything else is an error, never other values.
        EXPECT_EQ(difference(reader, state), "");
        EXPECT_EQ(reader.state().at("optim.step"), "20");
        EXPECT_EQ(reader.step(), 20);
      } catch (const CheckpointError& error) {
        refused = true;
        EXPECT_NE(std::string(error.what()).find("shard-0000"), std::string::npos) << error.what();
      }
      const std::vector<std::string> damaged = CheckpointReader(*found).verify_blocks();
      EXPECT_EQ(damaged.empty(), !refused);
      if (!refused) {
        ++harmless;
        fs::remove_all(root);
        continue;
      }
      ++at_use;
      EXPECT_TRUE(fs::exists(quarantine(*found)));
      // LATEST still names the one set aside: said, and no obstacle.
      found = find_latest(root, [](const std::string& reason) {
        EXPECT_NE(reason.find("LATEST: names step-000000000020, which is missing"),
                  std::string::npos)
            << reason;
      });
    }
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(found->filename(), "step-000000000010");
    EXPECT_EQ(difference(CheckpointReader(*found), old_state), "");
    fs::remove_all(root);
  }
  // Harmless: the view for people, bytes between tensors, configuration copies (checked when they
  // are used).
  EXPECT_GE(at_start, 80);
  EXPECT_GE(at_use, 20);
  EXPECT_LE(harmless, 80);
  RecordProperty("noticed_at_start", at_start);
  RecordProperty("noticed_at_use", at_use);
  RecordProperty("harmless", harmless);
}

// Each byte of the data is covered: flipping one bit anywhere in a tensor is seen by a read of that
// tensor.
TEST(Corruption, EveryDataByteIsCovered) {
  const TempFolder folder;
  State state;
  state["/model/t"] = random_bytes_tensor({3000}, at::kByte, 1);
  const fs::path saved = save_whole(sample_request(folder.path(), 1), state);
  const std::string bytes = io::read_text(saved / "shard-00000.h5");
  const std::string data(static_cast<const char*>(state["/model/t"].const_data_ptr()), 64);
  const size_t start = bytes.find(data);
  ASSERT_NE(start, std::string::npos);
  const CheckpointReader reader(saved);
  for (size_t at = 0; at < 3000; at += 1) {
    std::string bad = bytes.substr(start + at, 1);
    bad[0] = static_cast<char>(bad[0] ^ (1 << (at % 8)));
    io::File file(saved / "shard-00000.h5", io::File::Mode::ReadWrite);
    file.write_at(static_cast<int64_t>(start + at), bad.data(), 1);
    EXPECT_THROW(reader.read_whole("/model/t"), CheckpointError) << at;
    file.write_at(static_cast<int64_t>(start + at), bytes.data() + start + at, 1);
  }
  EXPECT_EQ(difference(reader, state), "");
}

TEST(Corruption, FilesOfTheManifestAreCheckedWhenUsed) {
  const TempFolder folder;
  const fs::path saved = save_whole(sample_request(folder.path(), 1), sample_state(1));
  std::string text = io::read_text(saved / "config.ini");
  text[2] = 'X';
  overwrite(saved / "config.ini", text);
  EXPECT_THROW(CheckpointReader(saved).file_text("config.ini"), CheckpointError);
}

}  // namespace corruption_test
}  // namespace strata::test
