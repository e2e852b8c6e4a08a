#include "worker/exec/gather.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "worker/comm/conversation.h"
#include "worker/exec/agreement.h"

namespace shardwright {
namespace {

absl::Status Invalid(const std::string& reason, const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, reason, message);
}

absl::Status CheckPart(const GatherPart& part) {
  return CheckCopies(
      part.table, part.row_bytes,
      std::vector<ConstBytes>(part.sources.begin(), part.sources.end()),
      part.shard, {}, Direction::kAdjoint);
}

// Gathers byte strings whose sizes all members know, and for which they wait.
absl::StatusOr<std::string> GatherBytes(Communicator& communicator,
                                        ConstBytes mine,
                                        const std::vector<int64_t>& counts) {
  int64_t total = 0;
  for (const int64_t count : counts) {
    if (count < 0 || __builtin_add_overflow(total, count, &total)) {
      return Invalid("INVALID_TENSOR", "a member announces an impossible size");
    }
  }
  std::string all;
  try {
    all.resize(total);
  } catch (const std::bad_alloc&) {
    const absl::Status refused =
        Error(absl::StatusCode::kResourceExhausted, "OUT_OF_MEMORY",
              absl::StrCat("the shards of all members are ", total,
                           " bytes, more than there is memory"));
    communicator.Abort(refused);
    return refused;
  }
  RETURN_IF_ERROR(communicator.AllGatherV(mine, counts, absl::MakeSpan(all)));
  return all;
}

// One member's share of what was gathered.
struct Holding {
  int64_t rank = 0;
  CopyTable table;
  int64_t shard_at = 0;  // Offset into the gathered shards.
};

absl::StatusOr<std::vector<Holding>> ReadTables(
    const std::vector<int64_t>& ranks, const std::vector<int64_t>& table_counts,
    const std::vector<int64_t>& shard_counts, const GatherPart& part,
    const std::string& tables) {
  std::vector<Holding> holdings;
  int64_t table_at = 0, shard_at = 0;
  for (size_t i = 0; i < ranks.size(); ++i) {
    v1::CopyTable message;
    if (!message.ParseFromArray(tables.data() + table_at, table_counts[i])) {
      return Invalid("INVALID_TABLE",
                     absl::StrCat("rank ", ranks[i], " sent no table"));
    }
    ASSIGN_OR_RETURN(CopyTable table, CopyTableFromProto(message));
    if (table.source_rows() != part.table.source_rows()) {
      return Invalid(
          "SOURCES_DIFFER",
          absl::StrCat("rank ", ranks[i], " has sources of ",
                       absl::StrJoin(table.source_rows(), ","),
                       " rows, but this member's have ",
                       absl::StrJoin(part.table.source_rows(), ",")));
    }
    int64_t shard_bytes = 0;
    if (__builtin_mul_overflow(table.destination_rows(), part.row_bytes,
                               &shard_bytes) ||
        shard_bytes != shard_counts[i]) {
      return Invalid(
          "INVALID_TENSOR",
          absl::StrCat("rank ", ranks[i], " sent a shard of ", shard_counts[i],
                       " bytes for ", table.destination_rows(), " rows of ",
                       part.row_bytes));
    }
    holdings.push_back({ranks[i], std::move(table), shard_at});
    table_at += table_counts[i];
    shard_at += shard_bytes;
  }
  return holdings;
}

// For each row of one source, where in the gathered shards it is; -1 if nobody
// holds it. Where two hold it, their bytes are equal.
absl::StatusOr<std::vector<int64_t>> LocateRows(
    const std::vector<Holding>& holdings, int32_t source, int64_t row_count,
    int64_t row_bytes, const std::string& shards) {
  std::vector<int64_t> row_at(row_count, -1);
  for (const Holding& holding : holdings) {
    for (const RowCopy& entry : holding.table.entries()) {
      if (entry.source != source) continue;
      for (int64_t i = 0; i < entry.row_count; ++i) {
        const int64_t at =
            holding.shard_at +
            (entry.destination_row + i * entry.destination_stride) * row_bytes;
        int64_t& known = row_at[entry.source_row + i];
        if (known < 0) {
          known = at;
        } else if (std::memcmp(shards.data() + known, shards.data() + at,
                               row_bytes) != 0) {
          const auto first = std::find_if(
              holdings.rbegin(), holdings.rend(),
              [&](const Holding& h) { return h.shard_at <= known; });
          return Error(
              absl::StatusCode::kDataLoss, "ROWS_DIFFER",
              absl::StrCat("rank ", first->rank, " and rank ", holding.rank,
                           " hold different bytes for row ",
                           entry.source_row + i, " of source ", source));
        }
      }
    }
  }
  return row_at;
}

}  // namespace

absl::StatusOr<std::vector<int64_t>> GatherShards(Communicator& communicator,
                                                  const GatherPart& part,
                                                  const absl::Status& refusal) {
  const absl::Status own = refusal.ok() ? CheckPart(part) : refusal;
  const std::string table =
      own.ok() ? ToProto(part.table).SerializeAsString() : "";
  const Conversation conversation(communicator, part.deadline);
  ASSIGN_OR_RETURN(
      const std::vector<Declared> sizes,
      Agree(communicator, "gather",
            {{"DIGEST_MISMATCH", "the members planned different batches",
              part.digest, /*is_digest=*/true},
             {"SOURCES_DIFFER", "row_bytes differs",
              static_cast<uint64_t>(part.row_bytes)}},
            {static_cast<int64_t>(table.size()),
             static_cast<int64_t>(part.shard.size())},
            own));
  std::vector<int64_t> table_counts, shard_counts;
  for (const auto& [table_bytes, shard_bytes] : sizes) {
    table_counts.push_back(table_bytes);
    shard_counts.push_back(shard_bytes);
  }
  ASSIGN_OR_RETURN(const std::string tables,
                   GatherBytes(communicator, table, table_counts));
  ASSIGN_OR_RETURN(const std::string shards,
                   GatherBytes(communicator, part.shard, shard_counts));
  ASSIGN_OR_RETURN(const std::vector<Holding> holdings,
                   ReadTables(communicator.ranks(), table_counts, shard_counts,
                              part, tables));

  std::vector<std::vector<int64_t>> row_at;
  for (size_t k = 0; k < part.sources.size(); ++k) {
    ASSIGN_OR_RETURN(
        row_at.emplace_back(),
        LocateRows(holdings, static_cast<int32_t>(k),
                   part.table.source_rows()[k], part.row_bytes, shards));
  }
  std::vector<int64_t> restored_rows(part.sources.size(), 0);
  for (size_t k = 0; k < part.sources.size(); ++k) {
    char* to = part.sources[k].data();
    for (const int64_t at : row_at[k]) {
      if (at >= 0) {
        std::memcpy(to, shards.data() + at, part.row_bytes);
        ++restored_rows[k];
      }
      to += part.row_bytes;
    }
  }
  return restored_rows;
}

}  // namespace shardwright
