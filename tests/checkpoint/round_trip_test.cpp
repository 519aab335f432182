// Saves and loads: bit-equal for every type, shape, tiling and number of ranks.
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/io/file.h"
#include "core/io/hdf5.h"
#include "parallel/checkpoint/checkpoint.h"
#include "tests/checkpoint/sample_state.h"
#include "tests/checkpoint/thread_group.h"

namespace strata::test {
namespace round_trip_test {

namespace fs = std::filesystem;

TEST(Checkpoint, HoldsWhatWasSaved) {
  const TempFolder folder;
  const State state = sample_state(1);
  const fs::path saved = save_whole(sample_request(folder.path(), 12), state);
  EXPECT_EQ(saved, folder / "step-000000000012");
  EXPECT_EQ(io::read_text(folder / "LATEST"), "step-000000000012\n");
  const CheckpointReader reader(saved);
  EXPECT_EQ(difference(reader, state), "");
  EXPECT_EQ(reader.step(), 12);
  EXPECT_EQ(reader.tokens(), 12000);
  EXPECT_EQ(reader.samples(), 96);
  EXPECT_EQ(reader.model_fingerprint(), "0123456789abcdef");
  EXPECT_EQ(reader.state().at("optim.step"), "12");
  EXPECT_EQ(reader.state().at("data"), "{\"epoch\":0,\"seed\":1}");
  EXPECT_EQ(reader.aliases().at("lm_head.weight"), "model.embeddings.weight");
  EXPECT_EQ(reader.file_text("config.ini"), "[run]\ndir = x\n");
  EXPECT_THROW(reader.file_text("other.txt"), CheckpointError);
  EXPECT_TRUE(reader.verify_blocks().empty());
  EXPECT_EQ(why_invalid(saved), "");
  // Nothing else is left: the listed files, the view, no temporary directory.
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 2);
  for (const auto& entry : fs::directory_iterator(saved)) {
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(name == "manifest.json" || name == "shard-00000.h5" || name == "shard-00000.json" ||
                name == "index.h5" || name == "config.ini" || name == "plan.json")
        << name;
  }
}

TEST(Checkpoint, EveryTypeAndShape) {
  const TempFolder folder;
  State state;
  uint32_t seed = 1;
  for (const at::ScalarType dtype :
       {at::kBool, at::kByte, at::kChar, at::kShort, at::ScalarType::UInt16, at::kHalf,
        at::kBFloat16, at::kInt, at::ScalarType::UInt32, at::kFloat, at::kDouble, at::kLong,
        at::ScalarType::UInt64, at::ScalarType::Float8_e4m3fn, at::ScalarType::Float8_e5m2}) {
    for (const Shape& shape : {Shape{}, Shape{1}, Shape{0}, Shape{3, 0, 2}, Shape{1, 1, 1},
                               Shape{7, 5}, Shape{50, 70}}) {
      state[cat("/state/", dtype_name(dtype), ".", state.size())] =
          random_bytes_tensor(shape, dtype, seed++);
    }
  }
  const CheckpointReader reader(save_whole(sample_request(folder.path(), 0), state));
  EXPECT_EQ(difference(reader, state), "");
}

TEST(Checkpoint, AnyNumberOfRanksWritesAndAnyBoxIsRead) {
  const TempFolder folder;
  const State state = sample_state(2);
  for (int trial = 0; trial < 12; ++trial) {
    const int ranks = 1 + trial % 5;
    const auto thrown = on_ranks(ranks, [&](Communicator& job) {
      save_randomly(job, sample_request(folder.path(), trial), state,
                    static_cast<uint32_t>(100 + trial));
    });
    for (const std::string& what : thrown) ASSERT_EQ(what, "");
    const auto latest = find_latest(folder.path(), [](const std::string& text) { FAIL() << text; });
    ASSERT_TRUE(latest.has_value());
    const CheckpointReader reader(*latest);
    EXPECT_EQ(reader.step(), trial);
    EXPECT_EQ(difference(reader, state), "");
    EXPECT_TRUE(reader.verify_blocks().empty());
    std::mt19937 random(static_cast<uint32_t>(trial));
    for (int i = 0; i < 100; ++i) {
      auto chosen = state.begin();
      std::advance(chosen, random() % state.size());
      Box box = whole_box(chosen->second);
      for (size_t axis = 0; axis < box.offset.size(); ++axis) {
        const int64_t size = box.extent[axis];
        box.offset[axis] = static_cast<int64_t>(random() % static_cast<uint32_t>(size + 1));
        box.extent[axis] =
            static_cast<int64_t>(random() % static_cast<uint32_t>(size - box.offset[axis] + 1));
      }
      EXPECT_TRUE(same_bytes(reader.read(chosen->first, box), box_of(chosen->second, box)))
          << chosen->first;
    }
  }
}

TEST(Checkpoint, ManyBlocksAndPartialBlocks) {
  const TempFolder folder;
  State state;
  state["/model/wide"] = at::arange(300 * 1000, at::kInt).view({300, 1000});
  state["/model/long"] = at::arange(123457, at::kShort);
  const CheckpointReader reader(save_whole(sample_request(folder.path(), 1), state));
  EXPECT_EQ(difference(reader, state), "");
  for (const Box& box : {Box{{17, 0}, {1, 1000}}, Box{{0, 999}, {300, 1}},
                         Box{{100, 3}, {150, 990}}, Box{{299, 998}, {1, 2}}}) {
    EXPECT_TRUE(same_bytes(reader.read("/model/wide", box), box_of(state["/model/wide"], box)));
  }
}

TEST(Checkpoint, ReadsOnlyTheBlocksItNeeds) {
  const TempFolder folder;
  State state;
  state["/model/t"] = at::arange(64 * 1024, at::kInt).view({64, 1024});  // one block per row
  const auto job = make_self_communicator();
  CheckpointWriter writer(*job, sample_request(folder.path(), 1));
  writer.add("/model/t", {64, 1024}, whole_box(state["/model/t"]), state["/model/t"]);
  const fs::path saved = writer.commit();
  // Damage row 40.
  const std::string bytes = io::read_text(saved / "shard-00000.h5");
  const std::string row(reinterpret_cast<const char*>(state["/model/t"][40].const_data_ptr()),
                        4096);
  const size_t at = bytes.find(row);
  ASSERT_NE(at, std::string::npos);
  {
    io::File file(saved / "shard-00000.h5", io::File::Mode::ReadWrite);
    file.write_at(static_cast<int64_t>(at) + 100, "x", 1);
  }
  const CheckpointReader reader(saved);
  EXPECT_TRUE(same_bytes(reader.read("/model/t", {{0, 0}, {40, 1024}}),
                         state["/model/t"].narrow(0, 0, 40)));
  EXPECT_TRUE(same_bytes(reader.read("/model/t", {{41, 5}, {23, 7}}),
                         box_of(state["/model/t"], {{41, 5}, {23, 7}})));
  for (const Box& box : {Box{{40, 0}, {1, 1}}, Box{{0, 1023}, {64, 1}}, Box{{0, 0}, {64, 1024}},
                         Box{{40, 0}, {1, 1024}}}) {
    try {
      reader.read("/model/t", box);
      FAIL();
    } catch (const CheckpointError& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("shard-00000.h5"), std::string::npos) << text;
      EXPECT_NE(text.find("/model/t"), std::string::npos) << text;
      EXPECT_NE(text.find(cat("bytes [", at, ", ", at + 4096, ")")), std::string::npos) << text;
    }
  }
  EXPECT_EQ(reader.verify_blocks().size(), 1u);
}

