// Ranks that a module lists one by one, in ascending order. Internal to layout.

#ifndef PROTO_PLAN_RANK_ORDER_H_
#define PROTO_PLAN_RANK_ORDER_H_

#include <cstdint>
#include <vector>

#include "proto/plan/layout.h"

namespace shardwright {

// A rank and where it stands in the list, rank << 32 | index: one number that
// sorts by both, in a fraction of the time and half the memory of a pair.
using ListedRank = uint64_t;

inline constexpr ListedRank PackListedRank(Rank rank, uint64_t index) {
  return static_cast<uint64_t>(rank) << 32 | index;
}
inline constexpr Rank RankOf(ListedRank listed) {
  return static_cast<Rank>(listed >> 32);
}
inline constexpr int64_t IndexOf(ListedRank listed) {
  return static_cast<int64_t>(listed & 0xffffffff);
}

// The ranks that are in [0, kWorldSizeMax), ascending; equal ones as they stand
// in `ranks`. REQUIRES: ranks.size() < 2^32.
std::vector<ListedRank> InOrder(const std::vector<Rank>& ranks);

}  // namespace shardwright

#endif  // PROTO_PLAN_RANK_ORDER_H_
