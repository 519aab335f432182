// NCCL backend. All NCCL work of a process runs on one communication stream in program order,
// except that of communicators with a queue of their own (pipeline channels): the stream waits for
// an event of the caller's current stream, and Work::wait() makes the current stream wait for an
// event recorded after the operation. Tensors in host memory go through the bootstrap communicator,
// as do bytes and barriers.
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <thread>

#include "core/error.h"
#include "core/text.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/operation.h"

namespace strata {
namespace nccl_communicator_detail {

void check_cuda(cudaError_t code, const std::string& what) {
  if (code == cudaSuccess) return;
  throw CommError(cat(what, ": CUDA: ", cudaGetErrorString(code)));
}

ncclDataType_t data_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::ScalarType::Double:
      return ncclFloat64;
    case at::ScalarType::Float:
      return ncclFloat32;
    case at::ScalarType::BFloat16:
      return ncclBfloat16;
    case at::ScalarType::Half:
      return ncclFloat16;
    case at::ScalarType::Long:
      return ncclInt64;
    case at::ScalarType::Int:
      return ncclInt32;
    case at::ScalarType::Byte:
    case at::ScalarType::Bool:
      return ncclUint8;
    default:
      break;
  }
  check_failed("reducible dtype", __FILE__, __LINE__, cat("NCCL reduction of ", dtype_name(dtype)));
}

ncclRedOp_t reduce_op(ReduceOp op, at::ScalarType dtype) {
  if (op == ReduceOp::Min) return ncclMin;
  // For bool, the sum is "or".
  return op == ReduceOp::Max || dtype == at::ScalarType::Bool ? ncclMax : ncclSum;
}

// Events are reused: creating one costs more than recording it.
class EventPool {
 public:
  ~EventPool() {
    for (cudaEvent_t event : free_) cudaEventDestroy(event);
  }
  cudaEvent_t take() {
    if (free_.empty()) {
      cudaEvent_t event = nullptr;
      check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
      return event;
    }
    cudaEvent_t event = free_.back();
    free_.pop_back();
    return event;
  }
  void give(cudaEvent_t event) { free_.push_back(event); }

 private:
  std::vector<cudaEvent_t> free_;
};

// One NCCL communicator and what its errors are called.
class Handle {
 public:
  Handle(std::string name, int device) : name_(std::move(name)), device_(device) {}
  ~Handle() {
    if (!comm_) return;
    const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device_));
    // Destroying waits for peers, which may never come after an error.
    if (failed_) {
      ncclCommAbort(comm_);
    } else {
      ncclCommDestroy(comm_);
    }
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  void open(int ranks, const ncclUniqueId& id, int rank) {
    check(ncclCommInitRank(&comm_, ranks, id, rank), "start");
  }
  ncclComm_t get() const { return comm_; }

  void check(ncclResult_t code, const std::string& what) {
    if (code == ncclSuccess || code == ncclInProgress) return;
    failed_ = true;
    throw CommError(cat("communicator ", name_, ": ", what, ": NCCL: ", ncclGetErrorString(code),
                        ": ", ncclGetLastError(comm_)));
  }
  // Errors of operations that were launched without one, such as a lost peer.
  void check_async(const std::string& what) {
    ncclResult_t state = ncclSuccess;
    check(ncclCommGetAsyncError(comm_, &state), what);
    check(state, what);
  }

 private:
  std::string name_;
  int device_;
  ncclComm_t comm_ = nullptr;
  bool failed_ = false;
};

// What the communicators of one process share.
struct Runtime {
  explicit Runtime(at::Device d)
      : device(d), stream(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, d.index())) {}

  const at::Device device;
  c10::cuda::CUDAStream stream;
  std::shared_ptr<EventPool> events = std::make_shared<EventPool>();
  std::deque<std::shared_ptr<class LaunchedWork>> in_flight;  // in the order of their launch
};

class LaunchedWork final : public Work::Impl {
 public:
  LaunchedWork(std::shared_ptr<Handle> handle, std::shared_ptr<EventPool> events,
               std::vector<Tensor> tensors, std::shared_ptr<OpLog> log,
               const CommOperation& operation)
      : handle_(std::move(handle)),
        events_(std::move(events)),
        tensors_(std::move(tensors)),
        log_(std::move(log)),
        record_(operation.record),
        records_(operation.records),
        what_(cat(comm_op_name(operation.op), " #", operation.sequence)),
        event_(events_->take()) {}
  ~LaunchedWork() override { events_->give(event_); }

