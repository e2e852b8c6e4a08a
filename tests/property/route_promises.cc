#include "tests/property/route_promises.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "coordinator/planner/planner.h"
#include "coordinator/planner/route_planner.h"
#include "proto/plan/codec.h"
#include "proto/plan/route_plan.h"
#include "proto/status/status_macros.h"
#include "worker/exec/executor.h"

namespace shardwright {
namespace {

// Source, and row there: numbered over all samples of the batch.
using Origin = std::pair<int32_t, int64_t>;

absl::Status Broken(absl::string_view promise, Rank rank) {
  return absl::InternalError(absl::StrCat(promise, ": ", rank));
}

// Tensors have one element a row, so that numbers tell the rows apart.
template <typename T>
ConstBytes In(const std::vector<T>& rows) {
  return {reinterpret_cast<const char*>(rows.data()), rows.size() * sizeof(T)};
}
template <typename T>
Bytes Out(std::vector<T>& rows) {
  return {reinterpret_cast<char*>(rows.data()), rows.size() * sizeof(T)};
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return In(a) == In(b);
}

template <typename T>
std::vector<T> Slice(const std::vector<T>& rows, int64_t row, int64_t count) {
  return {rows.begin() + row, rows.begin() + row + count};
}

template <typename T>
T ValueOf(Origin origin) {
  return static_cast<T>((origin.first + 1) * (1 << 20) + origin.second) /
         static_cast<T>(std::is_integral<T>::value ? 1 : 7);
}

template <typename T>
constexpr T kPoison = static_cast<T>(-12345);

// A batch by the definition, and the plans of all ranks.
struct World {
  const Layout& layout;
  const Batch& batch;
  std::vector<std::string> sources;
  std::vector<std::vector<Origin>> origins;       // By sample, position.
  std::vector<std::vector<int64_t>> rows_before;  // By sample, source.
  std::map<std::string, std::vector<int64_t>> lane_starts;  // By encoder.
  std::map<Rank, RoutePlan> plans;
  std::map<Rank, CopyTable> shards;  // Of the whole sequence of the lane.
};

std::vector<int64_t> LaneStarts(const World& world, const Module& encoder,
                                int32_t source) {
  std::vector<int64_t> starts = {0};
  const auto rows = world.batch.encoder_rows.find(encoder.name());
  const int64_t samples = static_cast<int64_t>(world.origins.size());
  const int64_t lanes = encoder.lane_count();
  int64_t sample = 0;
  for (int64_t lane = 0; lane < lanes; ++lane) {
    if (source < 0) {
      starts.push_back(0);
    } else if (rows != world.batch.encoder_rows.end()) {
      starts.push_back(starts.back() + rows->second[lane]);
    } else {
      sample += samples / lanes + (lane < samples % lanes ? 1 : 0);
      starts.push_back(world.rows_before[sample][source]);
    }
  }
  return starts;
}

int32_t SourceNamed(const World& world, const std::string& name) {
  const auto found =
      std::find(world.sources.begin(), world.sources.end(), name);
  if (found == world.sources.end()) return -1;
  return static_cast<int32_t>(found - world.sources.begin());
}

absl::Status CheckWire(const RoutePlan& plan) {
  const v1::RoutePlan message = ToProto(plan);
  ASSIGN_OR_RETURN(const RoutePlan back, RoutePlanFromProto(message));
  if (ToProto(back).SerializeAsString() != message.SerializeAsString()) {
    return Broken("a route is the same after the wire", plan.rank);
  }
  return absl::OkStatus();
}

absl::Status PlanAll(World& world) {
  const Module& language = world.layout.language();
  ASSIGN_OR_RETURN(const RoutePlanner planner,
                   RoutePlanner::Create(world.layout, world.batch));
  ASSIGN_OR_RETURN(const ShardPlan composed,
                   PlanCompose(world.layout, language.RankAt(0), world.batch));
  for (Rank rank = 0; rank < world.layout.world_size(); ++rank) {
    ASSIGN_OR_RETURN(RoutePlan plan, planner.PlanFor(rank));
    if (plan.rank != rank || plan.digest != composed.digest) {
      return Broken("all ranks have the digest of composed plans", rank);
    }
    RETURN_IF_ERROR(CheckWire(plan));
    world.plans.emplace(rank, std::move(plan));
  }
  for (int64_t i = 0; i < language.rank_count(); ++i) {
    const Coordinates at = language.CoordinatesAt(i);
    if (at.pp != 0) continue;
    ASSIGN_OR_RETURN(const ShardPlan plan,
                     PlanShard(world.layout, language.RankAt(i),
                               world.batch.ShapeOf(at.lane)));
    world.shards.emplace(language.RankAt(i), *plan.embeddings);
  }
  return absl::OkStatus();
}

absl::StatusOr<World> MakeWorld(const Layout& layout, const Batch& batch) {
  World world = {layout, batch, {"text"}, {}, {}, {}, {}, {}};
  std::map<int64_t, int32_t> source_of;
  for (const auto& [name, id] : batch.special_token_ids) {
    source_of[id] = static_cast<int32_t>(world.sources.size());
    world.sources.push_back(name);
  }
  std::vector<int64_t> rows(world.sources.size(), 0);
  for (const std::vector<int64_t>& sample : batch.samples) {
    world.rows_before.push_back(rows);
    std::vector<Origin>& origins = world.origins.emplace_back();
    for (int64_t id : sample) {
      const auto found = source_of.find(id);
      const int32_t source = found == source_of.end() ? 0 : found->second;
      origins.emplace_back(source, rows[source]++);
    }
  }
  world.rows_before.push_back(rows);
  for (const EdgeSpec& edge : layout.edges()) {
    world.lane_starts[edge.from] = LaneStarts(
        world, *layout.FindModule(edge.from), SourceNamed(world, edge.from));
  }
  RETURN_IF_ERROR(PlanAll(world));
  return world;
}

template <typename T>
std::vector<T> RowsOf(int32_t source, int64_t begin, int64_t end) {
  std::vector<T> rows;
  for (int64_t row = begin; row < end; ++row) {
    rows.push_back(ValueOf<T>({source, row}));
  }
  return rows;
}

// The output that the encoder rank's whole lane holds.
template <typename T>
std::vector<T> OutputOf(const World& world, const RoutePlan& plan) {
  const std::string& encoder = plan.edges[0].encoder;
  const std::vector<int64_t>& starts = world.lane_starts.at(encoder);
  return RowsOf<T>(SourceNamed(world, encoder), starts[plan.coordinates.lane],
                   starts[plan.coordinates.lane + 1]);
}

template <typename T>
using Mail = std::map<std::pair<Rank, Rank>, std::vector<T>>;

template <typename T>
absl::Status Send(const World& world, const RoutePlan& plan, Mail<T>& mail) {
  const RouteEdge& edge = plan.edges[0];
  const std::vector<T> output = OutputOf<T>(world, plan);
  std::vector<T> staging(edge.staging_rows, kPoison<T>);
  RETURN_IF_ERROR(
      RunForward(*plan.pack, sizeof(T), {In(output)}, Out(staging)));
  for (const RouteTransfer& transfer : edge.transfers) {
    std::vector<T> named;
    for (const RowRun& run : transfer.rows) {
      const std::vector<T> rows = Slice(output, run.row, run.count);
      named.insert(named.end(), rows.begin(), rows.end());
    }
    const bool packed = transfer.staging_row != RouteTransfer::kNone;
    const std::vector<T> message =
        packed ? Slice(staging, transfer.staging_row, transfer.row_count)
               : Slice(output, transfer.tensor_row, transfer.row_count);
    if (!SameBits(message, named)) {
      return Broken("a message has the rows that the plan names", plan.rank);
    }
    if (!mail.emplace(std::make_pair(plan.rank, transfer.peer), message)
             .second) {
      return Broken("two ranks have one message", plan.rank);
    }
  }
  return absl::OkStatus();
}

// The lane's whole sequence, [S, B], by `value(sample, position)`.
template <typename T, typename Value>
std::vector<T> WholeSequence(const World& world, int64_t lane, Value value) {
  const int64_t b = world.batch.micro_batch_size;
  std::vector<T> sequence;
  for (int64_t position = 0; position < world.batch.seq_length; ++position) {
    for (int64_t i = 0; i < b; ++i) {
      sequence.push_back(value(lane * b + i, position));
    }
  }
  return sequence;
}

// A language rank's sources: local rows, and staging filled from the mail.
template <typename T>
absl::StatusOr<std::vector<std::vector<T>>> ReceiveSources(
    const World& world, const RoutePlan& plan, Mail<T>& mail) {
  const int64_t b = world.batch.micro_batch_size;
  const int64_t first = plan.coordinates.lane * b;
  std::vector<std::vector<T>> sources;
  for (size_t k = 0; k < world.sources.size(); ++k) {
    sources.push_back(RowsOf<T>(static_cast<int32_t>(k),
                                world.rows_before[first][k],
                                world.rows_before[first + b][k]));
  }
  for (const RouteEdge& edge : plan.edges) {
    std::vector<T>& staging = sources[SourceNamed(world, edge.encoder)];
    staging.assign(edge.staging_rows, kPoison<T>);
    for (const RouteTransfer& transfer : edge.transfers) {
      const auto message = mail.find({transfer.peer, plan.rank});
      if (message == mail.end() ||
          message->second.size() != transfer.row_count) {
        return Broken("what a rank waits for is sent", plan.rank);
      }
      std::copy(message->second.begin(), message->second.end(),
                staging.begin() + transfer.staging_row);
      mail.erase(message);
    }
  }
  return sources;
}

template <typename T>
absl::Status Receive(const World& world, const RoutePlan& plan, Mail<T>& mail) {
  ASSIGN_OR_RETURN(const std::vector<std::vector<T>> sources,
                   ReceiveSources(world, plan, mail));
  std::vector<ConstBytes> inputs;
  for (const std::vector<T>& source : sources) inputs.push_back(In(source));
  std::vector<T> shard(plan.placement->destination_rows(), kPoison<T>);
  RETURN_IF_ERROR(RunForward(*plan.placement, sizeof(T), inputs, Out(shard)));
  const std::vector<T> whole = WholeSequence<T>(
      world, plan.coordinates.lane, [&](int64_t sample, int64_t position) {
        return ValueOf<T>(world.origins[sample][position]);
      });
  std::vector<T> expected(shard.size(), kPoison<T>);
  RETURN_IF_ERROR(RunForward(world.shards.at(plan.rank), sizeof(T), {In(whole)},
                             Out(expected)));
  if (!SameBits(shard, expected)) {
    return Broken("a shard is that of the whole sequence", plan.rank);
  }
  for (const RouteEdge& edge : plan.edges) {
    int64_t placed = 0;
    const int32_t source = SourceNamed(world, edge.encoder);
    for (const RowCopy& entry : plan.placement->entries()) {
      if (entry.source == source) placed += entry.row_count;
    }
    if (placed != edge.staging_rows) {
      return Broken("a rank receives what it owns and no more", plan.rank);
    }
    for (const RouteTransfer& transfer : edge.transfers) {
      if (transfer.tensor_row == RouteTransfer::kNone) continue;
      if (!SameBits(Slice(shard, transfer.tensor_row, transfer.row_count),
                    Slice(sources[source], transfer.staging_row,
                          transfer.row_count))) {
        return Broken("a message can go straight into the shard", plan.rank);
      }
    }
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CheckForward(const World& world) {
  Mail<T> mail;
  for (const auto& [rank, plan] : world.plans) {
    if (plan.pack.has_value()) RETURN_IF_ERROR(Send(world, plan, mail));
  }
  for (const auto& [rank, plan] : world.plans) {
    if (plan.placement.has_value()) {
      RETURN_IF_ERROR(Receive(world, plan, mail));
    } else if (!plan.pack.has_value() && !plan.edges.empty()) {
      return Broken("a rank with edges sends or receives", rank);
    }
  }
  if (!mail.empty()) {
    return Broken("what is sent is waited for", mail.begin()->first.second);
  }
  return absl::OkStatus();
}

// The gradient of the lane's shard at this rank: ranks that hold the same
// positions have the same.
template <typename T>
absl::StatusOr<std::vector<T>> ShardGradient(const World& world,
                                             const RoutePlan& plan) {
  const std::vector<T> whole = WholeSequence<T>(
      world, plan.coordinates.lane, [](int64_t sample, int64_t position) {
        return ValueOf<T>({static_cast<int32_t>(sample % 7), 3 * position + 1});
      });
  const CopyTable& table = world.shards.at(plan.rank);
  std::vector<T> gradient(table.destination_rows(), kPoison<T>);
  RETURN_IF_ERROR(RunForward(table, sizeof(T), {In(whole)}, Out(gradient)));
  return gradient;
}

// The slow way: each rank spreads its shard's gradient over the whole sequence,
// all are summed but for tp ranks that hold the same, and rows are gathered.
template <typename T>
absl::StatusOr<std::map<Origin, T>> SummedGradients(const World& world) {
  const bool split = world.layout.language().sequence_parallel();
  std::map<int64_t, std::vector<T>> sums;  // By lane.
  for (const auto& [rank, table] : world.shards) {
    const RoutePlan& plan = world.plans.at(rank);
    if (!split && plan.coordinates.tp != 0) continue;
    ASSIGN_OR_RETURN(const std::vector<T> gradient,
                     ShardGradient<T>(world, plan));
    std::vector<T> spread(table.source_rows()[0], kPoison<T>);
    RETURN_IF_ERROR(RunAdjoint(table, sizeof(T), In(gradient), {Out(spread)}));
    std::vector<T>& sum = sums[plan.coordinates.lane];
    sum.resize(spread.size(), T{0});
    for (size_t i = 0; i < spread.size(); ++i) sum[i] += spread[i];
  }
  const int64_t b = world.batch.micro_batch_size;
  std::map<Origin, T> gradients;
  for (size_t sample = 0; sample < world.origins.size(); ++sample) {
    const int64_t lane = static_cast<int64_t>(sample) / b;
    const int64_t i = static_cast<int64_t>(sample) % b;
    for (size_t p = 0; p < world.origins[sample].size(); ++p) {
      gradients[world.origins[sample][p]] =
          sums.at(lane)[static_cast<int64_t>(p) * b + i];
    }
  }
  return gradients;
}

template <typename T>
absl::Status SendBack(const World& world, const RoutePlan& plan,
                      Mail<T>& mail) {
  ASSIGN_OR_RETURN(const std::vector<T> gradient,
                   ShardGradient<T>(world, plan));
  std::vector<std::vector<T>> sources;
  std::vector<Bytes> outputs;
  for (int64_t rows : plan.placement->source_rows()) {
    sources.emplace_back(rows, kPoison<T>);
  }
  for (std::vector<T>& source : sources) outputs.push_back(Out(source));
  RETURN_IF_ERROR(
      RunAdjoint(*plan.placement, sizeof(T), In(gradient), outputs));
  for (const RouteEdge& edge : plan.edges) {
    const std::vector<T>& staging = sources[SourceNamed(world, edge.encoder)];
    for (const RouteTransfer& transfer : edge.transfers) {
      const RowRun& back = transfer.returned;
      mail[{plan.rank, transfer.peer}] =
          Slice(staging, transfer.staging_row + back.row, back.count);
      if (transfer.tensor_row != RouteTransfer::kNone &&
          !SameBits(
              mail[{plan.rank, transfer.peer}],
              Slice(gradient, transfer.tensor_row + back.row, back.count))) {
        return Broken("rows can come straight from the shard's gradient",
                      plan.rank);
      }
    }
  }
  return absl::OkStatus();
}

// An encoder rank puts what comes back into its part of the output's gradient.
template <typename T>
absl::Status TakeBack(const World& world, const RoutePlan& plan,
                      const std::map<Origin, T>& expected, Mail<T>& mail) {
  const RouteEdge& edge = plan.edges[0];
  const int64_t rows = plan.pack->source_rows()[0];
  std::vector<T> staging(edge.staging_rows, kPoison<T>);
  std::vector<T> gradient(rows, kPoison<T>), unpacked(rows, kPoison<T>);
  std::vector<int> in_staging(staging.size(), 0), in_output(rows, 0);
  for (const RouteTransfer& transfer : edge.transfers) {
    const std::vector<T> message = mail[{transfer.peer, plan.rank}];
    if (message.size() != transfer.returned.count) {
      return Broken("both ranks know what comes back", plan.rank);
    }
    const bool packed = transfer.staging_row != RouteTransfer::kNone;
    std::vector<T>& into = packed ? staging : gradient;
    std::vector<int>& count = packed ? in_staging : in_output;
    const int64_t first = transfer.returned.row +
                          (packed ? transfer.staging_row : transfer.tensor_row);
    for (size_t i = 0; i < message.size(); ++i) {
      into[first + i] = message[i];
      ++count[first + i];
    }
  }
  RETURN_IF_ERROR(
      RunAdjoint(*plan.pack, sizeof(T), In(staging), {Out(unpacked)}));
  for (const auto& [row, count] : NamedRows(*plan.pack, 0)) {
    for (int64_t i = row; i < row + count; ++i) {
      gradient[i] = unpacked[i];
      ++in_output[i];
    }
  }
  const int32_t source = SourceNamed(world, edge.encoder);
  const int64_t start =
      world.lane_starts.at(edge.encoder)[plan.coordinates.lane];
  int64_t next = 0, own = 0;
  for (const RoutePart& part : plan.parts) {
    if (part.rows.row != next) return Broken("parts are a lane", plan.rank);
    next += part.rows.count;
    if (part.rank != plan.rank) continue;
    own = part.rows.count;
    for (int64_t row = part.rows.row; row < next; ++row) {
      if (in_output[row] != 1 ||
          !SameBits<T>({gradient[row]}, {expected.at({source, start + row})})) {
        return Broken("a part's gradient is the sum, each row once", plan.rank);
      }
    }
  }
  if (next != rows ||
      std::count(in_output.begin(), in_output.end(), 0) != rows - own ||
      std::count(in_staging.begin(), in_staging.end(), 1) !=
          edge.staging_rows) {
    return Broken("what comes back is the part, each row once", plan.rank);
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CheckBackward(const World& world) {
  ASSIGN_OR_RETURN(const auto expected, SummedGradients<T>(world));
  Mail<T> mail;
  for (const auto& [rank, plan] : world.plans) {
    if (plan.placement.has_value())
      RETURN_IF_ERROR(SendBack(world, plan, mail));
  }
  for (const auto& [rank, plan] : world.plans) {
    if (plan.pack.has_value()) {
      RETURN_IF_ERROR(TakeBack(world, plan, expected, mail));
    }
  }
  return absl::OkStatus();
}

// Sizes of equal shares differ by one at most.
absl::Status CheckBalance(const World& world) {
  const Module& language = world.layout.language();
  const bool split = language.sequence_parallel();
  for (const auto& [rank, plan] : world.plans) {
    std::vector<int64_t> sizes;
    for (const RoutePart& part : plan.parts) sizes.push_back(part.rows.count);
    if (!sizes.empty() &&
        *std::max_element(sizes.begin(), sizes.end()) >
            *std::min_element(sizes.begin(), sizes.end()) + 1) {
      return Broken("ranks of a lane share the sending", rank);
    }
    for (const RouteEdge& edge : plan.edges) {
      for (const RouteTransfer& transfer : edge.transfers) {
        const int64_t share =
            split ? transfer.row_count : transfer.row_count / language.tp();
        const int64_t more = transfer.returned.count - share;
        if (more < 0 || more > 1) {
          return Broken("tp ranks share the returning", rank);
        }
      }
    }
  }
  std::vector<RoutePlan> plans;
  for (const auto& [rank, plan] : world.plans) plans.push_back(plan);
  const RouteSummary summary = SummarizeRoute(world.layout, plans);
  int64_t rows = 0;  // That any edge brings.
  for (const auto& [encoder, starts] : world.lane_starts) rows += starts.back();
  if (summary.total_rows != rows * (split ? 1 : language.tp()) ||
      summary.rows_if_broadcast != rows * language.tp() * language.cp()) {
    return Broken("total_rows is the number of rows owned", 0);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRoutes(const Layout& layout, const Batch& batch) {
  ASSIGN_OR_RETURN(const World world, MakeWorld(layout, batch));
  RETURN_IF_ERROR(CheckForward<int64_t>(world));
  RETURN_IF_ERROR(CheckBackward<int64_t>(world));
  RETURN_IF_ERROR(CheckBackward<float>(world));
  return CheckBalance(world);
}

}  // namespace shardwright
