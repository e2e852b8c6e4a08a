#include "coordinator/rpc/core_loop.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"
#include "spdlog/spdlog.h"

namespace shardwright {

CoreLoop::CoreLoop(std::unique_ptr<CoordinatorCore> core, Clock clock)
    : clock_(std::move(clock)),
      core_(std::move(core)),
      timer_([this] { RunTimer(); }) {}

CoreLoop::~CoreLoop() {
  Drain();
  timer_.join();
}

absl::Status CoreLoop::Draining() {
  return Error(absl::StatusCode::kUnavailable, "DRAINING",
               "the coordinator is shutting down");
}

absl::Status CoreLoop::TooManyCalls() {
  return Error(
      absl::StatusCode::kResourceExhausted, "TOO_MANY_CALLS",
      absl::StrCat(kParkedCallsMax, " calls wait at this coordinator already"));
}

StreamId CoreLoop::Open(std::shared_ptr<ParkedCall> call) {
  const MutexLock lock(mutex_);
  const StreamId stream = ++last_stream_;
  if (++opened_count_ <= kParkedCallsMax) {
    calls_[stream] = std::move(call);
  } else {
    call->Queue({stream, TooManyCalls()});
  }
  return stream;
}

void CoreLoop::Released() {
  const MutexLock lock(mutex_);
  --opened_count_;
}

void CoreLoop::RunStream(
    StreamId stream,
    const std::function<absl::Status(CoordinatorCore&, absl::Time, Effects&)>&
        function) {
  Delivery delivery;
  {
    const MutexLock lock(mutex_);
    if (calls_.count(stream) == 0) return;
    const absl::Status status =
        draining_ ? Draining() : function(*core_, clock_(), delivery.effects);
    if (!status.ok()) delivery.effects.End(stream, status);
    QueueEffects(delivery);
  }
  Deliver(delivery);
}

void CoreLoop::Close(StreamId stream) {
  Delivery delivery;
  {
    const MutexLock lock(mutex_);
    calls_.erase(stream);
    if (draining_) return;
    core_->StreamClosed(stream, clock_(), delivery.effects);
    QueueEffects(delivery);
  }
  Deliver(delivery);
}

void CoreLoop::Drain() {
  Delivery delivery;
  {
    const MutexLock lock(mutex_);
    draining_ = true;
    for (const auto& [stream, call] : calls_) {
      delivery.effects.End(stream, Draining());
    }
    QueueEffects(delivery);
    wake_.NotifyAll();
  }
  Deliver(delivery);
}

void CoreLoop::QueueEffects(Delivery& delivery) {
  std::vector<StreamEffect>& effects = delivery.effects.streams;
  // Grows while it is walked: what a slow reader's end does to others.
  for (size_t i = 0; i < effects.size(); ++i) {
    const StreamEffect effect = effects[i];
    const auto call = calls_.find(effect.stream);
    if (call == calls_.end()) continue;
    delivery.calls.push_back(call->second);
    const bool reads = call->second->Queue(effect);
    if (!reads) {
      delivery.effects.Log("slow_reader", "", call->second->Describe());
      core_->StreamClosed(effect.stream, clock_(), delivery.effects);
    }
    if (!reads || std::holds_alternative<absl::Status>(effect.what)) {
      calls_.erase(call);
    }
  }
  effects.clear();
  std::sort(delivery.calls.begin(), delivery.calls.end());
  delivery.calls.erase(
      std::unique(delivery.calls.begin(), delivery.calls.end()),
      delivery.calls.end());
  if (core_->NextTick() < wake_time_) wake_.NotifyAll();
}

void CoreLoop::Deliver(const Delivery& delivery) {
  for (const std::shared_ptr<ParkedCall>& call : delivery.calls) call->Pump();
  for (const LogEntry& entry : delivery.effects.log) {
    spdlog::info(entry.Line());
  }
}

void CoreLoop::RunTimer() {
  MutexLock lock(mutex_);
  while (!draining_) {
    const absl::Time now = clock_();
    if (now < core_->NextTick()) {
      wake_time_ = core_->NextTick();
      wake_.WaitFor(lock, wake_time_ - now);
      continue;
    }
    Delivery delivery;
    core_->Tick(now, delivery.effects);
    QueueEffects(delivery);
    lock.Unlock();
    Deliver(delivery);
    lock.Lock();
  }
}

}  // namespace shardwright