  void record(cudaStream_t stream) { check_cuda(cudaEventRecord(event_, stream), what_); }

  void wait() override {
    check_cuda(cudaStreamWaitEvent(c10::cuda::getCurrentCUDAStream().stream(), event_, 0), what_);
    // Whoever reuses their memory on this stream does so after the operation.
    tensors_.clear();
  }

  void wait_host() override {
    while (!poll()) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }

  bool poll() override {
    if (finished()) return true;
    handle_->check_async(what_);
    return false;
  }

  bool finished() {
    if (done_) return true;
    const cudaError_t state = cudaEventQuery(event_);
    if (state == cudaErrorNotReady) return false;
    check_cuda(state, what_);
    done_ = true;
    tensors_.clear();
    for (int i = 0; i < records_; ++i) log_->done(record_ + i);
    return true;
  }

 private:
  std::shared_ptr<Handle> handle_;
  std::shared_ptr<EventPool> events_;
  std::vector<Tensor> tensors_;
  std::shared_ptr<OpLog> log_;
  uint64_t record_;
  int records_;
  std::string what_;
  cudaEvent_t event_;
  bool done_ = false;
};

// Two ranks on one device would fail deep inside NCCL; say so in words.
void check_one_rank_per_device(Communicator& bootstrap, at::Device device) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device.index()),
             "reading the device's properties");
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  const std::string mine = std::string(host.data()) + "\n" +
                           std::string(properties.uuid.bytes, sizeof(properties.uuid.bytes));
  std::map<std::string, int> owner;
  const std::vector<std::string> all = bootstrap.all_gather_bytes(mine);
  for (int r = 0; r < static_cast<int>(all.size()); ++r) {
    const auto [found, added] = owner.emplace(all[r], r);
    if (added) continue;
    throw ConfigError(
        "runtime.backend", "nccl", "mpi with runtime.share_devices = true",
        cat(": ranks ", bootstrap.ranks()[found->second], " and ", bootstrap.ranks()[r],
            " use the same device of ", all[r].substr(0, all[r].find('\n'))));
  }
}

}  // namespace nccl_communicator_detail

class NcclCommunicator final : public Communicator {
 public:
  // `owned` is null where the bootstrap belongs to somebody else.
  NcclCommunicator(std::shared_ptr<nccl_communicator_detail::Runtime> runtime,
                   Communicator& bootstrap, std::unique_ptr<Communicator> owned, std::string name)
      : Communicator(bootstrap.ranks(), bootstrap.rank(), std::move(name)),
        runtime_(std::move(runtime)),
        owned_(std::move(owned)),
        bootstrap_(bootstrap),
        handle_(std::make_shared<nccl_communicator_detail::Handle>(this->name(),
                                                                   runtime_->device.index())) {
    if (size() == 1) return;
    ncclUniqueId id{};
    if (rank() == 0) handle_->check(ncclGetUniqueId(&id), "unique id");
    std::string bytes(id.internal, sizeof(id.internal));
    bootstrap_.broadcast_bytes(bytes, 0);
    std::memcpy(id.internal, bytes.data(), sizeof(id.internal));
    const c10::cuda::CUDAGuard guard(runtime_->device);
    handle_->open(size(), id, rank());
  }

  std::string_view backend() const noexcept override { return "nccl"; }

 protected:
  Work do_all_reduce(const Tensor& inout, ReduceOp op) override {
    if (inout.is_cpu()) return on_host(bootstrap_.all_reduce(inout, op, current().site));
    return launch({inout}, [&](cudaStream_t stream) {
      const auto type = nccl_communicator_detail::data_type(inout.scalar_type());
      return ncclAllReduce(
          inout.const_data_ptr(), inout.data_ptr(), static_cast<size_t>(inout.numel()), type,
          nccl_communicator_detail::reduce_op(op, inout.scalar_type()), handle_->get(), stream);
    });
  }

  Work do_all_gather(const Tensor& out, const Tensor& in) override {
    if (in.is_cpu()) return on_host(bootstrap_.all_gather(out, in, current().site));
    return launch({out, in}, [&](cudaStream_t stream) {
      return ncclAllGather(in.const_data_ptr(), out.data_ptr(), in.nbytes(), ncclUint8,
                           handle_->get(), stream);
    });
  }

