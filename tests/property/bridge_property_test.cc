// The bridge on random layouts and micro-batches, up to 64 ranks and more.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "proto/plan/batch.h"
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

// Language tp 2, cp 4, dp 2, pp 2, and encoders of 32 ranks.
std::vector<LayoutSpec> LayoutsOf64Ranks() {
  ModuleSpec language = Sized("language", Role::kLanguage, 2, 4, 2);
  language.pp = 2;
  language.rank_count = 32;
  ModuleSpec staged = Sized("images", Role::kEncoder, 2, 2, 4);
  staged.pp = 2;
  staged.rank_count = 32;
  const std::vector<std::vector<ModuleSpec>> encoders = {
      {Sized("images", Role::kEncoder, 1, 1, 32)},
      {Sized("images", Role::kEncoder, 2, 2, 8)},
      {staged},
      {Sized("images", Role::kEncoder, 2, 1, 8),
       Sized("audio", Role::kEncoder, 1, 4, 4)},
  };
  std::vector<LayoutSpec> specs;
  for (const std::vector<ModuleSpec>& modules : encoders) {
    for (const bool sequence_parallel : {false, true}) {
      LayoutSpec& spec = specs.emplace_back();
      spec.name = "job";
      language.sequence_parallel = sequence_parallel;
      for (const ModuleSpec& encoder : modules) {
        spec.modules.push_back(encoder);
        spec.edges.push_back({encoder.name, "language"});
      }
      spec.modules.push_back(language);
      for (ModuleSpec& module : spec.modules) {
        module.first_rank = spec.world_size;
        spec.world_size += *module.rank_count;
      }
    }
  }
  return specs;
}

// Half of all tokens are images, of each sample or of all together.
Batch HalfImages(const Layout& layout, bool of_each_sample,
                 RandomValues& random) {
  Batch batch;
  batch.micro_batch_size = 2;
  batch.seq_length = 64;
  batch.special_token_ids = {{"images", 501}};
  std::vector<int64_t> half(batch.seq_length / 2, 501);
  half.resize(batch.seq_length, 7);
  for (int64_t n = layout.language().lane_count(); n > 0; --n) {
    for (int64_t k = 0; k < batch.micro_batch_size; ++k) {
      std::vector<int64_t>& sample = batch.samples.emplace_back(half);
      if (of_each_sample) {
        random.Shuffle(sample);
      } else {
        sample.assign(batch.seq_length, k == 0 ? 501 : 7);
      }
    }
  }
  return batch;
}

TEST(BridgePropertyTest, SixtyFourRanksWork) {
  uint64_t seed = 0;
  for (const LayoutSpec& spec : LayoutsOf64Ranks()) {
    const absl::StatusOr<Layout> layout = Layout::Create(spec);
    ASSERT_TRUE(layout.ok()) << layout.status();
    ASSERT_EQ(layout->world_size(), 64);
    RandomValues random(++seed);
    for (const Batch& batch :
         {HalfImages(*layout, true, random), HalfImages(*layout, false, random),
          random.SomeBatch(*layout)}) {
      const absl::Status kept = CheckBridge(*layout, batch, random);
      ASSERT_TRUE(kept.ok()) << kept << "\nlayout " << seed;
    }
  }
}

}  // namespace
}  // namespace shardwright
