#include "parallel/comm/mpi_communicator.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/log.h"
#include "core/memory_meter.h"
#include "core/text.h"
#include "parallel/comm/mpi_engine.h"
#include "parallel/comm/mpi_messages.h"
#include "parallel/comm/mpi_shared_group.h"
#include "parallel/comm/mpi_shared_memory.h"

namespace strata {

// What all communicators of one job share in one process.
struct MpiJob {
  MpiOptions options;
  std::shared_ptr<MpiEngine> engine;
  std::shared_ptr<SegmentRegistry> registry = std::make_shared<SegmentRegistry>();
  std::vector<int> node_of;                 // by job rank
  std::vector<SharedMemoryKind> memory_of;  // by node
  uint64_t segments = 0;                    // made by groups whose first member is this process
  int job_rank = 0;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(std::shared_ptr<MpiJob> job, MPI_Comm comm, std::vector<int> job_ranks, int rank,
                  std::string name)
      : Communicator(std::move(job_ranks), rank, std::move(name)),
        job_(std::move(job)),
        group_(std::make_shared<MpiGroup>()),
        queue_(std::make_shared<MpiQueue>(this->name())) {
    group_->name = this->name();
    group_->comm = std::make_shared<MpiHandle>(comm);
    group_->rank = rank;
    group_->size = size();
    open_shared_group();
  }

  std::string_view backend() const noexcept override { return "mpi"; }

 protected:
  Work do_all_reduce(const Tensor& inout, ReduceOp op) override {
    return on_host(inout, {}, [&](const Tensor& out, const Tensor&) {
      return start({.operation = current(), .out = out, .reduce = op});
    });
  }
  Work do_all_gather(const Tensor& out, const Tensor& in) override { return two_tensors(out, in); }
  Work do_reduce_scatter(const Tensor& out, const Tensor& in) override {
    return two_tensors(out, in);
  }
  Work do_reduce_scatter_parts(const Tensor& out, const Tensor& whole,
                               std::span<const int64_t> borders) override {
    return two_tensors(out, whole, borders);
  }
  Work do_all_gather_parts(const Tensor& whole, std::span<const int64_t> borders) override {
    const int64_t begin = borders[rank()];
    if (whole.is_cpu())
      return two_tensors(whole, whole.narrow(0, begin, borders[rank() + 1] - begin), borders);
    const Tensor host = whole.to(at::kCPU);
    two_tensors(host, host.narrow(0, begin, borders[rank() + 1] - begin), borders).wait();
    whole.copy_(host);
    return Work();
  }
  Work do_all_to_all(const Tensor& out, const Tensor& in) override { return two_tensors(out, in); }
  Work do_broadcast(const Tensor& inout, int root) override {
    return on_host(inout, {}, [&](const Tensor& out, const Tensor&) {
      return start({.operation = current(), .out = out, .root = root});
    });
  }
  Work do_exchange(std::span<const Transfer> transfers) override;
  void do_barrier() override { start({.operation = current()}).wait(); }
  void do_broadcast_bytes(std::string& bytes, int root) override {
    auto task = make_broadcast_bytes_task(group_, bytes, root);
    job_->engine->submit(task, nullptr, nullptr, current()).wait();
    bytes = std::move(task->bytes);
  }
  std::vector<std::string> do_all_gather_bytes(const std::string& bytes) override {
    auto task = make_gather_bytes_task(group_, bytes);
    const CommOperation operation{.op = CommOp::Bytes};
    job_->engine->submit(task, nullptr, nullptr, operation).wait();
    return std::move(task->all);
  }
  std::unique_ptr<Communicator> do_subgroup(std::vector<int> members, std::string name) override;
  Tensor do_allocate(int64_t elements, at::ScalarType dtype) override;

 private:
  void open_shared_group();
  SharedMemoryKind memory_kind() const;
  std::shared_ptr<SharedSegment> make_segment(size_t bytes);

  Work start(SharedCall call) {
    const CommOperation operation = call.operation;
    auto task = shared_ ? make_shared_task(shared_, std::move(call), op_log())
                        : make_message_task(group_, std::move(call));
    return job_->engine->submit(std::move(task), queue_, op_log(), operation);
  }
  Work two_tensors(const Tensor& out, const Tensor& in, std::span<const int64_t> borders = {}) {
    return on_host(out, in, [&](const Tensor& host_out, const Tensor& host_in) {
      return start({.operation = current(),
                    .out = host_out,
                    .in = host_in,
                    .borders = {borders.begin(), borders.end()}});
    });
  }

  // Tensors of other devices go through copies in host memory, and the operation is complete when
  // it returns.
  template <class Run>
  Work on_host(const Tensor& out, const Tensor& in, Run&& run) {
    if (out.is_cpu()) return run(out, in);
    const Tensor host_in = in.defined() ? in.to(at::kCPU) : Tensor();
    const Tensor host_out = out.to(at::kCPU);
    run(host_out, host_in).wait();
    out.copy_(host_out);
    return Work();
  }

