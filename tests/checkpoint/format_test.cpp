// The pure parts: names, JSON files, tiling, who writes what.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "core/error.h"
#include "core/io/crc32c.h"
#include "core/text.h"
#include "parallel/checkpoint/assignment.h"
#include "parallel/checkpoint/format.h"
#include "parallel/checkpoint/tiling.h"
#include "tests/checkpoint/sample_state.h"

namespace strata::checkpoint_detail {
namespace format_test {

using test::random_tiling;
using test::sample_state;

std::vector<const Box*> pointers(const std::vector<Box>& boxes) {
  std::vector<const Box*> out;
  for (const Box& box : boxes) out.push_back(&box);
  return out;
}

TEST(Names, TensorPaths) {
  for (const char* good :
       {"/model/a", "/optim/a.b/m", "/optim/a/soap/whole/Q_L", "/state/x", "/model_ema/a"}) {
    EXPECT_EQ(why_bad_path(good), "") << good;
  }
  for (const char* bad :
       {"", "/", "/model", "/model/", "model/a", "/models/a", "/model//a", "/model/../a",
        "/model/./a", "/model/a/..", "/model/a%b", "/model/a@1", "/model/a\n", "/model/a\x7f"}) {
    EXPECT_NE(why_bad_path(bad), "") << bad;
  }
  EXPECT_NE(why_bad_path("/model/" + std::string(600, 'x')), "");
}

TEST(Names, FilesAndSteps) {
  EXPECT_TRUE(is_file_name("shard-00001.h5"));
  for (const char* bad : {"", ".", "..", ".x", "a/b", "a b", "a\\b"})
    EXPECT_FALSE(is_file_name(bad)) << bad;
  EXPECT_FALSE(is_file_name(std::string(65, 'x')));
  EXPECT_EQ(step_name(12), "step-000000000012");
  EXPECT_EQ(parse_step_name("step-000000000012"), 12);
  EXPECT_EQ(parse_step_name("step-999999999999"), 999999999999);
  for (const char* bad : {"step-12", "step-00000000001x", "step-000000000012.tmp-1",
                          "Step-000000000012", "step--00000000012"}) {
    EXPECT_EQ(parse_step_name(bad), -1) << bad;
  }
  EXPECT_EQ(dataset_name("/model/a", 0), "/model/a");
  EXPECT_EQ(dataset_name("/model/a", 2), "/model/a@2");
}

Sidecar sample_sidecar() {
  Sidecar sidecar{"shard-00003.h5", 100000, 4096, {}};
  sidecar.pieces.push_back(
      {"/model/a", at::kFloat, {64, 32}, {{0, 0}, {40, 32}}, 4096, 5120, {1, 0xdeadbeef}});
  sidecar.pieces.push_back({"/model/s", at::kDouble, {}, {{}, {}}, 2048, 8, {7}});
  sidecar.pieces.push_back({"/model/e", at::kBFloat16, {0, 3}, {{0, 0}, {0, 3}}, 0, 0, {}});
  return sidecar;
}

TEST(SidecarText, RoundTrip) {
  const Sidecar sidecar = sample_sidecar();
  const std::string text = write_sidecar(sidecar);
  const Sidecar again = parse_sidecar(text, "x");
  EXPECT_EQ(write_sidecar(again), text);
  ASSERT_EQ(again.pieces.size(), 3u);
  EXPECT_EQ(again.pieces[0].crcs, sidecar.pieces[0].crcs);
  EXPECT_EQ(again.pieces[0].box, sidecar.pieces[0].box);
  EXPECT_EQ(again.pieces[1].dtype, at::kDouble);
}

TEST(SidecarText, EveryFlippedBitIsSeen) {
  const std::string text = write_sidecar(sample_sidecar());
  for (size_t bit = 0; bit < text.size() * 8; ++bit) {
    std::string bad = text;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_THROW(parse_sidecar(bad, "x"), CheckpointError) << bit;
  }
  for (size_t length = 0; length < text.size(); ++length) {
    EXPECT_THROW(parse_sidecar(text.substr(0, length), "x"), CheckpointError) << length;
  }
}

// Somebody recomputed the checksum: contents are still checked.
std::string resealed(std::string text) {
  const std::string key = "\n \"self\": \"";
  const size_t at = text.find(key) + key.size();
  text.replace(at, 8, "00000000");
  return text.replace(at, 8, io::crc_text(io::crc32c(text)));
}

TEST(SidecarText, SealedNonsenseIsRefused) {
  const std::string good = write_sidecar(sample_sidecar());
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return resealed(text.replace(at, from.size(), to));
  };
  EXPECT_NO_THROW(parse_sidecar(resealed(good), "x"));
  const std::pair<const char*, const char*> cases[] = {
      {"\"/model/a\"", "\"/model/../a\""},
      {"\"/model/a\"", "7"},
      {"\"f32\"", "\"f33\""},
      {"5120", "5124"},
      {"5120", "-5120"},
      {"5120", "5120.5"},
      {"4096,\n   5120", "99000,\n   5120"},
      {"4096,\n   5120", "9223372036854775807,\n   5120"},
      {"\"00000001deadbeef\"", "\"00000001deadbee\""},
      {"\"00000001deadbeef\"", "\"00000001deadbeeg\""},
      {"\"00000001deadbeef\"", "\"\""},
      {" \"block\": 4096", " \"block\": 0"},
      {" \"block\": 4096", " \"block\": -1"},
      {"shard-00003.h5", "../shard.h5"},
      {"\"pieces\": [", "\"pieces\": [1,"},
      {"\"bytes\": 100000", "\"bytes\": 4100"},
      {"    40,\n", "    65,\n"},
      {"    64,\n", "    4611686018427387904,\n"},
      {" \"bytes\": 100000", " \"bytes\": 100000, \"bytes\": 1"}};
  for (const auto& [from, to] : cases)
    EXPECT_THROW(parse_sidecar(with(from, to), "x"), CheckpointError) << from << " " << to;
  std::string deep = with("\"pieces\": [", "\"more\": " + std::string(100, '[') +
                                               std::string(100, ']') + ", \"pieces\": [");
  EXPECT_THROW(parse_sidecar(deep, "x"), CheckpointError);
}

Manifest sample_manifest() {
  Manifest manifest;
  manifest.step = 7;
  manifest.time_utc = "2026-08-01T10:15:00Z";
  manifest.files = {{"shard-00000.h5", "shard", 10, ""},
                    {"shard-00000.json", "sidecar", 20, "0000000a"}};
  manifest.state = {
      {"a", "12"}, {"b", "\"text\""}, {"c", "[1, 2]"}, {"self", "{\"self\": \"00000000\"}"}};
  manifest.aliases = {{"self", "\n \"self\": \"12345678\""}};
  return manifest;
}

TEST(ManifestText, RoundTripAndEveryFlippedBit) {
  const std::string text = write_manifest(sample_manifest());
  const Manifest again = parse_manifest(text, "x");
  EXPECT_EQ(write_manifest(again), text);
  EXPECT_EQ(again.state.at("c"), "[1,2]");
  EXPECT_EQ(again.aliases.at("self"), "\n \"self\": \"12345678\"");
  for (size_t bit = 0; bit < text.size() * 8; ++bit) {
    std::string bad = text;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_THROW(parse_manifest(bad, "x"), CheckpointError) << bit;
  }
}

TEST(ManifestText, VersionsAndStateMustBeReadable) {
  std::string newer = write_manifest(sample_manifest());
  newer.replace(newer.find("\"major\": 1"), 10, "\"major\": 2");
  try {
    parse_manifest(resealed(newer), "x");
    FAIL();
  } catch (const CheckpointError& error) {
    EXPECT_NE(std::string(error.what()).find("newer Strata"), std::string::npos) << error.what();
  }
  std::string minor = write_manifest(sample_manifest());
  minor.replace(minor.find("\"minor\": 0"), 10, "\"minor\": 9, \"unknown\": 1");
  EXPECT_NO_THROW(parse_manifest(resealed(minor), "x"));
  Manifest bad = sample_manifest();
  bad.state["x"] = "not json";
  EXPECT_THROW(write_manifest(bad), InternalError);
}

TEST(Tiling, AcceptsRandomTilings) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 300; ++trial) {
    Shape shape;
    for (uint32_t i = 0; i < 1 + random() % 4; ++i) shape.push_back(1 + random() % 9);
    const Tensor tensor = at::empty(shape, at::kByte);
    const std::vector<Box> boxes = random_tiling(tensor, static_cast<int>(random() % 20), random);
    EXPECT_EQ(why_not_tiled(shape, pointers(boxes)), "") << shape_text(shape);
  }
}