  Work do_reduce_scatter(const Tensor& out, const Tensor& in) override {
    if (in.is_cpu()) return on_host(bootstrap_.reduce_scatter(out, in, current().site));
    return launch({out, in}, [&](cudaStream_t stream) {
      const auto type = nccl_communicator_detail::data_type(in.scalar_type());
      return ncclReduceScatter(in.const_data_ptr(), out.data_ptr(),
                               static_cast<size_t>(out.numel()), type,
                               nccl_communicator_detail::reduce_op(ReduceOp::Sum, in.scalar_type()),
                               handle_->get(), stream);
    });
  }

  Work do_reduce_scatter_parts(const Tensor& out, const Tensor& whole,
                               std::span<const int64_t> borders) override {
    if (whole.is_cpu())
      return on_host(bootstrap_.reduce_scatter_parts(out, whole, borders, current().site));
    return launch({out, whole}, [&](cudaStream_t stream) {
      const auto type = nccl_communicator_detail::data_type(whole.scalar_type());
      const auto sum = nccl_communicator_detail::reduce_op(ReduceOp::Sum, whole.scalar_type());
      return group([&] {
        for (int r = 0; r < size(); ++r) {
          const auto count = static_cast<size_t>(borders[r + 1] - borders[r]);
          if (count == 0) continue;
          const char* from = static_cast<const char*>(whole.const_data_ptr()) +
                             static_cast<size_t>(borders[r]) * whole.element_size();
          handle_->check(ncclReduce(from, r == rank() ? out.data_ptr() : nullptr, count, type, sum,
                                    r, handle_->get(), stream),
                         "reduce");
        }
      });
    });
  }

  Work do_all_gather_parts(const Tensor& whole, std::span<const int64_t> borders) override {
    if (whole.is_cpu()) return on_host(bootstrap_.all_gather_parts(whole, borders, current().site));
    return launch({whole}, [&](cudaStream_t stream) {
      return group([&] {
        for (int r = 0; r < size(); ++r) {
          const auto bytes =
              static_cast<size_t>(borders[r + 1] - borders[r]) * whole.element_size();
          if (bytes == 0) continue;
          char* part = static_cast<char*>(whole.data_ptr()) +
                       static_cast<size_t>(borders[r]) * whole.element_size();
          handle_->check(ncclBroadcast(part, part, bytes, ncclUint8, r, handle_->get(), stream),
                         "broadcast");
        }
      });
    });
  }

  Work do_all_to_all(const Tensor& out, const Tensor& in) override {
    if (in.is_cpu()) return on_host(bootstrap_.all_to_all(out, in, current().site));
    return launch({out, in}, [&](cudaStream_t stream) {
      const size_t block = in.nbytes() / static_cast<size_t>(size());
      return group([&] {
        for (int r = 0; r < size(); ++r) {
          send(static_cast<const char*>(in.const_data_ptr()) + block * static_cast<size_t>(r),
               block, r, stream);
          receive(static_cast<char*>(out.data_ptr()) + block * static_cast<size_t>(r), block, r,
                  stream);
        }
      });
    });
  }

  Work do_broadcast(const Tensor& inout, int root) override {
    if (inout.is_cpu()) return on_host(bootstrap_.broadcast(inout, root, current().site));
    return launch({inout}, [&](cudaStream_t stream) {
      return ncclBroadcast(inout.const_data_ptr(), inout.data_ptr(), inout.nbytes(), ncclUint8,
                           root, handle_->get(), stream);
    });
  }

  Work do_exchange(std::span<const Transfer> transfers) override {
    if (transfers.front().tensor.is_cpu())
      return on_host(bootstrap_.exchange(transfers, current().site));
    std::vector<Tensor> tensors;
    for (const Transfer& t : transfers) {
      STRATA_CHECK(t.tensor.is_cuda(),
                   cat("communicator ", name(), ": exchange mixes host and device tensors"));
      tensors.push_back(t.tensor);
    }
    return launch(std::move(tensors), [&](cudaStream_t stream) {
      return group([&] {
        for (const Transfer& t : transfers) {
          if (t.kind == Transfer::Kind::Send) {
            send(t.tensor.const_data_ptr(), t.tensor.nbytes(), t.peer, stream);
          } else {
            receive(t.tensor.data_ptr(), t.tensor.nbytes(), t.peer, stream);
          }
        }
      });
    });
  }

