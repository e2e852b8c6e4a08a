#include "coordinator/core/event_log.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/core/page.h"
#include "proto/time/proto_time.h"

namespace shardwright {
namespace {

constexpr size_t kTextBytesMax = 1024;
constexpr size_t kRangesBytesMax = 512;

// False, and nothing is added, if it is among them or they would be too many.
bool AddRank(int64_t rank, std::vector<RankRange>& ranges) {
  const auto next = std::upper_bound(ranges.begin(), ranges.end(), rank,
                                     [](int64_t value, const RankRange& range) {
                                       return value < range.first;
                                     });
  const auto before = next == ranges.begin() ? ranges.end() : next - 1;
  if (before != ranges.end() && before->last >= rank) return false;
  const bool follows = before != ranges.end() && before->last + 1 == rank;
  const bool precedes = next != ranges.end() && next->first - 1 == rank;
  if (follows && precedes) {
    before->last = next->last;
    ranges.erase(next);
  } else if (follows) {
    before->last = rank;
  } else if (precedes) {
    next->first = rank;
  } else {
    if (ranges.size() == kEventRangesMax) return false;
    ranges.insert(next, {rank, rank});
  }
  return true;
}

}  // namespace

bool EventLog::Fold(const LogEntry& entry, absl::Time now, Job& job) {
  if (!entry.member.has_value() || job.events.empty()) return false;
  Kept& kept = job.events.back();
  if (kept.first.type != entry.type || !kept.first.member.has_value() ||
      kept.first.member->same != entry.member->same ||
      now - kept.begin >= kEventBurst ||
      kept.event.number() <= job.told_number ||
      !AddRank(entry.member->rank, kept.ranges)) {
    return false;
  }
  ++kept.member_count;
  return true;
}

void EventLog::Add(const LogEntry& entry, absl::Time now) {
  if (entry.job.empty()) return;
  Job& job = jobs_[entry.job];
  if (Fold(entry, now, job)) return;
  Kept& kept = job.events.emplace_back();
  kept.begin = now;
  kept.first = entry;
  if (entry.member.has_value()) {
    kept.ranges = {{entry.member->rank, entry.member->rank}};
    kept.member_count = 1;
  }
  kept.event.set_number(++last_number_);
  *kept.event.mutable_time() = ToProto(now);
  kept.event.set_type(entry.type);
  if (job.events.size() > kEventsPerJobMax) {
    ++job.dropped_count;
    job.dropped_number = job.events.front().event.number();
    job.events.pop_front();
  }
}

v1::ListEventsResponse EventLog::List(const v1::ListEventsRequest& request) {
  v1::ListEventsResponse response;
  response.set_last(last_number_);
  const auto found = jobs_.find(request.job());
  if (found == jobs_.end()) return response;
  Job& job = found->second;
  // A caller that is ahead knows the numbers of an earlier term.
  const int64_t after = request.after() > last_number_ ? 0 : request.after();
  if (after < job.dropped_number) response.set_dropped_count(job.dropped_count);
  auto kept = std::upper_bound(
      job.events.begin(), job.events.end(), after,
      [](int64_t number, const Kept& k) { return number < k.event.number(); });
  const int page_size = PageSize(request.page_size(), 100, 1000);
  for (; kept != job.events.end(); ++kept) {
    if (response.events_size() == page_size) {
      response.set_last(response.events(page_size - 1).number());
      break;
    }
    v1::Event& event = *response.add_events() = kept->event;
    const LogEntry& first = kept->first;
    event.set_text(CutText(
        kept->member_count <= 1
            ? first.text
            : absl::StrCat(
                  "job=", first.job, " ranks=",
                  CompressRanges(kept->ranges, kRangesBytesMax).ranges(),
                  " members=", kept->member_count, " ", first.member->same),
        kTextBytesMax));
  }
  if (response.events_size() > 0) {
    job.told_number = std::max(
        job.told_number, response.events(response.events_size() - 1).number());
  }
  return response;
}

}  // namespace shardwright
