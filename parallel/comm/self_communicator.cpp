#include <ATen/ops/zeros.h>

#include "parallel/comm/communicator.h"

namespace strata {

// The base class completes every operation of a group of one before it reaches a backend; what is
// left is memory.
class SelfCommunicator final : public Communicator {
 public:
  explicit SelfCommunicator(std::string name) : Communicator({0}, 0, std::move(name)) {}

  std::string_view backend() const noexcept override { return "self"; }

 protected:
  Work do_all_reduce(const Tensor&, ReduceOp) override { return Work(); }
  Work do_all_gather(const Tensor&, const Tensor&) override { return Work(); }
  Work do_reduce_scatter(const Tensor&, const Tensor&) override { return Work(); }
  Work do_reduce_scatter_parts(const Tensor&, const Tensor&, std::span<const int64_t>) override {
    return Work();
  }
  Work do_all_gather_parts(const Tensor&, std::span<const int64_t>) override { return Work(); }
  Work do_all_to_all(const Tensor&, const Tensor&) override { return Work(); }
  Work do_broadcast(const Tensor&, int) override { return Work(); }
  Work do_exchange(std::span<const Transfer>) override { return Work(); }
  void do_barrier() override {}
  void do_broadcast_bytes(std::string&, int) override {}
  std::vector<std::string> do_all_gather_bytes(const std::string& bytes) override {
    return {bytes};
  }
  std::unique_ptr<Communicator> do_subgroup(std::vector<int>, std::string name) override {
    return std::make_unique<SelfCommunicator>(std::move(name));
  }
  Tensor do_allocate(int64_t elements, at::ScalarType dtype) override {
    return at::zeros({elements}, at::TensorOptions().dtype(dtype));
  }
};

std::unique_ptr<Communicator> make_self_communicator() {
  return std::make_unique<SelfCommunicator>("job");
}

}  // namespace strata