  void use_own_queue() override {
    own_stream_ = c10::cuda::getStreamFromPool(/*isHighPriority=*/true, runtime_->device.index());
  }

  void do_barrier() override { bootstrap_.barrier(current().site); }
  void do_broadcast_bytes(std::string& bytes, int root) override {
    bootstrap_.broadcast_bytes(bytes, root);
  }
  std::vector<std::string> do_all_gather_bytes(const std::string& bytes) override {
    return bootstrap_.all_gather_bytes(bytes);
  }

  std::unique_ptr<Communicator> do_subgroup(std::vector<int> members, std::string name) override {
    auto bootstrap = bootstrap_.subgroup(members, name);
    Communicator& reference = *bootstrap;
    return std::make_unique<NcclCommunicator>(runtime_, reference, std::move(bootstrap),
                                              std::move(name));
  }

  Tensor do_allocate(int64_t elements, at::ScalarType dtype) override {
    return at::zeros({elements}, at::TensorOptions().dtype(dtype).device(runtime_->device));
  }

 private:
  // Orders the communication stream after the current one, runs, records the event that completes
  // the Work.
  template <class Run>
  Work launch(std::vector<Tensor> tensors, Run&& run) {
    namespace nd = nccl_communicator_detail;
    STRATA_CHECK(tensors.front().device() == runtime_->device,
                 cat("communicator ", name(), " is for ", runtime_->device.str(),
                     ", got a tensor on ", tensors.front().device().str()));
    const std::string what = cat(comm_op_name(current().op), " #", current().sequence);
    const c10::cuda::CUDAGuard guard(runtime_->device);
    forget_finished();
    handle_->check_async(what);
    const cudaStream_t stream = (own_stream_ ? *own_stream_ : runtime_->stream).stream();
    cudaEvent_t ready = runtime_->events->take();
    nd::check_cuda(
        cudaEventRecord(ready, c10::cuda::getCurrentCUDAStream(runtime_->device.index()).stream()),
        what);
    nd::check_cuda(cudaStreamWaitEvent(stream, ready, 0), what);
    runtime_->events->give(ready);  // a later record does not disturb a wait that is already queued
    auto work = std::make_shared<nd::LaunchedWork>(handle_, runtime_->events, std::move(tensors),
                                                   op_log(), current());
    handle_->check(run(stream), what);
    work->record(stream);
    // The device works on it from now on, whatever the host does.
    for (int i = 0; i < current().records; ++i) op_log()->waiting(current().record + i);
    runtime_->in_flight.push_back(work);
    return Work(std::move(work));
  }

  // Tensors in host memory are for control, not for speed: complete when this returns.
  Work on_host(Work work) {
    const CommOperation operation = current();
    for (int i = 0; i < operation.records; ++i) op_log()->waiting(operation.record + i);
    work.wait();
    for (int i = 0; i < operation.records; ++i) op_log()->done(operation.record + i);
    return Work();
  }

  void forget_finished() {
    auto& in_flight = runtime_->in_flight;
    while (!in_flight.empty() && in_flight.front()->finished()) in_flight.pop_front();
  }

  template <class Body>
  ncclResult_t group(Body&& body) {
    handle_->check(ncclGroupStart(), "group start");
    body();
    return ncclGroupEnd();
  }
  void send(const void* data, size_t bytes, int peer, cudaStream_t stream) {
    handle_->check(ncclSend(data, bytes, ncclUint8, peer, handle_->get(), stream), "send");
  }
  void receive(void* data, size_t bytes, int peer, cudaStream_t stream) {
    handle_->check(ncclRecv(data, bytes, ncclUint8, peer, handle_->get(), stream), "receive");
  }

  std::shared_ptr<nccl_communicator_detail::Runtime> runtime_;
  std::unique_ptr<Communicator> owned_;
  Communicator& bootstrap_;
  std::shared_ptr<nccl_communicator_detail::Handle> handle_;
  std::optional<c10::cuda::CUDAStream> own_stream_;
};

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& bootstrap, at::Device device) {
  STRATA_CHECK(device.is_cuda() && device.has_index(),
               cat("NCCL communicator for device ", device.str()));
  nccl_communicator_detail::check_one_rank_per_device(bootstrap, device);
  auto runtime = std::make_shared<nccl_communicator_detail::Runtime>(device);
  return std::make_unique<NcclCommunicator>(std::move(runtime), bootstrap, nullptr,
                                            bootstrap.name());
}

}  // namespace strata