  std::shared_ptr<MpiJob> job_;
  std::shared_ptr<MpiGroup> group_;
  std::shared_ptr<MpiQueue> queue_;
  std::shared_ptr<SharedGroup> shared_;  // null: the members are on several nodes, or there is one
};

SharedMemoryKind MpiCommunicator::memory_kind() const {
  const int node = job_->node_of[ranks().front()];
  for (const int r : ranks()) {
    if (job_->node_of[r] != node) return SharedMemoryKind::None;
  }
  return job_->memory_of[node];
}

std::shared_ptr<SharedSegment> MpiCommunicator::make_segment(size_t bytes) {
  // The first member's name for it is unique in the job.
  std::string id(sizeof(uint64_t), '\0');
  if (rank() == 0) {
    const uint64_t value = static_cast<uint64_t>(job_->job_rank + 1) << 32 | ++job_->segments;
    std::memcpy(id.data(), &value, sizeof(value));
  }
  const auto gather = [&](const std::string& text) { return do_all_gather_bytes(text); };
  uint64_t value = 0;
  std::memcpy(&value, gather(id).front().data(), sizeof(value));
  return SharedSegment::create(memory_kind(), bytes, value, ranks(), rank(), gather,
                               job_->registry);
}

void MpiCommunicator::open_shared_group() {
  if (size() == 1 || memory_kind() == SharedMemoryKind::None) return;
  const size_t half =
      std::max<size_t>(job_->options.half_bytes, 4096 * static_cast<size_t>(size()));
  shared_ = std::make_shared<SharedGroup>(name(), ranks(), rank(),
                                          make_segment(SharedGroup::kHeaderBytes + 2 * half), half,
                                          job_->registry);
}

Work MpiCommunicator::do_exchange(std::span<const Transfer> transfers) {
  std::vector<Transfer> on_host(transfers.begin(), transfers.end());
  bool staged = false;
  for (Transfer& t : on_host) {
    if (t.tensor.is_cpu()) continue;
    staged = true;
    t.tensor = t.kind == Transfer::Kind::Send
                   ? t.tensor.to(at::kCPU)
                   : at::empty_like(t.tensor, t.tensor.options().device(at::kCPU));
  }
  Work work = job_->engine->submit(make_exchange_task(group_, on_host, current()), nullptr,
                                   op_log(), current());
  if (!staged) return work;
  work.wait();
  for (size_t i = 0; i < on_host.size(); ++i) {
    if (transfers[i].kind == Transfer::Kind::Recv && !transfers[i].tensor.is_cpu()) {
      transfers[i].tensor.copy_(on_host[i].tensor);
    }
  }
  return Work();
}

std::unique_ptr<Communicator> MpiCommunicator::do_subgroup(std::vector<int> members,
                                                           std::string name) {
  std::vector<int> job_ranks;
  int me = 0;
  for (size_t i = 0; i < members.size(); ++i) {
    job_ranks.push_back(ranks()[members[i]]);
    if (members[i] == rank()) me = static_cast<int>(i);
  }
  MPI_Comm comm = MPI_COMM_NULL;
  if (members.size() > 1) {
    MPI_Group all = MPI_GROUP_NULL, part = MPI_GROUP_NULL;
    check_mpi(MPI_Comm_group(group_->comm->get(), &all), this->name(), "subgroup " + name);
    check_mpi(MPI_Group_incl(all, static_cast<int>(members.size()), members.data(), &part),
              this->name(), "subgroup " + name);
    check_mpi(MPI_Comm_create_group(group_->comm->get(), part, 0, &comm), this->name(),
              "subgroup " + name);
    MPI_Group_free(&part);
    MPI_Group_free(&all);
  }
  return std::make_unique<MpiCommunicator>(job_, comm, std::move(job_ranks), me, std::move(name));
}

Tensor MpiCommunicator::do_allocate(int64_t elements, at::ScalarType dtype) {
  const auto options = at::TensorOptions().dtype(dtype);
  if (!shared_ || elements == 0) return at::zeros({elements}, options);
  auto segment = make_segment(static_cast<size_t>(elements) * c10::elementSize(dtype));
  void* data = segment->own();
  const auto bytes = static_cast<int64_t>(segment->bytes());
  memory_meter::count(bytes);
  const auto release = [segment, bytes](void*) mutable {
    memory_meter::count(-bytes);
    segment.reset();
  };
  return at::from_blob(data, {elements}, release, options);
}

namespace mpi_communicator_detail {

// Cores that the processes of the node may run on, together.
int available_cores(MPI_Comm node) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) CPU_ZERO(&set);
  cpu_set_t all;
  CPU_ZERO(&all);
  check_mpi(MPI_Allreduce(&set, &all, sizeof(set), MPI_BYTE, MPI_BOR, node), "job",
            "MPI_Allreduce");
  return std::max(1, CPU_COUNT(&all));
}

