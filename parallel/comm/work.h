#pragma once
#include <memory>

namespace strata {

// A collective in flight. Holds its tensors until it is done or destroyed. Copyable handle;
// default: already complete.
class [[nodiscard]] Work {
 public:
  class Impl {
   public:
    virtual ~Impl() = default;
    virtual void wait() = 0;
    virtual void wait_host() { wait(); }
    virtual bool
    poll() = 0;  // advances the operation where the backend has no progress of its own; true: done
  };
  Work() = default;
  explicit Work(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

  // Later work on the current stream sees the result; on CUDA the host is not blocked.
  void wait() {
    if (impl_) impl_->wait();
    impl_.reset();
  }
  // Blocks the host until the result is there.
  void wait_host() {
    if (impl_) impl_->wait_host();
    impl_.reset();
  }
  bool poll() { return !impl_ || impl_->poll(); }

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace strata
