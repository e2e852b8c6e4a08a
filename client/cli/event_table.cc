#include "client/cli/event_table.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/text_table.h"
#include "google/protobuf/util/time_util.h"

namespace shardwright {
namespace {

using google::protobuf::util::TimeUtil;

// To the second, in UTC; JSON has more.
std::string FormatTime(google::protobuf::Timestamp time) {
  time.set_nanos(0);
  return TimeUtil::ToString(time);
}

}  // namespace

nlohmann::ordered_json EventJson(const v1::Event& event) {
  return {{"number", event.number()},
          {"time", TimeUtil::ToString(event.time())},
          {"type", event.type()},
          {"text", event.text()}};
}

std::string FormatDropped(int64_t dropped_count) {
  if (dropped_count == 0) return "";
  return absl::StrCat(dropped_count,
                      " events are no longer kept; the coordinator's log has "
                      "them\n");
}

std::string FormatEvents(const std::vector<v1::Event>& events) {
  TextTable table(
      {{"NUMBER", TextTable::Align::kRight}, {"TIME"}, {"TYPE"}, {"WHAT"}});
  for (const v1::Event& event : events) {
    table.AddRow({absl::StrCat(event.number()), FormatTime(event.time()),
                  event.type(), event.text()});
  }
  return table.Format();
}

std::string FormatEvent(const v1::Event& event) {
  return absl::StrFormat("%6d  %s  %-20s  %s\n", event.number(),
                         FormatTime(event.time()), event.type(), event.text());
}

}  // namespace shardwright