TEST(Checkpoint, SameDataGiveTheSameBytes) {
  const TempFolder one, two;
  const State state = sample_state(3);
  for (const TempFolder* folder : {&one, &two}) {
    const auto thrown = on_ranks(3, [&](Communicator& job) {
      save_randomly(job, sample_request(folder->path(), 5), state, 7);
    });
    for (const std::string& what : thrown) ASSERT_EQ(what, "");
  }
  int compared = 0;
  for (const auto& entry : fs::directory_iterator(one / "step-000000000005")) {
    const std::string name = entry.path().filename().string();
    if (name == "manifest.json") continue;  // the time of day
    EXPECT_EQ(io::read_text(entry.path()), io::read_text(two / "step-000000000005" / name)) << name;
    ++compared;
  }
  EXPECT_EQ(compared, 9);
}

TEST(Checkpoint, TheHashDoesNotDependOnTheTiling) {
  const TempFolder folder;
  const State state = sample_state(4);
  std::vector<std::string> hashes;
  for (int ranks = 1; ranks <= 4; ++ranks) {
    on_ranks(ranks, [&](Communicator& job) {
      save_randomly(job, sample_request(folder.path(), ranks), state, static_cast<uint32_t>(ranks));
    });
    hashes.push_back(CheckpointReader(*find_latest(folder.path(), ignore)).model_hash());
    EXPECT_EQ(hashes.back().size(), 16u);
    EXPECT_EQ(hashes.back(), hashes.front());
  }
  uint64_t expected = 0;
  for (const auto& [path, tensor] : state) {
    if (path.rfind("/model/", 0) == 0)
      expected += element_hash(path, tensor.sizes().vec(), whole_box(tensor), tensor);
  }
  EXPECT_EQ(std::stoull(hashes[0], nullptr, 16), expected);
  State changed = state;
  changed["/model/scalar"] = random_bytes_tensor({}, at::kDouble, 99);
  EXPECT_NE(CheckpointReader(save_whole(sample_request(folder.path(), 9), changed)).model_hash(),
            hashes[0]);
  SaveRequest without = sample_request(folder.path(), 10);
  without.hash = false;
  EXPECT_EQ(CheckpointReader(save_whole(without, state)).model_hash(), "");
}

