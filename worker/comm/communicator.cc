#include "worker/comm/communicator.h"

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"

namespace shardwright {
namespace {

absl::Status PeerError(absl::StatusCode code, const std::string& reason,
                       const std::vector<int64_t>& ranks,
                       const std::string& message) {
  v1::ErrorDetail detail;
  detail.set_reason(reason);
  *detail.mutable_missing() = CompressRanks(ranks);
  return Error(code, message, std::move(detail));
}

}  // namespace

absl::Status PeerLost(const std::string& clique,
                      const std::vector<int64_t>& lost_ranks,
                      const std::string& why) {
  const std::string who =
      lost_ranks.empty()
          ? "a member is lost"
          : absl::StrCat("lost rank ", CompressRanks(lost_ranks).ranges());
  return PeerError(absl::StatusCode::kAborted, "PEER_LOST", lost_ranks,
                   absl::StrCat(clique, ": ", who, ": ", why));
}

absl::Status PeersMissing(const std::string& clique,
                          const std::vector<int64_t>& missing_ranks,
                          const std::string& timeout) {
  return PeerError(
      absl::StatusCode::kDeadlineExceeded, "MEMBERS_MISSING", missing_ranks,
      absl::StrCat(clique, ": nothing came from rank ",
                   CompressRanks(missing_ranks).ranges(), " in ", timeout));
}

}  // namespace shardwright
