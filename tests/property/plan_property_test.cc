// Groups and plans of random layouts and micro-batches.

#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/string_view.h"
#include "coordinator/planner/planner.h"
#include "gtest/gtest.h"
#include "proto/status/status_macros.h"
#include "tests/property/plan_promises.h"
#include "tests/property/random_values.h"
#include "worker/comm/loopback_communicator.h"
#include "worker/exec/executor.h"
#include "worker/exec/gather.h"

namespace shardwright {
namespace {

absl::Status Broken(absl::string_view what) {
  return absl::InternalError(what);
}

// The plan's shard, and after gathering the sources; poisoned at first.
struct Member {
  ShardPlan plan;
  std::string shard;
  std::vector<std::string> sources;
  absl::Status status;
};

std::vector<std::string> SomeRows(RandomValues& random,
                                  const std::vector<int64_t>& source_rows,
                                  int64_t row_bytes) {
  std::vector<std::string> sources;
  for (int64_t rows : source_rows) {
    std::string& bytes = sources.emplace_back(rows * row_bytes, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random.Number(0, 255));
  }
  return sources;
}

// One rank's thread: its shard is sent to all others, and theirs come.
absl::Status Gather(LoopbackFactory& factory, int position, int size,
                    int64_t row_bytes, Member& member) {
  CliqueAttempt attempt;
  attempt.clique = "language/tp_cp/0";
  attempt.ranks.resize(size);
  std::iota(attempt.ranks.begin(), attempt.ranks.end(), 0);
  attempt.position = position;
  ASSIGN_OR_RETURN(const auto begun, factory.Begin(attempt));
  ASSIGN_OR_RETURN(const auto communicator, begun->Connect({}));
  GatherPart part;
  part.digest = member.plan.digest;
  part.table = *member.plan.embeddings;
  part.row_bytes = row_bytes;
  part.shard = member.shard;
  for (std::string& source : member.sources) {
    part.sources.push_back(absl::MakeSpan(source));
  }
  RETURN_IF_ERROR(GatherShards(*communicator, part).status());
  // Nobody leaves before all have an answer.
  return communicator->Barrier();
}

// Shards `sources` over the ranks of `lane`, gathers them, and compares.
absl::Status CheckGatherAfterShard(RandomValues& random, const Layout& layout,
                                   const Batch& batch) {
  const Module& module = layout.language();
  const int64_t lane = random.Number(0, module.lane_count() - 1);
  const int64_t row_bytes = random.Number(1, 9);
  std::vector<Member> members;
  for (int64_t i = 0; i < module.rank_count(); ++i) {
    const Coordinates at = module.CoordinatesAt(i);
    if (at.lane != lane || at.pp != 0) continue;
    ASSIGN_OR_RETURN(members.emplace_back().plan,
                     PlanCompose(layout, module.RankAt(i), batch));
  }
  const std::vector<std::string> sources =
      SomeRows(random, members[0].plan.embeddings->source_rows(), row_bytes);
  for (Member& member : members) {
    const CopyTable& table = *member.plan.embeddings;
    member.shard.assign(table.destination_rows() * row_bytes, '\xa5');
    RETURN_IF_ERROR(
        RunForward(table, row_bytes,
                   std::vector<ConstBytes>(sources.begin(), sources.end()),
                   absl::MakeSpan(member.shard)));
    for (const std::string& source : sources) {
      member.sources.emplace_back(source.size(), '\xa5');
    }
  }
  LoopbackFactory factory;
  std::vector<std::thread> threads;
  const int size = static_cast<int>(members.size());
  for (int i = 0; i < size; ++i) {
    threads.emplace_back([&, i] {
      members[i].status = Gather(factory, i, size, row_bytes, members[i]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Member& member : members) {
    RETURN_IF_ERROR(member.status);
    if (member.sources != sources) {
      return Broken("gather after shard is the identity");
    }
  }
  return absl::OkStatus();
}

TEST(LayoutPropertyTest, AllRanksDeriveTheSameGroupsInOneOrder) {
  ForSeeds(1000, [](RandomValues& random) -> absl::Status {
    ASSIGN_OR_RETURN(const Layout layout, Layout::Create(random.SomeLayout()));
    return CheckGroups(layout);
  });
}

TEST(PlanPropertyTest, ShardPlansAreWhatTheDefinitionSays) {
  ForSeeds(2000, [](RandomValues& random) -> absl::Status {
    ASSIGN_OR_RETURN(const Layout layout, Layout::Create(random.SomeLayout()));
    const BatchShape shape = random.SomeShape(layout.language());
    RETURN_IF_ERROR(ProblemsToStatus("INVALID_BATCH",
                                     CheckShape(layout.language(), shape)));
    return CheckShardPlans(layout, shape);
  });
}

TEST(PlanPropertyTest, ComposedTablesEqualAlignThenShard) {
  ForSeeds(2000, [](RandomValues& random) -> absl::Status {
    ASSIGN_OR_RETURN(const Layout layout, Layout::Create(random.SomeLayout()));
    return CheckComposePlans(layout, random.SomeBatch(layout));
  });
}

TEST(PlanPropertyTest, TablesOfPlansGoThereAndBack) {
  ForSeeds(1000, [](RandomValues& random) -> absl::Status {
    ASSIGN_OR_RETURN(const Layout layout, Layout::Create(random.SomeLayout()));
    const Module& module = layout.language();
    const Rank rank = module.RankAt(random.Number(0, module.rank_count() - 1));
    ASSIGN_OR_RETURN(const ShardPlan plan,
                     PlanCompose(layout, rank, random.SomeBatch(layout)));
    RETURN_IF_ERROR(CheckTable(plan.labels, random.Number(1, 9)));
    if (!plan.embeddings.has_value()) return absl::OkStatus();
    return CheckTable(*plan.embeddings, random.Number(1, 9));
  });
}

TEST(PlanPropertyTest, GatherAfterShardIsTheIdentity) {
  ForSeeds(300, [](RandomValues& random) -> absl::Status {
    ASSIGN_OR_RETURN(const Layout layout, Layout::Create(random.SomeLayout()));
    return CheckGatherAfterShard(random, layout, random.SomeBatch(layout));
  });
}

TEST(CopyTablePropertyTest, CanonicalFormDoesNotDependOnCutsAndOrder) {
  ForSeeds(3000, [](RandomValues& random) -> absl::Status {
    const RandomValues::TableParts parts = random.SomeTable();
    ASSIGN_OR_RETURN(const CopyTable table,
                     CopyTable::Create(parts.entries, parts.source_rows,
                                       parts.destination_rows));
    RETURN_IF_ERROR(CheckTable(table, random.Number(1, 9)));
    for (const auto& entries : {parts.entries, table.entries()}) {
      ASSIGN_OR_RETURN(
          const CopyTable again,
          CopyTable::Create(random.Recut(entries), parts.source_rows,
                            parts.destination_rows));
      if (!(again == table)) return Broken("the canonical form is canonical");
    }
    return absl::OkStatus();
  });
}

}  // namespace
}  // namespace shardwright
