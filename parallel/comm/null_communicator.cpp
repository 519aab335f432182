#include <ATen/ops/zeros.h>

#include <numeric>

#include "core/error.h"
#include "core/text.h"
#include "parallel/comm/communicator.h"
#include "parallel/comm/op_log.h"
#include "parallel/comm/operation.h"

namespace strata {

// Pretends to be one rank of a group without peers: this rank's own blocks are copied, what peers
// would have sent is zero.
class NullCommunicator final : public Communicator {
 public:
  NullCommunicator(std::vector<int> ranks, int rank, std::string name, at::Device device)
      : Communicator(std::move(ranks), rank, std::move(name)), device_(device) {}

  std::string_view backend() const noexcept override { return "null"; }

 protected:
  Work do_all_reduce(const Tensor&, ReduceOp) override { return done(); }
  Work do_all_gather(const Tensor& out, const Tensor& in) override {
    for (int r = 0; r < size(); ++r) {
      Tensor part = block(out, r);
      if (r != rank()) {
        part.zero_();
      } else if (part.is_meta() || part.data_ptr() != in.data_ptr()) {
        part.copy_(in);
      }
    }
    return done();
  }
  Work do_reduce_scatter(const Tensor& out, const Tensor& in) override {
    const Tensor part = block(in, rank());
    if (part.is_meta() || part.data_ptr() != out.data_ptr()) out.copy_(part);
    return done();
  }
  Work do_reduce_scatter_parts(const Tensor& out, const Tensor& whole,
                               std::span<const int64_t> borders) override {
    const Tensor part = whole.narrow(0, borders[rank()], out.numel());
    if (part.is_meta() || part.data_ptr() != out.data_ptr()) out.copy_(part);
    return done();
  }
  Work do_all_gather_parts(const Tensor& whole, std::span<const int64_t> borders) override {
    whole.narrow(0, 0, borders[rank()]).zero_();
    whole.narrow(0, borders[rank() + 1], whole.numel() - borders[rank() + 1]).zero_();
    return done();
  }
  Work do_all_to_all(const Tensor& out, const Tensor& in) override {
    for (int r = 0; r < size(); ++r) {
      Tensor part = block(out, r);
      if (r != rank()) {
        part.zero_();
      } else {
        part.copy_(block(in, r));
      }
    }
    return done();
  }
  Work do_broadcast(const Tensor& inout, int root) override {
    if (root != rank()) inout.zero_();
    return done();
  }
  Work do_exchange(std::span<const Transfer> transfers) override {
    for (const Transfer& t : transfers) {
      if (t.kind == Transfer::Kind::Recv) t.tensor.zero_();
    }
    return done();
  }
  void do_barrier() override {}
  void do_broadcast_bytes(std::string&, int) override {}
  std::vector<std::string> do_all_gather_bytes(const std::string& bytes) override {
    return std::vector<std::string>(size(), bytes);
  }
  std::unique_ptr<Communicator> do_subgroup(std::vector<int> members, std::string name) override {
    std::vector<int> of_job;
    int me = 0;
    for (size_t i = 0; i < members.size(); ++i) {
      of_job.push_back(ranks()[members[i]]);
      if (members[i] == rank()) me = static_cast<int>(i);
    }
    return std::make_unique<NullCommunicator>(std::move(of_job), me, std::move(name), device_);
  }
  Tensor do_allocate(int64_t elements, at::ScalarType dtype) override {
    return at::zeros({elements}, at::TensorOptions().dtype(dtype).device(device_));
  }

 private:
  Tensor block(const Tensor& tensor, int r) const {
    const int64_t rows = tensor.size(0) / size();
    return tensor.narrow(0, r * rows, rows);
  }
  Work done() {
    if (op_log()) {
      for (int i = 0; i < current().records; ++i) op_log()->done(current().record + i);
    }
    return Work();
  }

  at::Device device_;
};

std::unique_ptr<Communicator> make_null_communicator(int size, int rank, at::Device device) {
  STRATA_CHECK(size >= 1 && rank >= 0 && rank < size,
               cat("null communicator: rank ", rank, " of ", size));
  std::vector<int> ranks(size);
  std::iota(ranks.begin(), ranks.end(), 0);
  return std::make_unique<NullCommunicator>(std::move(ranks), rank, "job", device);
}

}  // namespace strata
