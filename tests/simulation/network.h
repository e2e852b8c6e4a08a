// The network between processes and the coordinator, with gRPC's promises and
// no others: a unary call ends once, and its request may arrive late, twice, or
// though the caller was told that it failed; a stream keeps its order until it
// breaks, and its ends learn of that at different times.

#ifndef TESTS_SIMULATION_NETWORK_H_
#define TESTS_SIMULATION_NETWORK_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/simulation/coordinator.h"
#include "tests/simulation/options.h"
#include "tests/simulation/random.h"
#include "tests/simulation/step.h"
#include "tests/simulation/timeline.h"

namespace shardwright {
namespace simulation {

// One process's way to the coordinator.
struct Link {
  bool cut = false;
};

class Network {
 public:
  // What a client is told; it stops with `on_end`, or when it closes the call.
  struct Listener {
    std::function<void(const StreamEffect&)> on_message;
    std::function<void(const absl::Status&)> on_end;
  };

  // A parked call.
  struct Stream {
    std::shared_ptr<Link> link;
    Listener listener;
    bool is_session = false;
    StreamId id = 0;  // 0: the request has not arrived.
    bool client_done = false;
    bool broken = false;
    absl::Time to_server, to_client;  // When the last message arrives.
  };
  using StreamPtr = std::shared_ptr<Stream>;

  // All must outlive it; `options` may change.
  Network(Timeline& timeline, Random& random, const Options& options,
          Coordinator& coordinator);

  void Call(const std::shared_ptr<Link>& link, const Request& request,
            std::function<void(const Step&)> done);
  void GetLayout(const std::shared_ptr<Link>& link, const std::string& job,
                 std::function<void(const absl::StatusOr<JobLayout>&)> done);

  StreamPtr Open(const std::shared_ptr<Link>& link, const Request& request,
                 Listener listener);
  void Send(const StreamPtr& stream, const Request& request);

  // Somebody opens a session and says nothing.
  void OpenSilent();
  void Close(const StreamPtr& stream);

  // From the coordinator.
  void OnEffect(const StreamEffect& effect);
  void OnCrash();

 private:
  absl::Duration Delay();
  bool Loses(const Link& link);
  void Remember(const Request& request);
  void Replay(Request request);
  void Forge(Request& request);
  void ToServer(const StreamPtr& stream, const Request& request);
  void Arrive(const StreamPtr& stream, const Request& request);
  void ToClient(const StreamPtr& stream, std::function<void()> what);
  void End(const StreamPtr& stream, const absl::Status& status);
  void Break(const StreamPtr& stream);
  void ServerLearnsOfEnd(const StreamPtr& stream);
  template <typename Answer>
  void Unary(const std::shared_ptr<Link>& link, std::function<Answer()> serve,
             const Answer& lost, std::function<void(const Answer&)> done);

  Timeline& timeline_;
  Random& random_;
  const Options& options_;
  Coordinator& coordinator_;
  StreamId last_stream_ = 0;
  std::map<StreamId, StreamPtr> streams_;  // As the server sees them.
  std::vector<Request> history_;           // Requests of the past.
};

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_NETWORK_H_
