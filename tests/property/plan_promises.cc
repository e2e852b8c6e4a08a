#include "tests/property/plan_promises.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "coordinator/planner/planner.h"
#include "proto/plan/codec.h"
#include "proto/plan/grid.h"
#include "proto/plan/group.h"
#include "proto/status/status_macros.h"
#include "worker/exec/executor.h"

namespace shardwright {
namespace {

// Where a row comes from: source, and row there.
using Origin = std::pair<int32_t, int64_t>;

absl::Status Broken(const std::string& promise) {
  return absl::InternalError(promise);
}

// Where each destination row of a table comes from.
std::vector<Origin> Origins(const CopyTable& table) {
  std::vector<Origin> origins(table.destination_rows(), {-2, 0});
  for (const RowCopy& entry : table.entries()) {
    for (int64_t i = 0; i < entry.row_count; ++i) {
      const bool fill = entry.source == RowCopy::kFill;
      origins[entry.destination_row + i * entry.destination_stride] = {
          entry.source, fill ? 0 : entry.source_row + i};
    }
  }
  return origins;
}

std::vector<int64_t> PositionsOf(const std::vector<PositionRun>& runs) {
  std::vector<int64_t> positions;
  for (const PositionRun& run : runs) {
    for (int64_t i = 0; i < run.count; ++i) {
      positions.push_back(run.position + i);
    }
  }
  return positions;
}

// One position of a pack: its document, and its place there.
struct Place {
  size_t document;
  int64_t offset, length;
};

std::vector<Place> PlacesOf(const BatchShape& shape) {
  const std::vector<int64_t> starts =
      shape.thd() ? shape.cu_seqlens_padded
                  : std::vector<int64_t>{0, shape.seq_length};
  std::vector<Place> places;
  for (size_t d = 0; d + 1 < starts.size(); ++d) {
    const int64_t length = starts[d + 1] - starts[d];
    for (int64_t i = 0; i < length; ++i) places.push_back({d, i, length});
  }
  return places;
}

// The cp rank that owns a position: of 2*cp equal chunks of its document, rank
// r has those that are r from either end.
int64_t CpOwner(const Place& place, int64_t cp) {
  if (cp == 1) return 0;
  const int64_t chunk = place.offset / (place.length / (2 * cp));
  return std::min(chunk, 2 * cp - 1 - chunk);
}

// What one language rank owns by the definition, as positions of a sample.
struct Owned {
  std::vector<int64_t> labels, embeddings;
};

Owned OwnedBy(const Module& module, const Coordinates& at,
              const std::vector<Place>& places) {
  Owned owned;
  for (size_t p = 0; p < places.size(); ++p) {
    if (CpOwner(places[p], module.cp()) == at.cp) owned.labels.push_back(p);
  }
  if (at.pp != 0) return owned;
  if (!module.sequence_parallel()) {
    owned.embeddings = owned.labels;
    return owned;
  }
  const int64_t slice = static_cast<int64_t>(owned.labels.size()) / module.tp();
  const auto begin = owned.labels.begin() + at.tp * slice;
  owned.embeddings.assign(begin, begin + slice);
  return owned;
}

absl::Status CheckLoad(const ShardPlan& plan, const Owned& owned,
                       const std::vector<Place>& places,
                       const BatchShape& shape) {
  RankLoad load;
  for (int64_t p : owned.labels) {
    ++load.token_count;
    load.causal_work += places[p].offset + 1;
    if (shape.cu_seqlens.empty()) continue;
    const size_t d = places[p].document;
    const int64_t real = shape.cu_seqlens[d + 1] - shape.cu_seqlens[d];
    load.padding_token_count += places[p].offset >= real;
  }
  const int64_t b = shape.micro_batch_size;
  if (plan.load.token_count != load.token_count * b ||
      plan.load.padding_token_count != load.padding_token_count * b ||
      plan.load.causal_work != load.causal_work * b) {
    return Broken("a plan's load is that of the positions it owns");
  }
  return absl::OkStatus();
}

absl::Status CheckWire(const ShardPlan& plan) {
  const std::string bytes = ToProto(plan).SerializeAsString();
  v1::ShardPlan message;
  if (!message.ParseFromString(bytes)) return Broken("a plan can be parsed");
  ASSIGN_OR_RETURN(const ShardPlan back, ShardPlanFromProto(message));
  if (ToProto(back).SerializeAsString() != bytes) {
    return Broken("a plan is the same after the wire");
  }
  return absl::OkStatus();
}

// Owners of each position of each sample of one lane and stage.
struct Counts {
  std::vector<int64_t> labels, embeddings;
};

// `origin(p, b)` says where position p of the lane's sample b comes from.
template <typename OriginOf>
absl::Status CheckPlan(const Module& module, const ShardPlan& plan,
                       const BatchShape& shape, OriginOf origin,
                       Counts& counts) {
  const std::vector<Place> places = PlacesOf(shape);
  const Owned owned = OwnedBy(module, plan.coordinates, places);
  if (PositionsOf(plan.label_runs) != owned.labels ||
      PositionsOf(plan.embedding_runs) != owned.embeddings) {
    return Broken("a rank owns the positions that the definition says");
  }
  if (plan.embeddings.has_value() != (plan.coordinates.pp == 0)) {
    return Broken("the first stage has embeddings, and no other");
  }
  std::vector<Origin> labels, embeddings;
  for (int64_t b = 0; b < shape.micro_batch_size; ++b) {
    for (int64_t p : owned.labels) {
      labels.emplace_back(0, b * shape.seq_length + p);
    }
  }
  for (int64_t p : owned.embeddings) {
    for (int64_t b = 0; b < shape.micro_batch_size; ++b) {
      embeddings.push_back(origin(p, b));
    }
  }
  if (Origins(plan.labels) != labels) {
    return Broken("labels are cut as the definition says");
  }
  if (plan.embeddings.has_value() && Origins(*plan.embeddings) != embeddings) {
    return Broken("embeddings come from the rows that the definition says");
  }
  counts.labels.resize(shape.seq_length);
  counts.embeddings.resize(shape.seq_length);
  for (int64_t p : owned.labels) ++counts.labels[p];
  for (int64_t p : owned.embeddings) ++counts.embeddings[p];
  RETURN_IF_ERROR(CheckLoad(plan, owned, places, shape));
  return CheckWire(plan);
}

bool AllAre(const std::vector<int64_t>& counts, int64_t value) {
  return std::all_of(counts.begin(), counts.end(),
                     [&](int64_t count) { return count == value; });
}

// `plan_of(rank)` and `origin_of(lane, p, b)` of every language rank.
template <typename PlanOf, typename ShapeOf, typename OriginOf>
absl::Status CheckAllRanks(const Layout& layout, PlanOf plan_of,
                           ShapeOf shape_of, OriginOf origin_of) {
  const Module& module = layout.language();
  std::map<std::pair<int64_t, int64_t>, Counts> counts;  // By lane, stage.
  uint64_t digest = 0;
  for (int64_t index = 0; index < module.rank_count(); ++index) {
    const Rank rank = module.RankAt(index);
    const Coordinates at = module.CoordinatesAt(index);
    ASSIGN_OR_RETURN(const ShardPlan plan, plan_of(rank));
    if (plan.rank != rank || (index > 0 && plan.digest != digest)) {
      return Broken("all ranks have one digest");
    }
    digest = plan.digest;
    const absl::Status kept = CheckPlan(
        module, plan, shape_of(at.lane),
        [&](int64_t p, int64_t b) { return origin_of(at.lane, p, b); },
        counts[{at.lane, at.pp}]);
    if (!kept.ok()) return Broken(absl::StrCat(kept.message(), ": ", rank));
  }
  for (const auto& [lane_and_stage, count] : counts) {
    const int64_t copies = module.sequence_parallel() ? 1 : module.tp();
    if (!AllAre(count.labels, module.tp()) ||
        !AllAre(count.embeddings, lane_and_stage.second == 0 ? copies : 0)) {
      return Broken("every row is owned once");
    }
  }
  return absl::OkStatus();
}

// Rows of each source, in [position][sample] order of their tokens: the k-th
// token of a source in (sample, position) order is its row k.
std::vector<std::vector<Origin>> AlignedRows(const Batch& batch, int64_t lane) {
  std::map<int64_t, int32_t> source_of;
  int32_t source = 0;
  for (const auto& [name, id] : batch.special_token_ids) {
    source_of[id] = ++source;
  }
  std::vector<int64_t> next(source + 1, 0);
  std::vector<std::vector<Origin>> samples;
  for (int64_t b = 0; b < batch.micro_batch_size; ++b) {
    std::vector<Origin>& sample = samples.emplace_back();
    for (int64_t id : batch.samples[lane * batch.micro_batch_size + b]) {
      const auto found = source_of.find(id);
      const int32_t from = found == source_of.end() ? 0 : found->second;
      sample.emplace_back(from, next[from]++);
    }
  }
  return samples;
}

// "module/kind/index" of each group of each rank, in order of creation.
using GroupNames = std::vector<std::string>;

absl::Status CheckGroupsOfKind(const Module& module, const GroupKind& kind,
                               std::vector<GroupNames>& names_of_rank) {
  const Grid& grid = kind.expert_view ? module.expert_grid() : module.grid();
  std::vector<int> seen(module.rank_count(), 0);
  for (int64_t g = 0; g < module.GroupCount(kind); ++g) {
    int64_t last = -1;
    for (Rank rank : module.Group(kind, g)) {
      const std::optional<int64_t> index = module.IndexOf(rank);
      if (!index.has_value() || *index <= last) {
        return Broken("members of a group are ranks of its module, ascending");
      }
      for (int d = 0; last >= 0 && d < kDimCount; ++d) {
        const Dim dim = static_cast<Dim>(d);
        if (!kind.dims.contains(dim) &&
            grid.Coordinate(dim, *index) != grid.Coordinate(dim, last)) {
          return Broken("ranks of a group differ in its dimensions only");
        }
      }
      last = *index;
      ++seen[*index];
      if (module.GroupOf(kind, *index) != g) {
        return Broken("all members derive the same group");
      }
    }
  }
  for (int64_t index = 0; index < module.rank_count(); ++index) {
    const std::optional<int64_t> group = module.GroupOf(kind, index);
    if (seen[index] != (group.has_value() ? 1 : 0) ||
        (kind.members == GroupKind::Members::kAll && !group.has_value())) {
      return Broken("groups of a kind partition the ranks that take part");
    }
    if (!group.has_value()) continue;
    names_of_rank[module.RankAt(index)].push_back(
        absl::StrCat(module.name(), "/", std::string(kind.name), "/", *group));
  }
  return absl::OkStatus();
}

// The bridge, by what is said of it: the language module's first stage, then
// the last of each encoder that has an edge, each a group over all dimensions
// but pp.
absl::Status CheckBridge(const Layout& layout,
                         std::vector<GroupNames>& names_of_rank) {
  const GroupKind& stage = *FindGroupKind("tp_dp_cp");
  std::vector<Rank> expected;
  const auto add = [&](const Module& module, int64_t index) {
    for (Rank rank : module.Group(stage, index)) expected.push_back(rank);
  };
  if (!layout.edges().empty()) add(layout.language(), 0);
  for (const Module& module : layout.modules()) {
    for (const EdgeSpec& edge : layout.edges()) {
      if (edge.from == module.name()) add(module, module.pp() - 1);
    }
  }
  const std::string name = absl::StrCat(layout.language().name(), "/bridge/0");
  const std::optional<Group> bridge = FindGroup(layout, name);
  if (bridge.has_value() == layout.edges().empty()) {
    return Broken("a layout has a bridge if it has edges");
  }
  if (!bridge.has_value()) return absl::OkStatus();
  if (RanksOf(layout, *bridge) != expected ||
      SizeOf(layout, *bridge) != static_cast<int64_t>(expected.size())) {
    return Broken("the bridge has the stages at the ends of the edges");
  }
  for (Rank rank : expected) names_of_rank[rank].push_back(name);
  return absl::OkStatus();
}

absl::Status CheckOneOrder(const GroupNames& a, const GroupNames& b) {
  GroupNames common_of_a, common_of_b;
  for (const std::string& name : a) {
    if (std::count(b.begin(), b.end(), name)) common_of_a.push_back(name);
  }
  for (const std::string& name : b) {
    if (std::count(a.begin(), a.end(), name)) common_of_b.push_back(name);
  }
  if (common_of_a == common_of_b) return absl::OkStatus();
  return Broken("two ranks see their common groups in the same order");
}

// A buffer whose end a sanitizer guards, filled with bytes that differ.
struct Buffer {
  explicit Buffer(int64_t size, int salt)
      : bytes(new char[size]), size(static_cast<size_t>(size)) {
    for (int64_t i = 0; i < size; ++i) {
      bytes[i] = static_cast<char>(i * 37 + i / 251 + salt);
    }
  }
  Bytes span() const { return {bytes.get(), size}; }

