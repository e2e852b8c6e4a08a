// The bridge on random layouts and micro-batches, up to 64 ranks and more.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "proto/plan/layout.h"
#include "proto/status/status_macros.h"
#include "tests/property/bridge_promises.h"
#include "tests/property/random_values.h"

namespace shardwright {
namespace {

TEST(BridgePropertyTest, RowsReachTheirShardsAndGradientsTheirSources) {
  ForSeeds(1000, [](RandomValues& random) -> absl::Status {
    ASSIGN_OR_RETURN(const Layout layout,
                     Layout::Create(random.SomeLayout(24)));
    return CheckBridge(layout, random.SomeBatch(layout), random);
  });
}

ModuleSpec Sized(const char* name, Role role, int64_t tp, int64_t cp,
                 int64_t dp) {
  ModuleSpec module;
  module.name = name;
  module.role = role;
  module.first_rank = 0;
  module.rank_count = tp * cp * dp;
  module.tp = tp;
  module.cp = cp;
  return module;
}

std::vector<ModuleSpec> Grids(const char* name, Role role) {
  std::vector<ModuleSpec> grids;
  for (int64_t tp : {1, 2}) {
    for (int64_t cp : {1, 2}) {
      for (int64_t dp : {1, 2, 3}) {
        grids.push_back(Sized(name, role, tp, cp, dp));
        if (role == Role::kEncoder || tp == 1) continue;
        grids.push_back(grids.back());
        grids.back().sequence_parallel = true;
      }
    }
  }
  return grids;
}

TEST(BridgePropertyTest, EveryPairOfSmallGridsWorks) {
  uint64_t seed = 0;
  for (const ModuleSpec& encoder : Grids("images", Role::kEncoder)) {
    for (const ModuleSpec& language : Grids("language", Role::kLanguage)) {
      LayoutSpec spec;
      spec.name = "job";
      spec.modules = {encoder, language};
      spec.modules[1].first_rank = encoder.rank_count;
      spec.world_size = *encoder.rank_count + *language.rank_count;
      spec.edges = {{"images", "language"}};
      RandomValues random(++seed);
      const absl::StatusOr<Layout> layout = Layout::Create(spec);
      ASSERT_TRUE(layout.ok()) << layout.status();
      const absl::Status kept =
          CheckBridge(*layout, random.SomeBatch(*layout), random);
      ASSERT_TRUE(kept.ok()) << kept << "\nlayout " << seed;
    }
  }
  EXPECT_EQ(seed, 12 * 18);
}

}  // namespace
}  // namespace shardwright
