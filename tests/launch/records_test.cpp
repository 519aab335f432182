// Metrics, TensorBoard files, progress lines, skipped steps.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/io/crc32c.h"
#include "launch/metrics.h"
#include "launch/skip_policy.h"
#include "launch/tensorboard.h"
#include "launch/throughput.h"
#include "tests/launch/temp_run.h"

namespace strata {
namespace {

using launch_test::TempFolder;

TEST(MetricsTest, NumbersReadBackEqual) {
  StepRecord record;
  record.step = 7;
  record.loss = 1.0 / 3;
  record.grad_norm = 1e-17;
  record.eval = EvalResult{
      .loss = std::log(2.0), .accuracy = 0.5, .counted = 10, .rows = 2, .bits_per_byte = 1.0};
  const auto json = nlohmann::json::parse(metrics_line(record));
  EXPECT_EQ(json["loss"].get<double>(), record.loss);
  EXPECT_EQ(json["grad_norm"].get<double>(), 1e-17);
  EXPECT_DOUBLE_EQ(json["eval_perplexity"].get<double>(), 2.0);
  EXPECT_EQ(json["eval_bits_per_byte"].get<double>(), 1.0);
  EXPECT_FALSE(json.contains("skipped"));
  record.loss = std::nan("");
  record.skipped = true;
  EXPECT_TRUE(nlohmann::json::parse(metrics_line(record))["loss"].is_null());
}

TEST(MetricsTest, LinesAfterTheCheckpointAreDropped) {
  const std::string text = "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4,\"lo";
  EXPECT_EQ(metrics_until(text, 2), "{\"step\":1}\n{\"step\":2}\n");
  EXPECT_EQ(metrics_until(text, 9), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n")
      << "the last line was cut short";
  EXPECT_EQ(metrics_until(text, 0), "");
  EXPECT_EQ(metrics_until("not json\n\n{\"step\":1}\n", 5), "{\"step\":1}\n");
}

TEST(MetricsTest, FileGoesOnWhereItIsCut) {
  const TempFolder folder;
  {
    MetricsFile file(folder / "metrics.jsonl", 0);
    for (int64_t step = 1; step <= 5; ++step) file.append({.step = step});
  }
  MetricsFile file(folder / "metrics.jsonl", 3);
  file.append({.step = 4, .loss = 42});
  const std::string text = io::read_text(folder / "metrics.jsonl");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);
  EXPECT_NE(text.find("\"step\":4,\"loss\":42"), std::string::npos) << text;
}

// An independent reader of the record format: lengths and masked checksums must fit.
std::vector<std::string> read_records(const std::string& bytes) {
  std::vector<std::string> out;
  const auto word = [&](size_t at) {
    uint32_t value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
  };
  const auto unmask = [](uint32_t masked) {
    const uint32_t rotated = masked - 0xa282ead8u;
    return (rotated >> 17) | (rotated << 15);
  };
  size_t at = 0;
  while (at < bytes.size()) {
    uint64_t length = 0;
    std::memcpy(&length, bytes.data() + at, sizeof length);
    EXPECT_EQ(unmask(word(at + 8)), io::crc32c(bytes.data() + at, 8));
    const std::string data = bytes.substr(at + 12, length);
    EXPECT_EQ(unmask(word(at + 12 + length)), io::crc32c(data));
    out.push_back(data);
    at += 16 + length;
  }
  EXPECT_EQ(at, bytes.size());
  return out;
}

TEST(TensorBoardTest, EventHasTheWireFormat) {
  const std::string event = scalar_event(1.5, 300, {{"a", 2.0}});
  // wall_time: field 1, 8 bytes; step: field 2, varint 300; summary: field 5 { value: field 1 {
  // tag, simple_value } }
  const std::string expected(
      "\x09\x00\x00\x00\x00\x00\x00\xf8\x3f\x10\xac\x02\x2a\x0a\x0a\x08\x0a\x01\x61\x15\x00\x00\x00"
      "\x40",
      24);
  EXPECT_EQ(event, expected);
}

TEST(TensorBoardTest, FileHoldsVersionSessionAndValues) {
  const TempFolder folder;
  {
    TensorBoardWriter writer(folder.path(), 11);
    writer.add(11, {{"train/loss", 0.25}, {"train/lr", 1e-3}});
  }
  std::vector<std::string> records;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    EXPECT_NE(entry.path().filename().string().find("tfevents"), std::string::npos);
    records = read_records(io::read_text(entry.path()));
  }
  ASSERT_EQ(records.size(), 3u);
  EXPECT_NE(records[0].find("brain.Event:2"), std::string::npos);
  EXPECT_NE(records[2].find("train/loss"), std::string::npos);
}

TEST(SkipPolicyTest, LimitsInARowAndInAll) {
  SkipPolicy row;
  EXPECT_TRUE(row.add(1, true));
  EXPECT_TRUE(row.add(2, true));
  EXPECT_TRUE(row.add(3, false));
  EXPECT_TRUE(row.add(4, true));
  EXPECT_TRUE(row.add(5, true));
  EXPECT_FALSE(row.add(6, true)) << "three in a row";

  SkipPolicy spread;
  for (int64_t n = 0; n < 19; ++n) EXPECT_TRUE(spread.add(10 * n, true)) << n;
  EXPECT_FALSE(SkipPolicy(spread.skipped()).add(500, true)) << "twenty within a thousand";
  EXPECT_TRUE(spread.add(1005, true)) << "the first of them is a thousand steps ago";
}

TEST(ThroughputTest, MedianAndLine) {
  StepTimer timer;
  EXPECT_EQ(timer.median_s(), 0);
  for (double s : {9.0, 0.1, 0.1, 0.1}) timer.add(s);
  EXPECT_EQ(timer.median_s(), 0.1);
  StepRecord record;
  record.step = 20;
  record.loss = 2.5;
  record.tokens_per_s = 12345;
  record.seconds = 0.081;
  const std::string line = step_line(record, 1000, 0.1);
  EXPECT_NE(line.find("step   20/1000"), std::string::npos) << line;
  EXPECT_NE(line.find("loss 2.5000"), std::string::npos) << line;
  EXPECT_NE(line.find("12.3k tok/s"), std::string::npos) << line;
  EXPECT_NE(line.find("eta 1m38s"), std::string::npos) << line;
}

}  // namespace
}  // namespace strata
