// What has happened in a job, as JSON and as text.

#ifndef CLIENT_CLI_EVENT_TABLE_H_
#define CLIENT_CLI_EVENT_TABLE_H_

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "shardwright/v1/diagnostics.pb.h"

namespace shardwright {

nlohmann::ordered_json EventJson(const v1::Event& event);

// A line an event, under titles.
// A line that says how many are no longer kept; nothing for 0.
std::string FormatDropped(int64_t dropped_count);

std::string FormatEvents(const std::vector<v1::Event>& events);

// One such line by itself, for those who watch.
std::string FormatEvent(const v1::Event& event);

}  // namespace shardwright

#endif  // CLIENT_CLI_EVENT_TABLE_H_