// Processes of the node, in order of their ranks in MPI_COMM_WORLD.
MPI_Comm node_communicator(const MpiOptions& options) {
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
            "job", "MPI_Comm_split_type");
  if (options.ranks_per_node > 0) {
    int local = 0;
    MPI_Comm_rank(node, &local);
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(node, local / options.ranks_per_node, local, &part), "job",
              "MPI_Comm_split");
    MPI_Comm_free(&node);
    node = part;
  }
  return node;
}

// The first way of sharing memory that works between all processes of the node.
SharedMemoryKind probe(MPI_Comm node) {
  int rank = 0, size = 1;
  MPI_Comm_rank(node, &rank);
  MPI_Comm_size(node, &size);
  if (size == 1) return SharedMemoryKind::None;
  std::vector<int> members(size);
  for (int r = 0; r < size; ++r) members[r] = r;
  const auto gather = [&](const std::string& text) {
    std::vector<char> mine(512, '\0'), all(512 * static_cast<size_t>(size));
    text.copy(mine.data(), mine.size() - 1);
    check_mpi(MPI_Allgather(mine.data(), 512, MPI_BYTE, all.data(), 512, MPI_BYTE, node), "job",
              "MPI_Allgather");
    std::vector<std::string> texts;
    for (int r = 0; r < size; ++r) texts.emplace_back(all.data() + 512 * static_cast<size_t>(r));
    return texts;
  };
  std::string reasons;
  for (const SharedMemoryKind kind : {SharedMemoryKind::Anonymous, SharedMemoryKind::Named}) {
    try {
      SharedSegment::create(kind, 1, 1, members, rank, gather, std::make_shared<SegmentRegistry>());
      return kind;
    } catch (const OutOfMemoryError& error) {
      reasons += cat(reasons.empty() ? "" : "; ", error.what());
    }
  }
  if (rank == 0) {
    log::warn(
        "the processes of this node cannot share memory and will send messages instead, which is "
        "slower: ",
        reasons);
  }
  return SharedMemoryKind::None;
}

}  // namespace mpi_communicator_detail

std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options) {
  namespace md = mpi_communicator_detail;
  int initialized = 0;
  MPI_Initialized(&initialized);
  STRATA_CHECK(initialized, "make_mpi_communicator before MPI_Init_thread");

  int world_rank = 0, world = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
  MPI_Comm_size(MPI_COMM_WORLD, &world);
  const MpiHandle node(md::node_communicator(options));
  int local = 0, locals = 1, leader = world_rank;
  MPI_Comm_rank(node.get(), &local);
  MPI_Comm_size(node.get(), &locals);
  check_mpi(MPI_Bcast(&leader, 1, MPI_INT, 0, node.get()), "job", "MPI_Bcast");
  const SharedMemoryKind memory = md::probe(node.get());

  // Logical order: nodes by their lowest rank, inside them by local rank, whatever the launcher's
  // mapping.
  struct Place {
    int leader, local, world_rank, memory;
  };
  const Place mine{leader, local, world_rank, static_cast<int>(memory)};
  std::vector<Place> places(world);
  check_mpi(MPI_Allgather(&mine, sizeof(mine), MPI_BYTE, places.data(), sizeof(mine), MPI_BYTE,
                          MPI_COMM_WORLD),
            "job", "MPI_Allgather");
  std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    return a.leader != b.leader ? a.leader < b.leader : a.local < b.local;
  });
  auto job = std::make_shared<MpiJob>();
  job->options = options;
  // A rank that has no core of its own gives it away at once.
  const bool crowded = locals > md::available_cores(node.get());
  job->engine = std::make_shared<MpiEngine>(std::chrono::nanoseconds(crowded ? 500 : 10'000));
  std::vector<int> ranks(world);
  for (int r = 0; r < world; ++r) {
    ranks[r] = r;
    if (r == 0 || places[r].leader != places[r - 1].leader) {
      job->memory_of.push_back(static_cast<SharedMemoryKind>(places[r].memory));
    }
    job->node_of.push_back(static_cast<int>(job->memory_of.size()) - 1);
    if (places[r].world_rank == world_rank) job->job_rank = r;
  }
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split(MPI_COMM_WORLD, 0, job->job_rank, &comm), "job", "MPI_Comm_split");
  return std::make_unique<MpiCommunicator>(job, comm, std::move(ranks), job->job_rank, "job");
}

std::unique_ptr<Communicator> make_mpi_communicator() {
  return make_mpi_communicator(MpiOptions{});
}

}  // namespace strata