TEST(Tiling, RefusesAThousandWrongTables) {
  std::mt19937 random(2);
  int wrong = 0;
  for (int trial = 0; wrong < 1000; ++trial) {
    Shape shape;
    for (uint32_t i = 0; i < 1 + random() % 4; ++i) shape.push_back(2 + random() % 8);
    std::vector<Box> boxes =
        random_tiling(at::empty(shape, at::kByte), 1 + static_cast<int>(random() % 12), random);
    const std::vector<Box> before = boxes;
    const size_t which = random() % boxes.size(), axis = random() % shape.size();
    Box& box = boxes[which];
    switch (random() % 5) {
      case 0:
        boxes.erase(boxes.begin() + static_cast<std::ptrdiff_t>(which));
        break;
      case 1:
        boxes.push_back(box);
        break;
      case 2:
        box.extent[axis] += box.offset[axis] + box.extent[axis] < shape[axis] ? 1 : -1;
        break;
      case 3:
        box.offset[axis] += box.offset[axis] + box.extent[axis] < shape[axis] ? 1
                            : box.offset[axis] > 0                            ? -1
                                                                              : 0;
        break;
      case 4:
        box = boxes[random() % boxes.size()];
        break;
    }
    if (boxes == before) continue;
    ++wrong;
    EXPECT_NE(why_not_tiled(shape, pointers(boxes)), "") << "trial " << trial;
  }
}