TEST(Checkpoint, TheViewShowsWholeTensors) {
  const TempFolder folder;
  const State state = sample_state(5);
  on_ranks(3, [&](Communicator& job) {
    save_randomly(job, sample_request(folder.path(), 1), state, 11);
  });
  const io::HdfFile view((folder / "step-000000000001/index.h5").string(), io::HdfFile::Mode::Read);
  EXPECT_EQ(view.datasets().size(), state.size());
  for (const auto& [path, tensor] : state) {
    const Tensor shown = view.read(path);
    EXPECT_TRUE(same_bytes(tensor.dim() == 0 ? shown.view(at::IntArrayRef{}) : shown, tensor))
        << path;
  }
  // A shard by itself says where its boxes belong.
  const io::HdfFile shard((folder / "step-000000000001/shard-00000.h5").string(),
                          io::HdfFile::Mode::Read);
  EXPECT_EQ(shard.text_attribute("/", "format"), "strata-ckpt");
  for (const std::string& dataset : shard.datasets()) {
    EXPECT_TRUE(shard.has_attribute(dataset, "global_shape") &&
                shard.has_attribute(dataset, "global_offset"));
  }
}

TEST(Checkpoint, NonContiguousDataAreWrittenInLogicalOrder) {
  const TempFolder folder;
  const Tensor matrix = at::arange(60, at::kFloat).view({6, 10});
  const auto job = make_self_communicator();
  CheckpointWriter writer(*job, sample_request(folder.path(), 1));
  writer.add("/model/transposed", {10, 6}, {{0, 0}, {10, 6}}, matrix.t());
  writer.add("/model/every_second", {6, 5}, {{0, 0}, {6, 5}}, matrix.slice(1, 0, 10, 2));
  const CheckpointReader reader(writer.commit());
  EXPECT_TRUE(same_bytes(reader.read_whole("/model/transposed"), matrix.t()));
  EXPECT_TRUE(same_bytes(reader.read_whole("/model/every_second"), matrix.slice(1, 0, 10, 2)));
}

TEST(Checkpoint, SavingAStepAgainReplacesIt) {
  const TempFolder folder;
  save_whole(sample_request(folder.path(), 7), sample_state(1));
  const fs::path saved = save_whole(sample_request(folder.path(), 7), sample_state(2));
  EXPECT_EQ(difference(CheckpointReader(saved), sample_state(2)), "");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 2);
}

TEST(Checkpoint, AnUnfinishedWriterLeavesNothing) {
  const TempFolder folder;
  {
    const auto job = make_self_communicator();
    CheckpointWriter writer(*job, sample_request(folder.path(), 7));
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 0);
}

TEST(Checkpoint, RefusesATensorThatDoesNotFitTheDisk) {
  const TempFolder folder;
  const State before = sample_state(1);
  save_whole(sample_request(folder.path(), 1), before);
  const auto job = make_self_communicator();
  CheckpointWriter writer(*job, sample_request(folder.path(), 2));
  const int64_t petabyte = int64_t{1} << 50;
  writer.add("/model/huge", {petabyte}, {{0}, {petabyte}},
             at::zeros({1}, at::kByte).expand({petabyte}));
  try {
    writer.commit();
    FAIL();
  } catch (const StorageError& error) {
    EXPECT_NE(std::string(error.what()).find("the checkpoint needs"), std::string::npos)
        << error.what();
    EXPECT_NE(std::string(error.what()).find("free are"), std::string::npos) << error.what();
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 2);
  EXPECT_EQ(difference(CheckpointReader(*find_latest(folder.path(), ignore)), before), "");
}

