#include "tests/simulation/step.h"

namespace shardwright {
namespace simulation {
namespace {

const v1::Caller* Find(const TickDue&) { return nullptr; }
const v1::Caller* Find(const ClientGone&) { return nullptr; }
const v1::Caller* Find(const v1::ApplyLayoutRequest&) { return nullptr; }
const v1::Caller* Find(const v1::RegisterRequest&) { return nullptr; }
const v1::Caller* Find(const v1::WatchLayoutsRequest&) { return nullptr; }
const v1::Caller* Find(const SessionOpened&) { return nullptr; }
const v1::Caller* Find(const AllRead&) { return nullptr; }
template <typename Message>
const v1::Caller* Find(const Message& request) {
  return &request.caller();
}

}  // namespace

const v1::Caller* CallerOf(const Request& request) {
  return std::visit([](const auto& message) { return Find(message); }, request);
}

std::string NameOf(const Request& request) {
  static constexpr const char* kNames[] = {"Tick",
                                           "StreamClosed",
                                           "ApplyLayout",
                                           "Register",
                                           "Leave",
                                           "PublishSlots",
                                           "ReportCommunicators",
                                           "Session",
                                           "FormCommunicators",
                                           "WaitAtBarrier",
                                           "WatchLayouts",
                                           "SessionOpened",
                                           "WatchOn"};
  static_assert(std::variant_size_v<Request> ==
                sizeof(kNames) / sizeof(kNames[0]));
  return kNames[request.index()];
}

}  // namespace simulation
}  // namespace shardwright