TEST(Tiling, ScalarsEmptiesAndHostileTables) {
  const Box scalar{{}, {}}, empty{{0, 0}, {0, 3}};
  EXPECT_EQ(why_not_tiled({}, {&scalar}), "");
  EXPECT_NE(why_not_tiled({}, {&scalar, &scalar}), "");
  EXPECT_NE(why_not_tiled({}, {}), "");
  EXPECT_EQ(why_not_tiled({0, 3}, {&empty}), "");
  EXPECT_NE(why_not_tiled({0, 3}, {}), "");
  // Ten thousand columns and rows are fine; a quarter of a million boxes side by side, or on top of
  // each other, are refused in bounded time.
  const auto grid = [](int64_t rows, int64_t columns) {
    std::vector<Box> boxes;
    for (int64_t i = 0; i < rows * columns; ++i)
      boxes.push_back({{i / columns, i % columns, 0}, {1, 1, 1000}});
    return boxes;
  };
  std::vector<Box> boxes = grid(100, 100);
  EXPECT_EQ(why_not_tiled({100, 100, 1000}, pointers(boxes)), "");
  boxes.back() = boxes.front();
  EXPECT_NE(why_not_tiled({100, 100, 1000}, pointers(boxes)), "");
  boxes = grid(500, 500);
  EXPECT_NE(why_not_tiled({500, 500, 1000}, pointers(boxes)).find("too long to check"),
            std::string::npos);
  boxes.assign(250000, boxes.front());
  EXPECT_NE(why_not_tiled({500, 500, 1000}, pointers(boxes)).find("overlap"), std::string::npos);
}

std::vector<Offer> offer(const std::string& path, const Shape& global, const Box& box) {
  return {{path, at::kFloat, global, box}};
}

double unevenness(const Assignment& plan) {
  const int64_t total = std::accumulate(plan.bytes.begin(), plan.bytes.end(), int64_t{0});
  return static_cast<double>(*std::max_element(plan.bytes.begin(), plan.bytes.end())) *
         static_cast<double>(plan.bytes.size()) / static_cast<double>(total);
}

// Every element is written by exactly one rank that holds it.
void expect_covers(const Assignment& plan, const std::vector<std::vector<Offer>>& offers) {
  std::map<std::string, std::vector<Box>> boxes;
  std::map<std::string, Shape> shapes;
  for (size_t rank = 0; rank < offers.size(); ++rank) {
    int64_t bytes = 0;
    for (const Offer& o : offers[rank]) shapes[o.path] = o.global;
    for (const Task& task : plan.tasks[rank]) {
      ASSERT_EQ(task.rank, static_cast<int>(rank));
      const Offer& o = offers[rank][task.offer];
      if (task.bytes > 0) {
        const auto common = intersect(task.box, o.box);
        ASSERT_TRUE(common && *common == task.box);
      }
      EXPECT_EQ(task.bytes, box_bytes(task.box.extent, o.dtype));
      bytes += task.bytes;
      boxes[o.path].push_back(task.box);
    }
    EXPECT_EQ(bytes, plan.bytes[rank]);
  }
  for (const auto& [path, shape] : shapes)
    EXPECT_EQ(why_not_tiled(shape, pointers(boxes[path])), "") << path;
}

