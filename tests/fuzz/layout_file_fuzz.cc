// layout.yaml and layout.json: text -> Layout.

#include <cstddef>
#include <cstdint>
#include <string>

#include "proto/plan/codec.h"
#include "proto/plan/document.h"
#include "proto/plan/layout.h"
#include "shardwright/v1/layout.pb.h"
#include "tests/fuzz/promise.h"
#include "tests/property/plan_promises.h"

namespace shardwright {
namespace {

constexpr int64_t kRanksMax = 64;  // What follows costs the square of it.

// An accepted layout means the same after the wire, whatever it is called.
void CheckAccepted(const v1::Layout& message, const Layout& layout) {
  v1::Layout back;
  Promise(back.ParseFromString(message.SerializeAsString()),
          "a layout can be parsed");
  back.set_name("another-name");
  const absl::StatusOr<Layout> again = LayoutFromProto(back);
  Promise(again.ok() && again->digest() == layout.digest(),
          "the digest does not depend on the name");
  if (layout.world_size() <= kRanksMax) Promise(CheckGroups(layout));
}

void CheckRefused(const Document& document, const Problems& problems,
                  const absl::StatusOr<Layout>& layout) {
  const std::string told = FormatProblems("f", document, problems);
  Promise(!told.empty() && told.back() == '\n', "problems can be told");
  for (const Problem& problem : problems) {
    Promise(!problem.description.empty(), "a problem has a description");
    Promise(document.LineOf(problem.field) >= 1, "a problem has a line");
  }
  Promise(!document.problems.empty() || !layout.ok(),
          "a file and the wire refuse the same");
  if (!layout.ok()) PromiseOneError(layout.status());
}

}  // namespace
}  // namespace shardwright

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shardwright;
  const std::string text(reinterpret_cast<const char*>(data), size);
  v1::Layout message;
  const Document document = ReadDocument(text, message);
  const Problems problems = CheckLayoutDocument(document, message);
  const absl::StatusOr<Layout> layout = LayoutFromProto(message);
  if (problems.empty()) {
    Promise(layout.status());
    CheckAccepted(message, *layout);
  } else {
    CheckRefused(document, problems, layout);
  }
  return 0;
}
