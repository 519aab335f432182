// Collective saves over MPI: every sharding writes, every other sharding reads, failures are heard
// by all.
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "core/io/file.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/inspect.h"
#include "parallel/comm/communicator.h"
#include "parallel/nn/shard.h"
#include "tests/checkpoint/sample_state.h"
#include "tests/checkpoint/shared_folder.h"

namespace strata::test {
namespace writer_mpi_test {

namespace fs = std::filesystem;

// How a tensor is cut over the ranks: a tensor cut over tp ranks, its local part in equal flat
// slices over the dp replicas when zero is set, replicated otherwise.
struct Sharding {
  int tp = 1;
  bool zero = false;
};

// The sharding rule a tensor of this shape would have: rows for odd, columns for even sizes,
// nothing for vectors.
ShardSpec spec_of(const Tensor& tensor, int tp) {
  if (tensor.dim() < 2 || tensor.numel() == 0) return replicated();
  const int dim = tensor.size(0) % 2 == 0 ? 0 : 1;
  const ShardSpec spec = split(dim, 1);
  return why_not_divisible(spec, tensor.sizes().vec(), tp).empty() ? spec : replicated();
}

std::vector<LocalBox> boxes_of(const Tensor& tensor, const Sharding& sharding,
                               const Communicator& job) {
  if (tensor.numel() == 0)
    return {{whole_box(tensor), Shape(tensor.sizes().size(), 0)}};  // no slice holds a part of it
  const int dp = job.size() / sharding.tp, tp_index = job.rank() % sharding.tp,
            dp_index = job.rank() / sharding.tp;
  const ShardSpec spec = spec_of(tensor, sharding.tp);
  const Shape logical = tensor.sizes().vec();
  const int index = spec.cut() ? tp_index : 0, count = spec.cut() ? sharding.tp : 1;
  if (!sharding.zero) return local_boxes(spec, logical, index, count);
  const int64_t elements = element_count(local_shape(spec, logical, index, count));
  const int64_t slice = (elements + dp - 1) / dp;
  const int64_t begin = std::min(elements, slice * dp_index),
                end = std::min(elements, begin + slice);
  return local_boxes(spec, logical, index, count, begin, end);
}

fs::path save_sharded(Communicator& job, const SaveRequest& request, const State& state,
                      const Sharding& sharding) {
  CheckpointWriter writer(job, request);
  for (const auto& [path, tensor] : state) {
    for (const LocalBox& box : boxes_of(tensor, sharding, job)) {
      writer.add(path, tensor.sizes().vec(), box.logical, box_of(tensor, box.logical));
    }
  }
  return writer.commit();
}

std::vector<Sharding> shardings_for(int ranks) {
  std::vector<Sharding> out;
  for (int tp = 1; tp <= ranks; ++tp) {
    if (ranks % tp != 0) continue;
    out.push_back({tp, false});
    out.push_back({tp, true});
  }
  return out;
}

// Fused rows cut segment by segment, as packed projections are.
State state_with_segments() {
  State state = sample_state(7);
  state["/model/packed.weight"] = at::arange(48 * 10, at::kFloat).view({48, 10});
  state["/model/odd"] = random_bytes_tensor({37, 53}, at::kFloat, 3);
  return state;
}

TEST(CheckpointMpi, EveryShardingReadsWhatEveryOtherWrote) {
  const auto job = make_mpi_communicator();
  const SharedFolder folder(*job);
  const State state = state_with_segments();
  int64_t step = 0;
  std::string hash;
  for (const Sharding& writing : shardings_for(job->size())) {
    const fs::path saved =
        save_sharded(*job, sample_request(folder.path(), ++step), state, writing);
    const CheckpointReader reader(saved);
    EXPECT_EQ(difference(reader, state), "");
    EXPECT_TRUE(reader.verify_blocks().empty());
    if (hash.empty()) hash = reader.model_hash();
    EXPECT_EQ(reader.model_hash(), hash);
    for (const Sharding& reading : shardings_for(job->size())) {
      for (const auto& [path, tensor] : state) {
        for (const LocalBox& box : boxes_of(tensor, reading, *job)) {
          EXPECT_TRUE(same_bytes(reader.read(path, box.logical), box_of(tensor, box.logical)))
              << path;
        }
      }
    }
    job->barrier();
  }
}

TEST(CheckpointMpi, SegmentsAndRandomBoxes) {
  const auto job = make_mpi_communicator();
  const SharedFolder folder(*job);
  const State state = state_with_segments();
  const Tensor& packed = state.at("/model/packed.weight");
  const ShardSpec spec = split_out(2, {24, 16, 8});
  {
    CheckpointWriter writer(*job, sample_request(folder.path(), 1));
    for (const LocalBox& box : local_boxes(spec, {48, 10}, job->rank(), job->size())) {
      writer.add("/model/packed.weight", {48, 10}, box.logical, box_of(packed, box.logical));
    }
    EXPECT_TRUE(
        same_bytes(CheckpointReader(writer.commit()).read_whole("/model/packed.weight"), packed));
  }
  for (uint32_t seed = 0; seed < 6; ++seed) {
    const fs::path saved =
        save_randomly(*job, sample_request(folder.path(), 10 + seed), state, seed);
    EXPECT_EQ(difference(CheckpointReader(saved), state), "");
    job->barrier();
  }
}

TEST(CheckpointMpi, BytesAreSharedEvenly) {
  const auto job = make_mpi_communicator();
  const SharedFolder folder(*job);
  State state;
  state["/model/embedding"] = at::zeros({8000, 64});
  for (int i = 0; i < 10; ++i) state[cat("/model/layer.", i)] = at::zeros({64 + 32 * i, 64});
  const fs::path saved = save_sharded(*job, sample_request(folder.path(), 1), state, {1, false});
  const CheckpointSummary summary = inspect_checkpoint(saved);
  ASSERT_EQ(static_cast<int>(summary.shards.size()), job->size());
  int64_t most = 0, total = 0;
  for (const ShardRow& shard : summary.shards) {
    most = std::max(most, shard.bytes);
    total += shard.bytes;
  }
  EXPECT_LE(static_cast<double>(most) * job->size() / static_cast<double>(total),
            1.06);  // HDF5 headers included
}

TEST(CheckpointMpi, AFailureOfOneRankIsHeardByAllAndLeavesTheOldOne) {
  const auto job = make_mpi_communicator();
  const SharedFolder folder(*job);
  const State state = sample_state(1), next = sample_state(2);
  save_sharded(*job, sample_request(folder.path(), 10), state, {1, true});
  for (int failing = 0; failing < job->size(); ++failing) {
    for (const char* plan : {"write:1=ENOSPC", "write:3=EIO", "sync:1=EIO", "rename:1=EACCES"}) {
      std::string message;
      if (job->rank() == failing) io::set_fault_plan(plan);
      try {
        save_sharded(*job, sample_request(folder.path(), 20), next, {1, true});
      } catch (const StorageError& error) {
        message = error.what();
      }
      io::set_fault_plan("");
      EXPECT_NE(message, "") << "rank " << failing << " " << plan;
      const std::vector<std::string> all = job->all_gather_bytes(message);
      for (const std::string& other : all) EXPECT_EQ(other, message);
      // A failure of rank 0 may also come before there is anything to agree on.
      EXPECT_TRUE(failing == 0 || message.find(cat("rank ", failing, ": ")) != std::string::npos)
          << message;
      const auto found = find_latest(folder.path(), ignore);
      ASSERT_TRUE(found.has_value());
      EXPECT_EQ(difference(CheckpointReader(*found), state), "");
      if (job->rank() == 0) {
        for (const auto& entry : fs::directory_iterator(folder.path())) {
          EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
        }
      }
      job->barrier();
    }
  }
  save_sharded(*job, sample_request(folder.path(), 20), next, {1, true});
  EXPECT_EQ(difference(CheckpointReader(*find_latest(folder.path(), ignore)), next), "");
}

TEST(CheckpointMpi, DisagreementIsAnErrorOnEveryRank) {
  const auto job = make_mpi_communicator();
  const SharedFolder folder(*job);
  const auto commit = [&](const Box& box, const Shape& global) {
    CheckpointWriter writer(*job, sample_request(folder.path(), 1));
    writer.add("/model/t", global, box, at::zeros(box.extent));
    writer.commit();
  };
  // A hole after the last rank's rows.
  const int64_t rows = job->size();
  EXPECT_THROW(commit({{job->rank(), 0}, {1, 3}}, {rows + 1, 3}), InternalError);
  if (job->size() > 1) {
    // Overlapping rows, and shapes that differ between ranks.
    EXPECT_THROW(commit({{job->rank(), 0}, {2, 3}}, {rows + 1, 3}), InternalError);
    EXPECT_THROW(commit({{job->rank(), 0}, {1, 3}}, {rows + (job->rank() == 0 ? 1 : 0), 3}),
                 InternalError);
  }
  commit({{job->rank(), 0}, {1, 3}}, {rows, 3});
}

TEST(CheckpointMpi, RanksWithoutDataWriteNoShard) {
  const auto job = make_mpi_communicator();
  const SharedFolder folder(*job);
  CheckpointWriter writer(*job, sample_request(folder.path(), 1));
  const Tensor t = at::arange(6, at::kFloat);
  if (job->rank() == job->size() - 1) writer.add("/model/t", {6}, {{0}, {6}}, t);
  writer.add_file("config.ini", cat("rank = ", job->rank(), "\n"));
  const fs::path saved = writer.commit();
  EXPECT_EQ(inspect_checkpoint(saved).shards.size(), 1u);
  const CheckpointReader reader(saved);
  EXPECT_EQ(reader.file_text("config.ini"), "rank = 0\n");
  EXPECT_TRUE(same_bytes(reader.read_whole("/model/t"), t));
}

}  // namespace writer_mpi_test
}  // namespace strata::test
