#include "client/cli/watch_commands.h"

#include <unistd.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

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

// Events as they come, of one coordinator after another.
class EventReader {
 public:
  EventReader(CoordinatorClient client, std::string job, int64_t after)
      : client_(std::move(client)) {
    request_.set_job(std::move(job));
    request_.set_after(after);
    request_.set_page_size(1000);
  }

  // What is new; may be nothing.
  absl::StatusOr<v1::ListEventsResponse> Next() {
    ASSIGN_OR_RETURN(v1::ListEventsResponse response,
                     client_.ListEvents(request_));
    if (term_ != 0 && response.term() != term_) {
      // It may have reached any number meanwhile.
      request_.set_after(0);
      ASSIGN_OR_RETURN(response, client_.ListEvents(request_));
    }
    term_ = response.term();
    request_.set_after(response.last());
    return response;
  }

 private:
  const CoordinatorClient client_;
  v1::ListEventsRequest request_;
  int64_t term_ = 0;  // 0: not known yet.
};

absl::Status WatchEvents(const Console& console, const Options& options) {
  Interruption interruption(STDOUT_FILENO);
  EventReader reader(options.Connect(), options.job, options.after);
  Patience patience(console, interruption);
  int64_t dropped_count = 0;
  for (bool reached = false;; reached = true) {
    const absl::StatusOr<v1::ListEventsResponse> news = reader.Next();
    if (!news.ok()) {
      if (interruption.occurred()) return absl::OkStatus();
      if (!reached || !patience.Wait(news.status())) return news.status();
      continue;
    }
    patience.Succeeded();
    if (news->dropped_count() > dropped_count) {
      dropped_count = news->dropped_count();
      console.err << FormatDropped(dropped_count);
    }
    for (const v1::Event& event : news->events()) {
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
      ->transform(Integer())
      ->type_name("N");
  AddJobCommand(watch, "events", "What happens in a job", JobNeed::kRequired,
                *options, console, outcome,
                [&console, options] { return WatchEvents(console, *options); })
      .add_option("--after", options->after,
                  "only events after this number (default 0: all)")
      ->transform(Integer())
      ->type_name("N");
}

}  // namespace shardwright