TEST(Checkpoint, BrokenPromisesAreInternalErrors) {
  const TempFolder folder;
  const auto job = make_self_communicator();
  const Tensor t = at::zeros({4, 4});
  {
    CheckpointWriter writer(*job, sample_request(folder.path(), 1));
    EXPECT_THROW(writer.add("model/t", {4, 4}, whole_box(t), t), InternalError);
    EXPECT_THROW(writer.add("/other/t", {4, 4}, whole_box(t), t), InternalError);
    EXPECT_THROW(writer.add("/model/a%b", {4, 4}, whole_box(t), t), InternalError);
    EXPECT_THROW(writer.add("/model/../t", {4, 4}, whole_box(t), t), InternalError);
    EXPECT_THROW(writer.add("/model/t", {4, 4}, {{0, 0}, {4, 3}}, t), InternalError);
    EXPECT_THROW(writer.add("/model/t", {4, 4}, {{1, 0}, {4, 4}}, t), InternalError);
    EXPECT_THROW(writer.add("/model/t", {4}, whole_box(t), t), InternalError);
    EXPECT_THROW(writer.add_file("../x", ""), InternalError);
    EXPECT_THROW(writer.add_file("manifest.json", ""), InternalError);
  }
  const auto commit = [&](const std::vector<std::pair<Shape, Box>>& boxes) {
    CheckpointWriter writer(*job, sample_request(folder.path(), 1));
    for (const auto& [global, box] : boxes)
      writer.add("/model/t", global, box, at::zeros(box.extent));
    writer.commit();
  };
  EXPECT_THROW(commit({{{4, 4}, {{0, 0}, {3, 4}}}}), InternalError);  // a hole
  EXPECT_THROW(commit({{{4, 4}, {{0, 0}, {3, 4}}}, {{4, 4}, {{2, 0}, {2, 4}}}}),
               InternalError);  // an overlap
  EXPECT_THROW(commit({{{4, 4}, {{0, 0}, {2, 4}}}, {{8, 4}, {{2, 0}, {2, 4}}}}),
               InternalError);  // other shapes
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 0);
}

TEST(Checkpoint, ReaderNamesWhatItCannotFind) {
  const TempFolder folder;
  const CheckpointReader reader(save_whole(sample_request(folder.path(), 1), sample_state(1)));
  EXPECT_TRUE(reader.contains("/model/scalar"));
  EXPECT_FALSE(reader.contains("/model/scaler"));
  try {
    reader.read_whole("/model/scaler");
    FAIL();
  } catch (const CheckpointError& error) {
    EXPECT_NE(std::string(error.what()).find("/model/scalar"), std::string::npos) << error.what();
  }
  EXPECT_THROW(reader.read("/model/cube", {{0, 0, 0}, {6, 7, 9}}), CheckpointError);
  EXPECT_THROW(reader.read("/model/cube", {{0, 0}, {5, 7}}), CheckpointError);
  EXPECT_THROW(reader.read("/model/cube", {{-1, 0, 0}, {2, 7, 9}}), CheckpointError);
}

TEST(Fingerprint, DependsOnNamesShapesAndSegmentsOnly) {
  const std::vector<FingerprintEntry> a = {{"x", {2, 3}, {}}, {"y", {4}, {2, 2}}};
  EXPECT_EQ(model_fingerprint(a), model_fingerprint({a[1], a[0]}));
  EXPECT_EQ(model_fingerprint(a).size(), 16u);
  EXPECT_NE(model_fingerprint(a), model_fingerprint({{"x", {3, 2}, {}}, {"y", {4}, {2, 2}}}));
  EXPECT_NE(model_fingerprint(a), model_fingerprint({{"x", {2, 3}, {}}, {"y", {4}, {}}}));
  EXPECT_NE(model_fingerprint(a), model_fingerprint({{"z", {2, 3}, {}}, {"y", {4}, {2, 2}}}));
}

TEST(ElementHash, SumsOverAnyTilingAndSeesEveryBit) {
  std::mt19937 random(1);
  for (const at::ScalarType dtype : {at::kByte, at::kBFloat16, at::kFloat, at::kDouble}) {
    const Tensor tensor = random_bytes_tensor({6, 5, 4}, dtype, 3);
    const Shape shape = tensor.sizes().vec();
    const uint64_t whole = element_hash("/model/t", shape, whole_box(tensor), tensor);
    for (int trial = 0; trial < 20; ++trial) {
      uint64_t sum = 0;
      for (const Box& box : random_tiling(tensor, 6, random))
        sum += element_hash("/model/t", shape, box, box_of(tensor, box));
      EXPECT_EQ(sum, whole);
    }
    EXPECT_NE(element_hash("/model/u", shape, whole_box(tensor), tensor), whole);
    for (size_t bit = 0; bit < tensor.nbytes() * 8; bit += 13) {
      Tensor changed = tensor.clone();
      static_cast<unsigned char*>(changed.data_ptr())[bit / 8] ^=
          static_cast<unsigned char>(1u << (bit % 8));
      EXPECT_NE(element_hash("/model/t", shape, whole_box(changed), changed), whole) << bit;
    }
    // Two elements exchanged: the same bits at other places.
    Tensor moved = tensor.clone();
    moved[0][0][0].copy_(tensor[1][2][3]);
    moved[1][2][3].copy_(tensor[0][0][0]);
    ASSERT_FALSE(same_bytes(moved, tensor));
    EXPECT_NE(element_hash("/model/t", shape, whole_box(moved), moved), whole);
  }
}

}  // namespace round_trip_test
}  // namespace strata::test
