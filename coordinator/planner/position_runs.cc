#include "coordinator/planner/position_runs.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/numeric/int128.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

// Filled in place, here and below: a temporary that is copied in stalls the
// processor, which is most of the time that a plan of many documents takes.
void AppendRun(std::vector<PositionRun>& runs, int64_t position,
               int64_t count) {
  if (count == 0) return;
  if (!runs.empty() && runs.back().position + runs.back().count == position) {
    runs.back().count += count;
    return;
  }
  PositionRun& run = runs.emplace_back();
  run.position = position;
  run.count = count;
}

int64_t TotalCount(const std::vector<PositionRun>& runs) {
  int64_t total = 0;
  for (const PositionRun& run : runs) total += run.count;
  return total;
}

// Calls visit(document, begin, end) for the part of each run in each document.
template <typename Visit>
void ForEachPart(const std::vector<PositionRun>& runs,
                 const std::vector<int64_t>& starts, Visit visit) {
  size_t document = 0;
  for (const PositionRun& run : runs) {
    const int64_t end = run.position + run.count;
    for (int64_t begin = run.position; begin < end;) {
      while (starts[document + 1] <= begin) ++document;
      const int64_t part_end = std::min(end, starts[document + 1]);
      visit(document, begin, part_end);
      begin = part_end;
    }
  }
}

// 1 + 2 + ... + n, of at most kSeqLengthMax: it fits 64 bits, just.
uint64_t Triangle(uint64_t n) {
  return n % 2 == 0 ? n / 2 * (n + 1) : (n + 1) / 2 * n;
}

RankLoad LoadOf(const std::vector<PositionRun>& runs,
                const std::vector<int64_t>& starts, const BatchShape& shape) {
  RankLoad load;
  uint64_t work = 0;  // Of one sample.
  load.token_count = TotalCount(runs) * shape.micro_batch_size;
  ForEachPart(runs, starts, [&](size_t document, int64_t begin, int64_t end) {
    const int64_t start = starts[document];
    work += Triangle(end - start) - Triangle(begin - start);
    if (shape.cu_seqlens.empty()) return;
    const int64_t first_padding =
        start + shape.cu_seqlens[document + 1] - shape.cu_seqlens[document];
    load.padding_token_count +=
        std::max(int64_t{0}, end - std::max(begin, first_padding));
  });
  // The longest sequences allowed have more pairs than 63 bits hold.
  load.causal_work = static_cast<int64_t>(
      std::min(absl::uint128(work) * absl::uint128(shape.micro_batch_size),
               absl::uint128(std::numeric_limits<int64_t>::max())));
  return load;
}

// [B, S] -> [B, local]: the runs, once a sample.
CopyTable LabelTable(const std::vector<PositionRun>& runs,
                     const BatchShape& shape) {
  const int64_t local = TotalCount(runs);
  std::vector<RowCopy> entries;
  entries.reserve(runs.size() * shape.micro_batch_size);
  for (int64_t b = 0; b < shape.micro_batch_size; ++b) {
    int64_t destination = b * local;
    for (const PositionRun& run : runs) {
      RowCopy& entry = entries.emplace_back();
      entry.source_row = b * shape.seq_length + run.position;
      entry.destination_row = destination;
      entry.row_count = run.count;
      destination += run.count;
    }
  }
  absl::StatusOr<CopyTable> table = CopyTable::Create(
      std::move(entries), {shape.seq_length * shape.micro_batch_size},
      local * shape.micro_batch_size);
  return *std::move(table);  // Dies if the runs were not a partition.
}

}  // namespace

std::vector<int64_t> DocumentStarts(const BatchShape& shape) {
  if (shape.thd()) return shape.cu_seqlens_padded;
  return {0, shape.seq_length};
}