TEST(Assign, ReplicatedTensorsAreSharedEvenly) {
  for (const int ranks : {2, 3, 4, 8}) {
    std::vector<Offer> all;
    std::mt19937 random(static_cast<uint32_t>(ranks));
    for (int i = 0; i < 60; ++i) {
      const Shape shape = {64 + static_cast<int64_t>(random() % 1000), 256};
      all.push_back({cat("/model/t", i), at::kFloat, shape, {{0, 0}, shape}});
    }
    const std::vector<std::vector<Offer>> offers(static_cast<size_t>(ranks), all);
    const Assignment plan = assign(offers);
    EXPECT_LE(unevenness(plan), 1.05) << ranks;
    expect_covers(plan, offers);
  }
}

TEST(Assign, OneLargeReplicatedTensorIsCut) {
  const Shape shape = {50257, 768};
  std::vector<Offer> all = offer("/model/embedding", shape, {{0, 0}, shape});
  all.push_back({"/model/small", at::kFloat, {768}, {{0}, {768}}});
  const std::vector<std::vector<Offer>> offers(4, all);
  const Assignment plan = assign(offers);
  EXPECT_LE(unevenness(plan), 1.05);
  expect_covers(plan, offers);
}

TEST(Assign, ReplicatedBoxesFillUpUnevenShards) {
  // Rank 0 holds three times as much that only it can write.
  std::vector<std::vector<Offer>> offers(3);
  offers[0] = offer("/model/a", {4000, 256}, {{0, 0}, {3000, 256}});
  offers[1] = offer("/model/a", {4000, 256}, {{3000, 0}, {1000, 256}});
  for (auto& rank : offers)
    rank.push_back({"/model/b", at::kFloat, {6000, 256}, {{0, 0}, {6000, 256}}});
  const Assignment plan = assign(offers);
  EXPECT_LE(unevenness(plan), 1.05);
  expect_covers(plan, offers);
}

TEST(Assign, CutsBoxesAboveTheLimitAlongAxis0) {
  const std::vector<std::vector<Offer>> offers = {
      offer("/model/a", {1000, 100}, {{0, 0}, {1000, 100}})};
  const Assignment plan = assign(offers, 90000);
  EXPECT_EQ(plan.tasks[0].size(), 5u);
  for (const Task& task : plan.tasks[0]) EXPECT_LE(task.bytes, 90000);
  expect_covers(plan, offers);
  const int64_t petabyte = int64_t{1} << 48;
  const std::vector<std::vector<Offer>> huge = {offer("/model/a", {petabyte}, {{0}, {petabyte}})};
  expect_covers(assign(huge, int64_t{1} << 40), huge);
}

TEST(Assign, IsTheSameOnEveryRankAndForEveryOrderOfOffers) {
  std::mt19937 random(5);
  std::vector<std::vector<Offer>> offers(3);
  for (const auto& [path, tensor] : sample_state(1)) {
    for (const Box& box : random_tiling(tensor, 4, random)) {
      for (size_t rank = 0; rank < 3; ++rank) {
        if (rank == 0 || random() % 2 == 0)
          offers[rank].push_back({path, tensor.scalar_type(), tensor.sizes().vec(), box});
      }
    }
  }
  const Assignment plan = assign(offers);
  expect_covers(plan, offers);
  std::vector<std::vector<Offer>> shuffled;
  for (auto list : offers) {
    EXPECT_EQ(encode_offers(decode_offers(encode_offers(list))), encode_offers(list));
    std::shuffle(list.begin(), list.end(), random);
    shuffled.push_back(list);
  }
  const Assignment again = assign(shuffled);
  for (size_t rank = 0; rank < 3; ++rank) {
    ASSERT_EQ(again.tasks[rank].size(), plan.tasks[rank].size());
    for (size_t i = 0; i < plan.tasks[rank].size(); ++i) {
      EXPECT_EQ(again.tasks[rank][i].box, plan.tasks[rank][i].box);
      EXPECT_EQ(shuffled[rank][again.tasks[rank][i].offer].path,
                offers[rank][plan.tasks[rank][i].offer].path);
    }
  }
  EXPECT_THROW(decode_offers("x"), InternalError);
  EXPECT_THROW(decode_offers(encode_offers(offers[0]).substr(0, 40)), InternalError);
}

}  // namespace format_test
}  // namespace strata::checkpoint_detail
