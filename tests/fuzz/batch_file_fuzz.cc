// batch.json and batch.yaml: text -> Batch -> the plans of all ranks.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "proto/plan/batch.h"
#include "proto/plan/codec.h"
#include "proto/plan/document.h"
#include "proto/plan/layout.h"
#include "shardwright/v1/plan.pb.h"
#include "tests/fuzz/promise.h"
#include "tests/property/plan_promises.h"
#include "tests/property/route_promises.h"

namespace shardwright {
namespace {

constexpr int64_t kTokensMax = 4096;  // What follows costs each several times.

// An encoder of two lanes and a language module.
Layout Job(int64_t tp, int64_t cp, int64_t dp, int64_t pp, bool sp) {
  LayoutSpec spec;
  spec.name = "job";
  spec.modules.resize(2);
  ModuleSpec& images = spec.modules[0];
  images.name = "images";
  images.role = Role::kEncoder;
  images.first_rank = 0;
  images.rank_count = 2;
  ModuleSpec& language = spec.modules[1];
  language.name = "language";
  language.role = Role::kLanguage;
  language.first_rank = 2;
  language.rank_count = tp * cp * dp * pp;
  language.tp = tp;
  language.cp = cp;
  language.pp = pp;
  language.sequence_parallel = sp;
  spec.world_size = 2 + *language.rank_count;
  spec.edges = {{"images", "language"}};
  return *Layout::Create(spec);
}

const std::vector<Layout>& Jobs() {
  static const auto* const jobs =
      new std::vector<Layout>{Job(1, 1, 1, 1, false), Job(2, 2, 1, 1, true),
                              Job(2, 1, 2, 2, true), Job(1, 2, 2, 1, false)};
  return *jobs;
}

}  // namespace
}  // namespace shardwright

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shardwright;
  const std::string text(reinterpret_cast<const char*>(data), size);
  v1::Batch message;
  const Document document = ReadDocument(text, message);
  const std::string told = FormatProblems("f", document, document.problems);
  Promise(told.empty() == document.problems.empty(), "problems can be told");
  const Batch batch = BatchFromProto(message);
  for (const Layout& job : Jobs()) {
    const Problems problems = CheckBatch(job, batch);
    if (!problems.empty()) {
      PromiseOneError(ProblemsToStatus("INVALID_BATCH", problems));
    } else if (batch.seq_length * batch.micro_batch_size <= kTokensMax) {
      Promise(CheckComposePlans(job, batch));
      Promise(CheckRoutes(job, batch));
    }
  }
  return 0;
}