std::vector<PositionRun> ZigzagRuns(const std::vector<int64_t>& starts,
                                    int64_t cp, int64_t cp_rank) {
  std::vector<PositionRun> runs;
  if (cp == 1) {
    AppendRun(runs, 0, starts.back());
    return runs;
  }
  runs.reserve(2 * (starts.size() - 1));
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t chunk = (starts[i + 1] - starts[i]) / (2 * cp);
    AppendRun(runs, starts[i] + cp_rank * chunk, chunk);
    AppendRun(runs, starts[i] + (2 * cp - 1 - cp_rank) * chunk, chunk);
  }
  return runs;
}

std::vector<PositionRun> SliceRuns(const std::vector<PositionRun>& runs,
                                   int64_t begin, int64_t end) {
  std::vector<PositionRun> slice;
  slice.reserve(runs.size());
  int64_t local = 0;  // Local position of the run's first.
  for (const PositionRun& run : runs) {
    const int64_t from = std::max(begin, local);
    const int64_t to = std::min(end, local + run.count);
    if (from < to) AppendRun(slice, run.position + from - local, to - from);
    local += run.count;
  }
  return slice;
}

std::vector<PositionRun> EmbeddingRuns(
    const Module& module, const Coordinates& at,
    const std::vector<PositionRun>& label_runs) {
  if (!module.sequence_parallel()) return label_runs;
  const int64_t local = TotalCount(label_runs) / module.tp();
  return SliceRuns(label_runs, at.tp * local, (at.tp + 1) * local);
}

PositionOwners::PositionOwners(const Module& module, const BatchShape& shape)
    : starts_(DocumentStarts(shape)), cp_(module.cp()) {
  slice_ =
      shape.seq_length / cp_ / (module.sequence_parallel() ? module.tp() : 1);
}

PositionOwners::Owner PositionOwners::At(int64_t position) const {
  const auto next = std::upper_bound(starts_.begin(), starts_.end(), position);
  const int64_t start = *(next - 1);
  Owner owner;
  int64_t local = position;  // Among the positions of its cp rank.
  owner.end = *next;
  if (cp_ > 1) {
    // Each document before gave every cp rank an equal share.
    const int64_t length = (*next - start) / (2 * cp_);
    const int64_t chunk = (position - start) / length;
    const bool mirrored = chunk >= cp_;
    owner.cp = mirrored ? 2 * cp_ - 1 - chunk : chunk;
    owner.end = start + (chunk + 1) * length;
    local = start / cp_ + (mirrored ? length : 0) + position -
            (start + chunk * length);
  }
  owner.tp = local / slice_;
  owner.end = std::min(owner.end, position + (owner.tp + 1) * slice_ - local);
  return owner;
}

absl::StatusOr<Placement> FindLanguageRank(const Layout& layout, Rank rank) {
  ASSIGN_OR_RETURN(const Placement at, layout.Find(rank));
  if (at.module->role() != Role::kLanguage) {
    return Error(
        absl::StatusCode::kInvalidArgument, "RANK_NOT_LANGUAGE",
        absl::StrCat("rank ", rank, " is of encoder '", at.module->name(),
                     "'; only the language module's sequence is "
                     "sharded"));
  }
  return at;
}

ShardPlan PlanRuns(const Module& module, int64_t index, Rank rank,
                   const BatchShape& shape) {
  ShardPlan plan;
  plan.rank = rank;
  plan.coordinates = module.CoordinatesAt(index);
  plan.seq_length = shape.seq_length;
  plan.micro_batch_size = shape.micro_batch_size;
  const std::vector<int64_t> starts = DocumentStarts(shape);
  plan.label_runs = ZigzagRuns(starts, module.cp(), plan.coordinates.cp);
  plan.labels = LabelTable(plan.label_runs, shape);
  plan.load = LoadOf(plan.label_runs, starts, shape);
  if (plan.coordinates.pp > 0) return plan;
  plan.embedding_runs =
      EmbeddingRuns(module, plan.coordinates, plan.label_runs);
  return plan;
}

}  // namespace shardwright
