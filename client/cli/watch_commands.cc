#include "client/cli/watch_commands.h"

#include <unistd.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cc/backoff.h"
#include "client/cli/event_table.h"
#include "client/cli/interruption.h"
#include "client/cli/job_options.h"
#include "client/json/plan_json.h"
#include "google/protobuf/util/time_util.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;
using google::protobuf::util::TimeUtil;

constexpr absl::Duration kEventPeriod = absl::Seconds(1);

struct Options : JobOptions {
  int64_t revision = 0;
  int64_t after = 0;
};

// One of many documents, or a line; seen at once by whoever reads the pipe.
void PrintOne(const Console& console, const Options& options, const Json& json,
              const std::string& line) {
  if (options.format == OutputFormat::kYaml) console.Print("---\n");
  if (options.document()) {
    console.PrintDocument(json, options.format);
  } else {
    console.Print(line);
  }
  console.out.flush();
}

// Waits before the next try after a failure that does not last.
class Patience {
 public:
  Patience(const Console& console, Interruption& interruption)
      : console_(console), interruption_(interruption) {}

  // Whether to try again after `status`. Says so, once an outage.
  bool Wait(const absl::Status& status) {
    const bool passes = status.ok() || absl::IsUnavailable(status) ||
                        absl::IsDeadlineExceeded(status) ||
                        absl::IsResourceExhausted(status);
    if (!passes) return false;
    if (!status.ok() && !waiting_) {
      console_.err << "note: " << status.message() << "; trying again\n";
      waiting_ = true;
    }
    interruption_.SleepFor(backoff_.Next());
    return true;
  }

  void Succeeded() {
    waiting_ = false;
    backoff_.Reset();
  }

 private:
  const Console& console_;
  Interruption& interruption_;
  Backoff backoff_;
  bool waiting_ = false;
};

Json LayoutJson(const v1::GetLayoutResponse& layout) {
  return {{"revision", layout.revision()},
          {"job", layout.layout().name()},
          {"generation", layout.generation()},
          {"digest", DigestText(layout.digest())},
          {"world_size", layout.layout().world_size()},
          {"module_count", layout.layout().modules_size()},
          {"apply_time", TimeUtil::ToString(layout.apply_time())}};
}

std::string FormatLayout(const v1::GetLayoutResponse& layout) {
  return absl::StrFormat(
      "revision %d: %s has generation %d, %d ranks, digest %s\n",
      layout.revision(), layout.layout().name(), layout.generation(),
      layout.layout().world_size(), DigestText(layout.digest()));
}

absl::Status WatchLayouts(const Console& console, const Options& options) {
  Interruption interruption(STDOUT_FILENO);
  const CoordinatorClient client = options.Connect();
  RETURN_IF_ERROR(client.CheckHealth());
  Patience patience(console, interruption);
  v1::WatchLayoutsRequest request;
  request.set_job(options.job);
  request.set_revision(options.revision);
  bool first_try = true;
  for (;;) {
    const absl::Status status = client.WatchLayouts(
        request,
        [&](const v1::WatchLayoutsResponse& response) {
          PrintOne(console, options, LayoutJson(response.layout()),
                   FormatLayout(response.layout()));
          request.set_revision(response.layout().revision());
          patience.Succeeded();
          return console.out.good();
        },
        interruption.canceller());
    if (interruption.occurred()) return absl::OkStatus();
    if (ReasonOf(status) == "REVISION_AHEAD" && !first_try) {
      console.err << "note: the coordinator has another store now; beginning "
                     "again\n";
      request.set_revision(0);
    } else if (!patience.Wait(status)) {
      return status;
    }
    first_try = false;
  }
}

// Events as they come. Numbers begin again when the coordinator does, which
// may have reached any number meanwhile: so each request asks for the last
// event again, and what comes must be that one.
class EventReader {
 public:
  EventReader(CoordinatorClient client, std::string job, int64_t after)
      : client_(std::move(client)), after_(after) {
    request_.set_job(std::move(job));
    request_.set_page_size(1000);
  }

  // What is new; may be nothing.
  absl::StatusOr<std::vector<v1::Event>> Next() {
    ASSIGN_OR_RETURN(v1::ListEventsResponse response, Ask());
    if (IsOther(response)) {
      last_.reset();
      after_ = 0;
      ASSIGN_OR_RETURN(response, Ask());
    }
    std::vector<v1::Event> events;
    for (const v1::Event& event : response.events()) {
      if (event.number() > after_) events.push_back(event);
    }
    if (!events.empty()) {
      last_ = events.back();
      after_ = last_->number();
    }
    return events;
  }

 private:
  absl::StatusOr<v1::ListEventsResponse> Ask() {
    request_.set_after(last_.has_value() ? after_ - 1 : after_);
    return client_.ListEvents(request_);
  }

  // Whether it is of another coordinator than the last event.
  bool IsOther(const v1::ListEventsResponse& response) const {
    if (response.last() < after_) return true;
    if (!last_.has_value() || response.events().empty()) return false;
    const v1::Event& first = response.events(0);
    return first.number() == after_ && (TimeUtil::ToString(first.time()) !=
                                            TimeUtil::ToString(last_->time()) ||
                                        first.text() != last_->text());
  }

  const CoordinatorClient client_;
  v1::ListEventsRequest request_;
  std::optional<v1::Event> last_;
  int64_t after_;
};

absl::Status WatchEvents(const Console& console, const Options& options) {
  Interruption interruption(STDOUT_FILENO);
  EventReader reader(options.Connect(), options.job, options.after);
  Patience patience(console, interruption);
  for (bool reached = false;; reached = true) {
    const absl::StatusOr<std::vector<v1::Event>> events = reader.Next();
    if (!events.ok()) {
      if (interruption.occurred()) return absl::OkStatus();
      if (!reached || !patience.Wait(events.status())) return events.status();
      continue;
    }
    patience.Succeeded();
    for (const v1::Event& event : *events) {
      PrintOne(console, options, EventJson(event), FormatEvent(event));
    }
    if (!console.out.good()) return absl::OkStatus();
    if (!interruption.SleepFor(kEventPeriod)) return absl::OkStatus();
  }
}

}  // namespace

void AddWatchCommands(CLI::App& app, Console& console, Outcome& outcome) {
  CLI::App& watch = *app.add_subcommand(
      "watch", "Prints what happens, until it is interrupted");
  watch.require_subcommand(1);
  const auto options = std::make_shared<Options>();
  AddJobCommand(watch, "layouts", "Layouts as they are applied",
                JobNeed::kOptional, *options, console, outcome,
                [&console, options] { return WatchLayouts(console, *options); })
      .add_option("--revision", options->revision,
                  "only what came after this revision (default 0: all)")
      ->type_name("N");
  AddJobCommand(watch, "events", "What happens in a job", JobNeed::kRequired,
                *options, console, outcome,
                [&console, options] { return WatchEvents(console, *options); })
      .add_option("--after", options->after,
                  "only events after this number (default 0: all)")
      ->type_name("N");
}

}  // namespace shardwright
