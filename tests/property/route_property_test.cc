// Routes of random and of enumerated layouts and micro-batches, up to 64 ranks.

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/planner/route_planner.h"
#include "gtest/gtest.h"
#include "proto/plan/batch.h"
#include "proto/plan/layout.h"
#include "proto/plan/route_plan.h"
#include "proto/status/status_macros.h"
#include "tests/property/random_values.h"
#include "tests/property/route_promises.h"
#include "worker/exec/executor.h"

namespace shardwright {
namespace {

TEST(RoutePropertyTest, RowsGoToTheirOwnersAndGradientsComeBack) {
  ForSeeds(10000, [](RandomValues& random) -> absl::Status {
    ASSIGN_OR_RETURN(const Layout layout,
                     Layout::Create(random.SomeLayout(48)));
    return CheckRoutes(layout, random.SomeBatch(layout));
  });
}

ModuleSpec Sized(const char* name, Role role, Rank first_rank, int64_t tp,
                 int64_t cp, int64_t dp, int64_t pp, int64_t gtp_remat) {
  ModuleSpec module;
  module.name = name;
  module.role = role;
  module.first_rank = first_rank;
  module.rank_count = tp * cp * dp * pp * gtp_remat;
  module.tp = tp;
  module.cp = cp;
  module.pp = pp;
  module.gtp_remat = gtp_remat;
  return module;
}

// Every pair of small grids, data parallel sizes that do not divide one another
// among them.
std::vector<LayoutSpec> EveryLayout() {
  const std::vector<int64_t> sizes = {1, 2};
  std::vector<ModuleSpec> encoders, languages;
  for (int64_t tp : sizes) {
    for (int64_t cp : sizes) {
      for (int64_t dp : {1, 2, 3}) {
        for (int64_t other : sizes) {
          encoders.push_back(
              Sized("images", Role::kEncoder, 0, tp, cp, dp, other, 1));
          for (int64_t pp : sizes) {
            languages.push_back(
                Sized("language", Role::kLanguage, 0, tp, cp, dp, pp, other));
            if (tp == 1) continue;
            languages.push_back(languages.back());
            languages.back().sequence_parallel = true;
          }
        }
      }
    }
  }
  std::vector<LayoutSpec> specs;
  for (const ModuleSpec& encoder : encoders) {
    for (const ModuleSpec& language : languages) {
      LayoutSpec& spec = specs.emplace_back();
      spec.name = "job";
      spec.modules = {encoder, language};
      spec.modules[1].first_rank = encoder.rank_count;
      spec.world_size = *encoder.rank_count + *language.rank_count;
      spec.edges = {{"images", "language"}};
    }
  }
  return specs;
}

TEST(RoutePropertyTest, EveryPairOfSmallGridsWorks) {
  const std::vector<LayoutSpec> specs = EveryLayout();
  ASSERT_EQ(specs.size(), 24 * 72);
  uint64_t seed = 0;
  for (const LayoutSpec& spec : specs) {
    RandomValues random(++seed);
    const absl::StatusOr<Layout> layout = Layout::Create(spec);
    ASSERT_TRUE(layout.ok()) << layout.status();
    const absl::Status kept = CheckRoutes(*layout, random.SomeBatch(*layout));
    ASSERT_TRUE(kept.ok()) << kept << "\nlayout " << seed - 1;
  }
}

// Eight rows of four encoder lanes go to cp 2, tp 2. The cp ranks' gradients
// are 1 and -4 on chunks 0 and 3, -2 and 3 on chunks 1 and 2.
TEST(WorkedRouteTest, EachSourceGetsTheGradientOfItsRows) {
  LayoutSpec spec;
  spec.name = "job";
  spec.world_size = 8;
  spec.modules = {Sized("images", Role::kEncoder, 0, 1, 1, 4, 1, 1),
                  Sized("language", Role::kLanguage, 4, 2, 2, 1, 1, 1)};
  spec.edges = {{"images", "language"}};
  const Layout layout = *Layout::Create(spec);
  Batch batch;
  batch.micro_batch_size = 1;
  batch.seq_length = 8;
  batch.special_token_ids = {{"images", 501}};
  batch.samples = {std::vector<int64_t>(8, 501)};
  batch.encoder_rows["images"] = {2, 2, 2, 2};
  const std::vector<std::vector<float>> gradients = {{1, 1, -4, -4},
                                                     {-2, -2, 3, 3}};
  std::vector<std::vector<float>> sources(4, {77, 77});
  for (Rank rank = 4; rank < 8; ++rank) {
    const RoutePlan plan = *PlanRoute(layout, rank, batch);
    const std::vector<float>& gradient = gradients[plan.coordinates.cp];
    std::vector<float> staging(4, 77);
    ASSERT_TRUE(
        RunAdjoint(*plan.placement, sizeof(float),
                   {reinterpret_cast<const char*>(gradient.data()), 16},
                   {Bytes(), {reinterpret_cast<char*>(staging.data()), 16}})
            .ok());
    for (const RouteTransfer& transfer : plan.edges[0].transfers) {
      EXPECT_EQ(transfer.returned.count, 1);  // The other tp rank has the rest.
      const int64_t row = transfer.returned.row;
      sources[transfer.peer][transfer.rows[0].row + row] =
          staging[transfer.staging_row + row];
    }
  }
  const std::vector<std::vector<float>> expected = {
      {1, 1}, {-2, -2}, {3, 3}, {-4, -4}};
  EXPECT_EQ(sources, expected);
}

}  // namespace
}  // namespace shardwright