  std::unique_ptr<char[]> bytes;
  size_t size;
};

absl::Status CheckThereAndBack(const CopyTable& table, int64_t row_bytes) {
  std::vector<Buffer> sources, restored;
  std::vector<ConstBytes> inputs;
  std::vector<Bytes> outputs;
  for (int64_t rows : table.source_rows()) {
    sources.emplace_back(rows * row_bytes, static_cast<int>(sources.size()));
    restored.emplace_back(rows * row_bytes, 77);
  }
  for (const Buffer& buffer : sources) inputs.push_back(buffer.span());
  for (const Buffer& buffer : restored) outputs.push_back(buffer.span());
  const Buffer destination(table.destination_rows() * row_bytes, 99);
  RETURN_IF_ERROR(RunForward(table, row_bytes, inputs, destination.span()));
  const std::vector<Origin> origins = Origins(table);
  std::map<Origin, int64_t> named;
  for (size_t row = 0; row < origins.size(); ++row) {
    const auto [source, source_row] = origins[row];
    const std::string got(&destination.bytes[row * row_bytes], row_bytes);
    const std::string zero(row_bytes, '\0');
    if (source >= 0) named[origins[row]] = static_cast<int64_t>(row);
    if (got != (source < 0 ? zero
                           : std::string(
                                 &sources[source].bytes[source_row * row_bytes],
                                 row_bytes))) {
      return Broken(absl::StrCat("forward: destination row ", row));
    }
  }
  RETURN_IF_ERROR(RunAdjoint(table, row_bytes, destination.span(), outputs));
  for (size_t k = 0; k < sources.size(); ++k) {
    for (int64_t row = 0; row < table.source_rows()[k]; ++row) {
      const char* const from = &sources[k].bytes[row * row_bytes];
      const bool owned = named.count({static_cast<int32_t>(k), row}) > 0;
      if (std::string(&restored[k].bytes[row * row_bytes], row_bytes) !=
          (owned ? std::string(from, row_bytes)
                 : std::string(row_bytes, '\0'))) {
        return Broken(absl::StrCat("adjoint: row ", row, " of source ", k));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckGroups(const Layout& layout) {
  std::vector<GroupNames> names_of_rank(layout.world_size());
  for (const Module& module : layout.modules()) {
    for (const GroupKind& kind : GroupKinds()) {
      if (!module.Has(kind)) continue;
      const absl::Status kept = CheckGroupsOfKind(module, kind, names_of_rank);
      if (!kept.ok()) {
        return Broken(absl::StrCat(kept.message(), ": ", module.name(), "/",
                                   std::string(kind.name)));
      }
    }
  }
  RETURN_IF_ERROR(CheckBridge(layout, names_of_rank));
  // In the order in which each rank is told them.
  std::vector<GroupNames> told(layout.world_size());
  for (Rank rank = 0; rank < layout.world_size(); ++rank) {
    ASSIGN_OR_RETURN(const v1::RankExplanation explained,
                     ExplainRank(layout, rank, 1));
    for (const v1::GroupMembership& group : explained.groups()) {
      told[rank].push_back(NameOf(explained, group));
      const std::optional<Group> named = FindGroup(layout, told[rank].back());
      const std::vector<Rank> ranks = RanksOf(group);
      if (!named.has_value() || ranks != RanksOf(layout, *named)) {
        return Broken("a group is told as it is");
      }
      if (ranks[group.position()] != rank) {
        return Broken("a rank stands in its group at its position");
      }
    }
    if (told[rank] != names_of_rank[rank]) {
      return Broken("a rank is told all its groups");
    }
  }
  for (Rank a = 0; a < layout.world_size(); ++a) {
    for (Rank b = 0; b < a; ++b) {
      RETURN_IF_ERROR(CheckOneOrder(told[a], told[b]));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckShardPlans(const Layout& layout, const BatchShape& shape) {
  return CheckAllRanks(
      layout, [&](Rank rank) { return PlanShard(layout, rank, shape); },
      [&](int64_t) -> const BatchShape& { return shape; },
      [&](int64_t, int64_t p, int64_t b) {
        return Origin(0, p * shape.micro_batch_size + b);
      });
}

absl::Status CheckComposePlans(const Layout& layout, const Batch& batch) {
  std::vector<std::vector<std::vector<Origin>>> aligned;
  for (int64_t lane = 0; lane < layout.language().lane_count(); ++lane) {
    aligned.push_back(AlignedRows(batch, lane));
  }
  return CheckAllRanks(
      layout, [&](Rank rank) { return PlanCompose(layout, rank, batch); },
      [&](int64_t lane) { return batch.ShapeOf(lane); },
      [&](int64_t lane, int64_t p, int64_t b) { return aligned[lane][b][p]; });
}

absl::Status CheckTable(const CopyTable& table, int64_t row_bytes) {
  const std::vector<RowCopy>& entries = table.entries();
  for (size_t i = 0; i < entries.size(); ++i) {
    const RowCopy& a = entries[i];
    if (i > 0 && entries[i - 1].destination_row >= a.destination_row) {
      return Broken("entries ascend by destination row");
    }
    for (const RowCopy& b : entries) {
      const bool continues =
          b.source == a.source &&
          b.destination_row ==
              a.destination_row + a.row_count * a.destination_stride &&
          (a.source == RowCopy::kFill ||
           b.source_row == a.source_row + a.row_count);
      if (continues) return Broken("no entry continues another");
    }
  }
  const std::string bytes = ToProto(table).SerializeAsString();
  v1::CopyTable message;
  if (!message.ParseFromString(bytes)) return Broken("a table can be parsed");
  ASSIGN_OR_RETURN(const CopyTable back, CopyTableFromProto(message));
  if (!(back == table)) return Broken("a table is the same after the wire");
  return CheckThereAndBack(table, row_bytes);
}

}  // namespace shardwright
