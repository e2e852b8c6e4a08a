// What context parallelism costs for documents of given lengths, under each way
// to cut a pack among the cp ranks: padding, attention work, tokens. To compare
// before a layout is chosen; plans themselves are in planner.h.
//
// Pure functions, O(documents * cp); never one step a token.

#ifndef COORDINATOR_PLANNER_BALANCE_H_
#define COORDINATOR_PLANNER_BALANCE_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/plan/problem.h"

namespace shardwright {

enum class CpScheme {
  kContiguous,         // cp equal slices of the pack.
  kWholePackZigzag,    // Rank r has chunks r and 2*cp-1-r of 2*cp of the pack.
  kPerDocumentZigzag,  // The same of each document: what PlanShard() does.
};
inline constexpr std::array<CpScheme, 3> kCpSchemes = {
    CpScheme::kContiguous, CpScheme::kWholePackZigzag,
    CpScheme::kPerDocumentZigzag};

// "contiguous", "whole_pack_zigzag", "per_document_zigzag".
absl::string_view CpSchemeName(CpScheme scheme);

// How the documents of one pack are to be cut.
struct PackSpec {
  std::vector<int64_t> lengths;  // Of the documents, without padding.
  int64_t cp = 1;
  int64_t tp = 1;  // Of sequence parallelism; 1 without it.
};

// Padding is left out of both.
struct CpShare {
  int64_t token_count = 0;

  // Query-key pairs: a token at position p of its document attends to p + 1.
  int64_t causal_work = 0;
};

struct CpBalance {
  int64_t seq_length = 0;  // Of the pack, with padding.
  int64_t padding_token_count = 0;
  std::vector<CpShare> ranks;  // By cp rank.
};

// Lengths of at least 0 and at most 2^31 tokens together, at least one of them;
// cp within [1, 2^20], tp within [1, 2^28]; documents * cp of at most 2^28.
Problems CheckPack(const PackSpec& pack);

// Pads as little as the scheme allows: the pack to a multiple of cp * tp, or
// 2 * cp * tp for a zigzag, or each document to that; with cp 1 the pack to a
// multiple of tp. REQUIRES: CheckPack() found nothing.
CpBalance BalanceOf(const PackSpec& pack, CpScheme scheme);

}  // namespace shardwright

#endif  // COORDINATOR_PLANNER_BALANCE_H_
