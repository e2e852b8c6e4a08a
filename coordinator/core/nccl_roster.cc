#include "coordinator/core/nccl_roster.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace shardwright {
namespace {

bool IsLoopback(const std::string& address) {
  return absl::StartsWith(address, "127.") || address == "::1";
}

}  // namespace

std::optional<std::pair<std::string, NcclRoster::Seat>> NcclRoster::Other(
    const Seats& seats, const std::string& key, const Seat& self) {
  for (const auto& [other_key, others] : seats) {
    if (other_key == key) continue;
    for (const Seat& other : others) {
      if (other != self) return std::make_pair(other_key, other);
    }
  }
  return std::nullopt;
}

std::optional<NcclRoster::Conflict> NcclRoster::Find(
    const Seat& seat, const v1::MemberFacts& facts) const {
  if (facts.nccl_version().empty()) return std::nullopt;
  const auto gpu = gpus_.find(facts.device());
  if (seat.second == v1::WORKER && gpu != gpus_.end() && gpu->second != seat) {
    return Conflict{absl::StatusCode::kAlreadyExists, "GPU_IN_USE",
                    absl::StrCat("facts.device is ", facts.device(),
                                 "; that GPU has a worker already: "),
                    gpu->second};
  }
  if (const auto other = Other(versions_, facts.nccl_version(), seat)) {
    return Conflict{
        absl::StatusCode::kFailedPrecondition, "MIXED_NCCL_VERSIONS",
        absl::StrCat("facts.nccl_version is ", facts.nccl_version(),
                     "; all members of a job need one version, and there is ",
                     other->first, ": "),
        other->second};
  }
  if (IsLoopback(facts.nccl_address())) {
    if (const auto other = Other(hosts_, facts.host(), seat)) {
      return Conflict{
          absl::StatusCode::kFailedPrecondition, "NCCL_LOOPBACK_ADDRESS",
          absl::StrCat("facts.nccl_address is ", facts.nccl_address(), " on ",
                       facts.host(),
                       "; members on other hosts cannot reach it (see "
                       "NCCL_SOCKET_IFNAME): "),
          other->second};
    }
  }
  if (const auto other = Other(loopback_hosts_, facts.host(), seat)) {
    return Conflict{
        absl::StatusCode::kFailedPrecondition, "NCCL_LOOPBACK_ADDRESS",
        absl::StrCat("facts.host is ", facts.host(),
                     "; NCCL uses a loopback address on ", other->first,
                     ", which cannot be reached from here (see "
                     "NCCL_SOCKET_IFNAME there): "),
        other->second};
  }
  return std::nullopt;
}

void NcclRoster::Add(const Seat& seat, const v1::MemberFacts& facts) {
  if (facts.nccl_version().empty()) return;
  if (seat.second == v1::WORKER) gpus_[facts.device()] = seat;
  versions_[facts.nccl_version()].insert(seat);
  hosts_[facts.host()].insert(seat);
  if (IsLoopback(facts.nccl_address())) {
    loopback_hosts_[facts.host()].insert(seat);
  }
}

void NcclRoster::Remove(const Seat& seat, const v1::MemberFacts& facts) {
  const auto gpu = gpus_.find(facts.device());
  if (gpu != gpus_.end() && gpu->second == seat) gpus_.erase(gpu);
  const std::pair<Seats*, const std::string*> places[] = {
      {&versions_, &facts.nccl_version()},
      {&hosts_, &facts.host()},
      {&loopback_hosts_, &facts.host()}};
  for (const auto& [seats, key] : places) {
    const auto found = seats->find(*key);
    if (found == seats->end()) continue;
    found->second.erase(seat);
    if (found->second.empty()) seats->erase(found);
  }
}

}  // namespace shardwright
