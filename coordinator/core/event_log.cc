#include "coordinator/core/event_log.h"

#include <algorithm>

#include "coordinator/core/page.h"
#include "coordinator/core/proto_time.h"
#include "proto/status/error.h"

namespace shardwright {
namespace {

constexpr size_t kTextBytesMax = 1024;

}  // namespace

void EventLog::Add(const LogEntry& entry, absl::Time now) {
  if (entry.job.empty()) return;
  std::deque<v1::Event>& events = events_[entry.job];
  v1::Event& event = events.emplace_back();
  event.set_number(++last_number_);
  *event.mutable_time() = ToProto(now);
  event.set_type(entry.type);
  event.set_text(CutText(entry.text, kTextBytesMax));
  if (events.size() > kEventsPerJobMax) events.pop_front();
}

v1::ListEventsResponse EventLog::List(
    const v1::ListEventsRequest& request) const {
  v1::ListEventsResponse response;
  response.set_last(last_number_);
  const auto job = events_.find(request.job());
  if (job == events_.end()) return response;
  // A caller that is ahead knows the numbers of an earlier term.
  const int64_t after = request.after() > last_number_ ? 0 : request.after();
  auto event = std::upper_bound(
      job->second.begin(), job->second.end(), after,
      [](int64_t number, const v1::Event& e) { return number < e.number(); });
  const int page_size = PageSize(request.page_size(), 100, 1000);
  for (; event != job->second.end(); ++event) {
    if (response.events_size() == page_size) {
      response.set_last(response.events(page_size - 1).number());
      break;
    }
    *response.add_events() = *event;
  }
  return response;
}

}  // namespace shardwright
