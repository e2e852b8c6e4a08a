#include "tests/property/bridge_promises.h"

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "coordinator/planner/planner.h"
#include "coordinator/planner/route_planner.h"
#include "proto/plan/route_plan.h"
#include "proto/status/status_macros.h"
#include "worker/comm/loopback_communicator.h"
#include "worker/exec/bridge.h"
#include "worker/exec/executor.h"

namespace shardwright {
namespace {

constexpr char kPoison = '\x5a';
constexpr int64_t kBehind = 64;  // Bytes behind staging that nobody may touch.

absl::Status Broken(absl::string_view promise, Rank rank) {
  return absl::InternalError(absl::StrCat(promise, ": rank ", rank));
}

// Fresh and poisoned for every call of RunBridge().
class PoisonedEngine : public HostBridgeEngine {
 public:
  absl::StatusOr<Bytes> Staging(int64_t byte_count) override {
    asked_bytes_ += byte_count;
    std::string& staging =
        stagings_.emplace_back(byte_count + kBehind, kPoison);
    return Bytes(staging.data(), byte_count);
  }
  bool IsIntact() const {
    return std::all_of(stagings_.begin(), stagings_.end(),
                       [](const std::string& staging) {
                         return staging.substr(staging.size() - kBehind) ==
                                std::string(kBehind, kPoison);
                       });
  }
  int64_t asked_bytes() const { return asked_bytes_; }

