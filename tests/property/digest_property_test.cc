// A digest is equal wherever layout and batch mean the same, and differs
// wherever they do not.

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/planner/planner.h"
#include "gtest/gtest.h"
#include "proto/status/status_macros.h"
#include "tests/property/random_values.h"

namespace shardwright {
namespace {

absl::StatusOr<uint64_t> DigestOf(const LayoutSpec& spec, const Batch& batch) {
  ASSIGN_OR_RETURN(const Layout layout, Layout::Create(spec));
  ASSIGN_OR_RETURN(const ShardPlan plan,
                   PlanCompose(layout, layout.language().RankAt(0), batch));
  return plan.digest;
}

// Ways to write the same layout.
void WriteOut(ModuleSpec& module) {
  for (std::optional<int64_t>* size :
       {&module.tp, &module.gtp_remat, &module.cp, &module.pp, &module.ep,
        &module.expert_tp, &module.expert_gtp_remat}) {
    if (!size->has_value()) *size = 1;
  }
  if (module.order.empty()) module.order = "tp-gtp_remat-cp-ep-dp-pp";
  if (!module.ranks.empty()) return;
  for (int64_t i = 0; i < *module.rank_count; ++i) {
    module.ranks.push_back(*module.first_rank + i);
  }
  module.first_rank.reset();
  module.rank_count.reset();
}

TEST(DigestPropertyTest, DoesNotDependOnNamesDefaultsAndChecks) {
  ForSeeds(1000, [](RandomValues& random) -> absl::Status {
    LayoutSpec spec = random.SomeLayout();
    ASSIGN_OR_RETURN(const Layout layout, Layout::Create(spec));
    Batch batch = random.SomeBatch(layout);
    ASSIGN_OR_RETURN(const uint64_t digest, DigestOf(spec, batch));
    spec.name = "another-name";
    for (ModuleSpec& module : spec.modules) WriteOut(module);
    std::reverse(spec.edges.begin(), spec.edges.end());
    batch.counts.clear();
    ASSIGN_OR_RETURN(const uint64_t again, DigestOf(spec, batch));
    return again == digest ? absl::OkStatus()
                           : absl::InternalError("one meaning, two digests");
  });
}

// Each changes what some rank owns or brings. False: not this layout or batch.
using Change = bool (*)(RandomValues&, LayoutSpec&, Batch&);

const std::pair<const char*, Change> kChanges[] = {
    {"a token",
     [](RandomValues& random, LayoutSpec&, Batch& batch) {
       auto& sample = batch.samples[random.Number(0, batch.samples.size() - 1)];
       sample[random.Number(0, sample.size() - 1)] += 1000;
       batch.encoder_rows.clear();
       batch.counts.clear();
       return true;
     }},
    {"a special token id",
     [](RandomValues&, LayoutSpec&, Batch& batch) {
       if (batch.special_token_ids.empty()) return false;
       auto& [name, id] = *batch.special_token_ids.begin();
       for (auto& sample : batch.samples) {
         std::replace(sample.begin(), sample.end(), id, int64_t{999});
       }
       id = 999;
       return true;
     }},
    {"a modality's name",
     [](RandomValues&, LayoutSpec&, Batch& batch) {
       if (batch.special_token_ids.empty()) return false;
       const auto first = *batch.special_token_ids.begin();
       batch.special_token_ids.erase(first.first);
       batch.special_token_ids["zebra"] = first.second;
       batch.encoder_rows.clear();
       batch.counts.clear();
       return true;
     }},
    {"where documents begin",
     [](RandomValues&, LayoutSpec&, Batch& batch) {
       if (batch.cu_seqlens_padded.empty()) return false;
       batch.cu_seqlens_padded[0].push_back(batch.seq_length);
       return true;
     }},
    {"dense or THD",
     [](RandomValues&, LayoutSpec& spec, Batch& batch) {
       if (batch.micro_batch_size != 1 || !batch.cu_seqlens_padded.empty()) {
         return false;
       }
       const Layout layout = *Layout::Create(spec);
       batch.cu_seqlens_padded.assign(layout.language().lane_count(),
                                      {0, batch.seq_length});
       return true;
     }},
    {"what encoder lanes hold",
     [](RandomValues&, LayoutSpec&, Batch& batch) {
       for (auto& [name, rows] : batch.encoder_rows) {
         if (rows.size() > 1 && rows[0] != rows[1]) {
           std::swap(rows[0], rows[1]);
           return true;
         }
       }
       return false;
     }},
    {"sequence parallelism",
     [](RandomValues&, LayoutSpec& spec, Batch&) {
       // Without it every length that was valid stays so.
       if (!spec.modules[0].sequence_parallel) return false;
       spec.modules[0].sequence_parallel = false;
       return true;
     }},
    {"the order of ranks",
     [](RandomValues&, LayoutSpec& spec, Batch&) {
       std::vector<Rank>& ranks = spec.modules[0].ranks;
       if (ranks.size() < 2) return false;
       std::swap(ranks[0], ranks[1]);
       return true;
     }},
    {"an encoder's grid",
     [](RandomValues&, LayoutSpec& spec, Batch& batch) {
       if (spec.modules.size() < 2) return false;
       ModuleSpec& encoder = spec.modules[1];
       if (encoder.tp.value_or(1) == encoder.cp.value_or(1)) return false;
       std::swap(encoder.tp, encoder.cp);
       encoder.order = "";
       encoder.ep = encoder.expert_tp = encoder.expert_gtp_remat = {};
       batch.encoder_rows.clear();
       return true;
     }},
    {"an edge",
     [](RandomValues&, LayoutSpec& spec, Batch&) {
       if (spec.edges.empty()) return false;
       spec.edges.pop_back();
       return true;
     }},
};

TEST(DigestPropertyTest, DiffersWhenAnythingThatMattersDoes) {
  for (const auto& [what, change] : kChanges) {
    SCOPED_TRACE(what);
    int changed = 0;
    ForSeeds(200, [&, change = change](RandomValues& random) -> absl::Status {
      LayoutSpec spec = random.SomeLayout();
      ASSIGN_OR_RETURN(const Layout layout, Layout::Create(spec));
      Batch batch = random.SomeBatch(layout);
      ASSIGN_OR_RETURN(const uint64_t digest, DigestOf(spec, batch));
      if (!change(random, spec, batch)) return absl::OkStatus();
      ++changed;
      ASSIGN_OR_RETURN(const uint64_t other, DigestOf(spec, batch));
      return other != digest ? absl::OkStatus()
                             : absl::InternalError("two meanings, one digest");
    });
    // One seed alone may have nothing to change.
    EXPECT_TRUE(changed > 10 || std::getenv("SHARDWRIGHT_SEED") != nullptr);
  }
}

ModuleSpec Span(const char* name, Role role, Rank first, int64_t count) {
  ModuleSpec module;
  module.name = name;
  module.role = role;
  module.first_rank = first;
  module.rank_count = count;
  return module;
}

std::vector<LayoutSpec> PinnedLayouts() {
  std::vector<LayoutSpec> specs(4);
  specs[0] = {"lone", 1, {Span("language", Role::kLanguage, 0, 1)}, {}};
  specs[1] = {"vlm",
              8,
              {Span("images", Role::kEncoder, 0, 4),
               Span("language", Role::kLanguage, 4, 4)},
              {{"images", "language"}}};
  specs[1].modules[0].tp = 2;
  specs[1].modules[1].tp = specs[1].modules[1].cp = 2;
  specs[1].modules[1].sequence_parallel = true;
  specs[2] = {"moe", 16, {Span("language", Role::kLanguage, 0, 16)}, {}};
  ModuleSpec& moe = specs[2].modules[0];
  moe.tp = moe.pp = moe.gtp_remat = moe.cp = moe.expert_tp = 2;
  moe.ep = 4;
  moe.order = "cp-tp-gtp_remat-dp-pp";
  specs[3] = specs[1];
  ModuleSpec& listed = specs[3].modules[1];
  listed.first_rank.reset();
  listed.rank_count.reset();
  listed.ranks = {7, 5, 6, 4};
  return specs;
}

// Digests cross hosts and releases: these values may never change.
TEST(DigestPropertyTest, IsPinned) {
  const uint64_t kPinned[][4] = {
      {17789871899072780965u, 8667029800141276365u, 10845105653191438875u,
       9876218883023290646u},
      {1859988822311760912u, 2291708492331886141u, 5536239109646917011u,
       9103205623017539297u},
      {11534160941287963997u, 6611752108550057973u, 5525509301458592070u,
       12842857075546010283u},
      {7347977049792832359u, 9842850243468424211u, 15912253245277167173u,
       17574231104986529780u},
  };
  const std::vector<LayoutSpec> specs = PinnedLayouts();
  for (size_t i = 0; i < specs.size(); ++i) {
    SCOPED_TRACE(specs[i].name);
    const Layout layout = *Layout::Create(specs[i]);
    const Rank rank = layout.language().RankAt(0);
    const int64_t lanes = layout.language().lane_count();
    Batch batch;
    batch.micro_batch_size = 1;
    batch.seq_length = 8;
    batch.special_token_ids = {{"audio", 502}, {"images", 501}};
    batch.samples.assign(lanes, {1, 501, 501, 2, 502, 4, 5, 6});
    Batch packed = batch;
    packed.cu_seqlens_padded.assign(lanes, {0, 4, 4, 8});
    EXPECT_EQ(layout.digest(), kPinned[i][0]);
    EXPECT_EQ(PlanShard(layout, rank, {16, 2, {}, {}})->digest, kPinned[i][1]);
    EXPECT_EQ(PlanCompose(layout, rank, batch)->digest, kPinned[i][2]);
    EXPECT_EQ(PlanCompose(layout, rank, packed)->digest, kPinned[i][3]);
  }
}

}  // namespace
}  // namespace shardwright
