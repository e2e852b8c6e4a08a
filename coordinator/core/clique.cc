#include "coordinator/core/clique.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"

namespace shardwright {

absl::Status Clique::CheckSize(const Layout& layout, const Group& group) {
  const int64_t size = SizeOf(layout, group);
  if (size <= kCliqueMembersMax) return absl::OkStatus();
  return Error(
      absl::StatusCode::kInvalidArgument, "CLIQUE_TOO_LARGE",
      absl::StrCat("groups of ", group.module->name(), "/", group.kind->name,
                   " have ", size, " ranks; a clique has at most ",
                   kCliqueMembersMax, "; form other kinds"));
}

Clique::Clique(const Layout& layout, v1::MemberKind member_kind,
               const Group& group)
    : job(layout.name()),
      kind(member_kind),
      name(group.name()),
      ranks(RanksOf(layout, group)),
      seats(ranks.size()) {
  positions.reserve(ranks.size());
  for (size_t i = 0; i < ranks.size(); ++i) {
    positions.emplace_back(ranks[i], static_cast<int>(i));
  }
  std::sort(positions.begin(), positions.end());
}

std::optional<int> Clique::PositionOf(Rank rank) const {
  const auto it = std::lower_bound(positions.begin(), positions.end(),
                                   std::make_pair(rank, 0));
  if (it == positions.end() || it->first != rank) return std::nullopt;
  return it->second;
}

int64_t Clique::SlotCount() const {
  const int64_t member_count = ranks.size();
  if (backend == v1::GLOO) return member_count;
  return (member_count + kRanksPerRoot - 1) / kRanksPerRoot;
}

int64_t Clique::SlotOwner(int64_t slot) const {
  if (backend == v1::GLOO) return slot;
  const int64_t member_count = ranks.size();
  const int64_t root_count = SlotCount();
  return slot * (member_count / root_count) +
         std::min(slot, member_count % root_count);
}

const WaitedFor& Clique::Missing() const {
  if (missing_version_ != version) WorkOutMissing();
  return missing_;
}

const WaitedFor& Clique::NeverCame() const {
  if (missing_version_ != version) WorkOutMissing();
  return never_came_;
}

void Clique::WorkOutMissing() const {
  missing_version_ = version;
  missing_ = {};
  never_came_ = {};
  if (phase == Phase::kExchanging) {
    for (size_t slot = 0; slot < slots.size(); ++slot) {
      if (!slots[slot].empty()) continue;
      missing_.ranks.push_back(ranks[SlotOwner(slot)]);
    }
    std::sort(missing_.ranks.begin(), missing_.ranks.end());
  } else if (phase != Phase::kActive) {
    const bool connecting = phase == Phase::kConnecting;
    for (const auto& [rank, position] : positions) {
      const Seat& seat = seats[position];
      if (connecting ? seat.reported : seat.stream != 0) continue;
      missing_.ranks.push_back(rank);
      if (!connecting && !seat.gave_up) never_came_.ranks.push_back(rank);
    }
  }
  for (WaitedFor* waited : {&missing_, &never_came_}) {
    waited->ranges = RangesOf(waited->ranks);
    waited->set = CompressRanges(waited->ranges);
  }
}

}  // namespace shardwright