 private:
  std::deque<std::string> stagings_;
  int64_t asked_bytes_ = 0;
};

// Rows of all samples, and of a lane the first one there.
struct Axis {
  std::string rows;
  std::string gradients;
  std::map<int64_t, int64_t> starts;
};

struct Member {
  RoutePlan plan;
  ShardPlan composed;  // Of a language rank.
  std::string shard;
  std::vector<std::string> sources;
  std::optional<PoisonedEngine> engine;
  absl::StatusOr<BridgeResult> result = absl::UnknownError("not run");
};

struct World {
  const Layout& layout;
  const Batch& batch;
  int64_t row_bytes = 0;
  std::map<std::string, Axis> language;  // By source, over language lanes.
  std::map<std::string, Axis> encoders;  // Only the lanes' starts.
  std::vector<Rank> ranks;               // Of the clique.
  std::map<Rank, Member> members;
};

std::string SomeBytes(RandomValues& random, int64_t size) {
  std::string bytes;
  for (int64_t i = 0; i < size; ++i) {
    bytes.push_back(static_cast<char>(random.Number(0, 255)));
  }
  return bytes;
}

std::string Slice(const World& world, const std::string& rows, int64_t row,
                  int64_t count) {
  return rows.substr(row * world.row_bytes, count * world.row_bytes);
}

void AddMembers(World& world, const Module& module, int64_t stage) {
  for (int64_t i = 0; i < module.rank_count(); ++i) {
    if (module.CoordinatesAt(i).pp != stage) continue;
    world.ranks.push_back(module.RankAt(i));
  }
}

// The first row of each lane, from the counts of all.
void SetStarts(const std::map<int64_t, int64_t>& counts, Axis& axis) {
  int64_t next = 0;
  for (const auto& [lane, count] : counts) {
    axis.starts[lane] = next;
    next += count;
  }
}

absl::Status PlanAll(World& world, RandomValues& random) {
  AddMembers(world, world.layout.language(), 0);
  for (const EdgeSpec& edge : world.layout.edges()) {
    const Module& encoder = *world.layout.FindModule(edge.from);
    AddMembers(world, encoder, encoder.pp() - 1);
  }
  ASSIGN_OR_RETURN(const RoutePlanner planner,
                   RoutePlanner::Create(world.layout, world.batch));
  std::map<std::string, std::map<int64_t, int64_t>> rows, encoder_rows;
  for (const Rank rank : world.ranks) {
    Member& member = world.members[rank];
    ASSIGN_OR_RETURN(member.plan, planner.PlanFor(rank));
    const int64_t lane = member.plan.coordinates.lane;
    if (member.plan.pack.has_value()) {
      encoder_rows[member.plan.edges[0].encoder][lane] =
          member.plan.pack->source_rows()[0];
      continue;
    }
    ASSIGN_OR_RETURN(member.composed,
                     PlanCompose(world.layout, rank, world.batch));
    for (size_t k = 0; k < member.composed.sources.size(); ++k) {
      rows[member.composed.sources[k]][lane] =
          member.composed.embeddings->source_rows()[k];
    }
  }
  for (const auto& [source, counts] : rows) {
    Axis& axis = world.language[source];
    SetStarts(counts, axis);
    int64_t total = 0;
    for (const auto& [lane, count] : counts) total += count;
    axis.rows = SomeBytes(random, total * world.row_bytes);
    axis.gradients = SomeBytes(random, total * world.row_bytes);
  }
  for (const auto& [encoder, counts] : encoder_rows) {
    SetStarts(counts, world.encoders[encoder]);
  }
  return absl::OkStatus();
}

// What the language rank's lane has of each source.
std::vector<std::string> LaneRows(const World& world, const Member& member,
                                  std::string Axis::*what) {
  std::vector<std::string> sources;
  for (size_t k = 0; k < member.composed.sources.size(); ++k) {
    const Axis& axis = world.language.at(member.composed.sources[k]);
    sources.push_back(Slice(world, axis.*what,
                            axis.starts.at(member.plan.coordinates.lane),
                            member.composed.embeddings->source_rows()[k]));
  }
  return sources;
}

absl::StatusOr<std::string> ComposedShard(const World& world,
                                          const Member& member,
                                          std::string Axis::*what) {
  const std::vector<std::string> rows = LaneRows(world, member, what);
  std::string shard(
      member.composed.embeddings->destination_rows() * world.row_bytes,
      kPoison);
  RETURN_IF_ERROR(RunForward(*member.composed.embeddings, world.row_bytes,
                             std::vector<ConstBytes>(rows.begin(), rows.end()),
                             absl::MakeSpan(shard), std::string(1, '\x11')));
  return shard;
}

bool ComesByEdge(const Member& member, const std::string& source) {
  return std::any_of(
      member.plan.edges.begin(), member.plan.edges.end(),
      [&](const RouteEdge& edge) { return edge.encoder == source; });
}

std::string OutputOf(const World& world, const Member& member,
                     const std::string& axis_bytes) {
  return Slice(world, axis_bytes,
               world.encoders.at(member.plan.edges[0].encoder)
                   .starts.at(member.plan.coordinates.lane),
               member.plan.pack->source_rows()[0]);
}

// An encoder whose modality the batch does not have has no rows.
std::string AxisBytes(const World& world, const Member& member,
                      std::string Axis::*what) {
  const auto axis = world.language.find(member.plan.edges[0].encoder);
  return axis == world.language.end() ? "" : axis->second.*what;
}

void SetUp(const World& world, Direction direction, Member& member) {
  const bool forward = direction == Direction::kForward;
  member.engine.emplace();
  if (member.plan.pack.has_value()) {
    member.sources = {
        OutputOf(world, member, AxisBytes(world, member, &Axis::rows))};
  } else {
    member.sources = LaneRows(world, member, &Axis::rows);
    for (size_t k = 0; k < member.sources.size(); ++k) {
      if (ComesByEdge(member, member.composed.sources[k])) {
        member.sources[k].clear();
      }
    }
    member.shard = forward
                       ? std::string(member.plan.placement->destination_rows() *
                                         world.row_bytes,
                                     kPoison)
                       : *ComposedShard(world, member, &Axis::gradients);
  }
  if (forward) return;
  for (std::string& source : member.sources) {
    source.assign(source.size(), kPoison);
  }
}

std::shared_ptr<Communicator> Join(LoopbackFactory& factory,
                                   const std::vector<Rank>& ranks, Rank rank,
                                   uint64_t identity) {
  CliqueAttempt attempt;
  attempt.clique = "language/bridge/0";
  attempt.ranks = ranks;
  attempt.identity = identity;
  attempt.position = static_cast<int>(
      std::find(ranks.begin(), ranks.end(), rank) - ranks.begin());
  return *(*factory.Begin(attempt))->Connect({});
}

// Both directions, one after the other, on communicators of their own.
void Run(const World& world, Direction direction, Member& member,
         Communicator& bridge, Communicator* lane) {
  BridgePart part;
  part.plan = member.plan;
  part.direction = direction;
  part.row_bytes = world.row_bytes;
  for (std::string& source : member.sources) {
    part.sources.push_back(absl::MakeSpan(source));
  }
  part.shard = absl::MakeSpan(member.shard);
  const std::string fill(1, '\x11');
  part.fill_value = fill;
  part.sequence = 5;
  member.result = RunBridge(bridge, lane, part, *member.engine);
}

void RunAll(World& world, Direction direction) {
  LoopbackFactory factory(absl::Seconds(60));
  std::vector<std::thread> threads;
  for (auto& each : world.members) {
    threads.emplace_back([&world, &factory, &each, direction] {
      Member& member = each.second;
      const auto bridge = Join(factory, world.ranks, each.first, 1);
      std::shared_ptr<Communicator> lane;
      if (member.plan.parts.size() > 1) {
        std::vector<Rank> ranks;
        for (const RoutePart& part : member.plan.parts) {
          ranks.push_back(part.rank);
        }
        lane = Join(factory, ranks, each.first, 1000 + ranks[0]);
      }
      SetUp(world, direction, member);
      Run(world, direction, member, *bridge, lane.get());
      (void)bridge->Barrier();  // Nobody leaves before all have an answer.
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Of a language rank's shard, those that edges bring.
int64_t RowsThatCome(const Member& member) {
  int64_t rows = 0;
  for (const RowCopy& entry : member.composed.embeddings->entries()) {
    if (entry.source >= 0 &&
        ComesByEdge(member, member.composed.sources[entry.source])) {
      rows += entry.row_count;
    }
  }
  return rows;
}

absl::Status CheckMemory(const World& world, const Member& member) {
  const Rank rank = member.plan.rank;
  RETURN_IF_ERROR(member.result.status());
  if (!member.engine->IsIntact()) {
    return Broken("nothing is written behind staging", rank);
  }
  if (!member.plan.placement.has_value()) return absl::OkStatus();
  const int64_t asked = member.engine->asked_bytes();
  if (asked > RowsThatCome(member) * world.row_bytes) {
    return Broken("staging holds no more than comes by edges", rank);
  }
  const int64_t shard = static_cast<int64_t>(member.shard.size());
  if (10 * (shard + asked) > 22 * shard) {
    return Broken("a shard and its staging take 2.2 shards at most", rank);
  }
  return absl::OkStatus();
}

absl::Status CheckForward(World& world) {
  RunAll(world, Direction::kForward);
  for (const auto& [rank, member] : world.members) {
    RETURN_IF_ERROR(CheckMemory(world, member));
    if (!member.plan.placement.has_value()) continue;
    ASSIGN_OR_RETURN(const std::string expected,
                     ComposedShard(world, member, &Axis::rows));
    if (member.shard != expected) {
      return Broken("a shard is that of the whole lane", rank);
    }
    if (member.result->received_bytes !=
            RowsThatCome(member) * world.row_bytes ||
        member.result->sent_bytes != 0) {
      return Broken("a rank receives what it owns and no more", rank);
    }
  }
  return absl::OkStatus();
}

// Over all language ranks; tp ranks that hold the same count once. Bytes are
// numbers here.
absl::StatusOr<std::map<std::string, std::string>> Sums(const World& world) {
  std::map<std::string, std::string> sums;
  for (const auto& [source, axis] : world.language) {
    sums[source].assign(axis.rows.size(), 0);
  }
  const bool split = world.layout.language().sequence_parallel();
  for (const auto& [rank, member] : world.members) {
    if (!member.plan.placement.has_value()) continue;
    if (!split && member.plan.coordinates.tp != 0) continue;
    ASSIGN_OR_RETURN(const std::string gradient,
                     ComposedShard(world, member, &Axis::gradients));
    std::vector<std::string> parts = LaneRows(world, member, &Axis::rows);
    std::vector<Bytes> outputs;
    for (std::string& part : parts) outputs.push_back(absl::MakeSpan(part));
    RETURN_IF_ERROR(RunAdjoint(*member.composed.embeddings, world.row_bytes,
                               gradient, outputs));
    for (size_t k = 0; k < parts.size(); ++k) {
      const std::string& source = member.composed.sources[k];
      char* to = &sums[source][0] + world.language.at(source).starts.at(
                                        member.plan.coordinates.lane) *
                                        world.row_bytes;
      for (const char byte : parts[k]) *to++ += byte;
    }
  }
  return sums;
}

absl::Status CheckLocalGradients(const World& world, const Member& member) {
  std::vector<std::string> expected = LaneRows(world, member, &Axis::rows);
  std::vector<Bytes> outputs;
  for (std::string& source : expected) {
    outputs.push_back(absl::MakeSpan(source));
  }
  RETURN_IF_ERROR(RunAdjoint(*member.composed.embeddings, world.row_bytes,
                             member.shard, outputs));
  for (size_t k = 0; k < expected.size(); ++k) {
    if (ComesByEdge(member, member.composed.sources[k])) continue;
    if (member.sources[k] != expected[k]) {
      return Broken("a local source gets its gradient", member.plan.rank);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckBackward(World& world) {
  ASSIGN_OR_RETURN(const auto sums, Sums(world));
  RunAll(world, Direction::kAdjoint);
  for (const auto& [rank, member] : world.members) {
    RETURN_IF_ERROR(CheckMemory(world, member));
    if (member.plan.placement.has_value()) {
      RETURN_IF_ERROR(CheckLocalGradients(world, member));
      continue;
    }
    const auto sum = sums.find(member.plan.edges[0].encoder);
    if (member.sources[0] !=
        OutputOf(world, member, sum == sums.end() ? "" : sum->second)) {
      return Broken("an output's gradient is the sum, whole", rank);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckBridge(const Layout& layout, const Batch& batch,
                         RandomValues& random) {
  World world = {layout, batch, random.Number(1, 9), {}, {}, {}, {}};
  RETURN_IF_ERROR(PlanAll(world, random));
  RETURN_IF_ERROR(CheckForward(world));
  return CheckBackward(world);
}

}  // namespace shardwright
