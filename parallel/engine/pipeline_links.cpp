#include "parallel/engine/pipeline_links.h"

#include <chrono>
#include <set>

#include "core/error.h"
#include "core/text.h"

namespace strata {

std::vector<std::pair<int, int>> pipeline_pairs(const Plan& plan) {
  std::set<std::pair<int, int>> pairs;
  const int ranks = plan.ranks_per_stage(), parts = plan.stages * plan.chunks;
  for (int part = 0; part + 1 < parts; ++part) {
    const int a = part % plan.stages, b = (part + 1) % plan.stages;
    if (a == b) continue;
    for (int g = 0; g < ranks; ++g) pairs.insert({a * ranks + g, b * ranks + g});
  }
  return {pairs.begin(), pairs.end()};
}

void PipelineLinks::begin(std::vector<PipelineTransfer> receives, Form form) {
  form_ = std::move(form);
  waited_s_ = 0;
  expected_.clear();
  posted_.clear();
  for (const PipelineTransfer& t : receives) expected_[{t.gradient, t.from, t.to}].push_back(t);
  for (const auto& [channel, transfers] : expected_) post_next(channel);
}

void PipelineLinks::post_next(const Channel& channel) {
  auto& expected = expected_[channel];
  if (expected.empty()) return;
  const PipelineTransfer transfer = expected.front();
  expected.pop_front();
  Tensor tensor = form_(transfer);
  posted_[channel].push_back(
      {transfer, tensor, exchange(transfer, Transfer::Kind::Recv, tensor, transfer.from)});
}

Tensor PipelineLinks::receive(const PipelineTransfer& transfer) {
  const Channel channel{transfer.gradient, transfer.from, transfer.to};
  auto& posted = posted_[channel];
  STRATA_CHECK(!posted.empty() && posted.front().transfer == transfer,
               cat("pipeline: micro-batch ", transfer.microbatch, " of part ",
                   transfer.virtual_stage, " is not the next to arrive"));
  Posted next = std::move(posted.front());
  posted.pop_front();
  post_next(channel);
  const auto begin = std::chrono::steady_clock::now();
  next.work.wait();
  waited_s_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return next.tensor;
}

void PipelineLinks::send(const PipelineTransfer& transfer, const Tensor& tensor) {
  sending_.push_back(exchange(transfer, Transfer::Kind::Send, tensor.contiguous(), transfer.to));
  while (!sending_.empty() && sending_.front().poll()) {
    sending_.front().wait();
    sending_.pop_front();
  }
}

void PipelineLinks::finish() {
  for (Work& work : sending_) work.wait();
  sending_.clear();
  for (const auto& [channel, expected] : expected_) {
    STRATA_CHECK(expected.empty() && posted_[channel].empty(),
                 "pipeline: something was announced and not received");
  }
}

Work PipelineLinks::exchange(const PipelineTransfer& transfer, Transfer::Kind kind,
                             const Tensor& tensor, int peer_stage) {
  const int me = pool_->job().rank(), ranks = plan_->ranks_per_stage();
  const int peer = peer_stage * ranks + me % ranks;
  const bool sends = kind == Transfer::Kind::Send;
  Communicator& channel = pool_->channel(sends ? me : peer, sends ? peer : me, transfer.gradient);
  const Transfer item{kind, tensor, me < peer ? 1 : 0};
  const int layer = transfer.virtual_stage;
  return channel.exchange(std::span(&item, 1), {static_cast<uint16_t>(layer), SiteOp::Pipeline});
}

}  // namespace strata
